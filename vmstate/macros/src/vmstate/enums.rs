//! `derive(VmEnum)`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, LitStr, Result};

use super::marks::{each_attribute, kebab_case, literal_name, refuse_generics, set};

/// Writes the impls of `VmEnum` and `VmField` for a fieldless enum.
pub(crate) fn derive_enum(input: &DeriveInput) -> Result<TokenStream> {
    refuse_generics(input)?;
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "VmEnum is for fieldless enums; a struct derives VmState",
        ));
    };
    if data.variants.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            "an enum without variants has no values to save",
        ));
    }
    let (mut idents, mut names) = (Vec::new(), Vec::<LitStr>::new());
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(
                variant,
                "a variant with fields cannot be saved; use a struct beside the enum",
            ));
        }
        let mut name = None;
        each_attribute(&variant.attrs, &mut |meta| match () {
            () if meta.path.is_ident("name") => set(&mut name, &meta, literal_name(&meta)?),
            () => Err(meta.error("unknown attribute; a variant may have `name = \"...\"`")),
        })?;
        let name = name.unwrap_or_else(|| LitStr::new(&kebab_case(&variant.ident), variant.ident.span()));
        if names.iter().any(|other| other.value() == name.value()) {
            return Err(Error::new(
                name.span(),
                format!("two variants are named `{}`", name.value()),
            ));
        }
        idents.push(&variant.ident);
        names.push(name);
    }
    let ident = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl ::vmstate::state::VmEnum for #ident {
            const VARIANTS: &'static [&'static str] = &[#(#names),*];

            fn variant(&self) -> &'static str {
                match self { #(Self::#idents => #names),* }
            }

            fn from_variant(name: &str) -> ::std::option::Option<Self> {
                match name {
                    #(#names => ::std::option::Option::Some(Self::#idents),)*
                    _ => ::std::option::Option::None,
                }
            }
        }

        #[automatically_derived]
        impl ::vmstate::state::VmField for #ident {
            fn wire_type() -> ::vmstate::state::WireType {
                ::vmstate::state::derived::enum_wire_type::<Self>()
            }

            fn to_value(&self) -> ::vmstate::state::Value {
                ::vmstate::state::derived::enum_to_value(self)
            }

            fn from_value(
                value: &::vmstate::state::Value,
            ) -> ::std::result::Result<Self, ::vmstate::state::StateError> {
                ::vmstate::state::derived::enum_from_value(value)
            }
        }
    })
}
