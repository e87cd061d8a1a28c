//! `derive(VmState)` and `derive(VmEnum)`.
//!
//! What the attributes mean is documented where `vmstate` re-exports the derives. Here they are parsed, mistakes are
//! reported at the attribute that makes them, and code is written that calls `vmstate::state::derived`.

mod enums;
mod marks;

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{
    Data, DeriveInput, Error, Expr, ExprRange, Field, Fields, GenericArgument, Ident, LitStr, Path, PathArguments,
    Result, Type,
};

pub(crate) use self::enums::derive_enum;
use self::marks::{Container, Marks, refuse_generics};

/// Writes the impls of `VmState` and `VmField` for a struct.
pub(crate) fn derive_state(input: &DeriveInput) -> Result<TokenStream> {
    refuse_generics(input)?;
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            "VmState is for structs; a fieldless enum derives VmEnum",
        ));
    };
    let members = match &data.fields {
        Fields::Named(fields) => &fields.named,
        _ => {
            return Err(Error::new_spanned(
                &input.ident,
                "a VmState struct has named fields: they are its wire names",
            ));
        }
    };
    let container = Container::parse(input)?;
    let mut fields = members
        .iter()
        .map(|field| Member::parse(field, &container))
        .collect::<Result<Vec<_>>>()?;
    refuse_duplicates(&fields)?;
    name_lengths(&mut fields);

    let ident = &input.ident;
    let Container {
        name,
        version,
        minimum_version,
        priority,
    } = &container;
    let schemas = fields.iter().filter_map(Member::field_schema);
    let subsections = fields.iter().filter_map(Member::subsection_schema);
    let puts: TokenStream = fields.iter().map(Member::put).collect();
    let mutable = (!puts.is_empty()).then(|| quote!(mut));
    let takes = fields.iter().map(Member::take);
    Ok(quote! {
        #[automatically_derived]
        impl ::vmstate::state::VmState for #ident {
            const NAME: &'static str = #name;

            fn schema() -> &'static ::vmstate::state::Schema {
                static SCHEMA: ::std::sync::OnceLock<::vmstate::state::Schema> = ::std::sync::OnceLock::new();
                SCHEMA.get_or_init(|| ::vmstate::state::derived::schema(::vmstate::state::Description {
                    name: ::vmstate::state::Name::from(#name),
                    version: #version,
                    minimum_version: #minimum_version,
                    priority: #priority,
                    fields: ::std::vec![#(#schemas),*],
                    subsections: ::std::vec![#(#subsections),*],
                }))
            }

            fn to_value(&self) -> ::vmstate::state::StructValue {
                let #mutable value = ::vmstate::state::StructValue::new(#version);
                #puts
                value
            }

            fn from_value(
                value: &::vmstate::state::StructValue,
            ) -> ::std::result::Result<Self, ::vmstate::state::StateError> {
                ::vmstate::state::derived::check_version::<Self>(value)?;
                ::std::result::Result::Ok(Self { #(#takes),* })
            }
        }

        #[automatically_derived]
        impl ::vmstate::state::VmField for #ident {
            fn wire_type() -> ::vmstate::state::WireType {
                ::vmstate::state::derived::struct_wire_type::<Self>()
            }

            fn to_value(&self) -> ::vmstate::state::Value {
                ::vmstate::state::Value::Struct(::vmstate::state::VmState::to_value(self))
            }

            fn from_value(
                value: &::vmstate::state::Value,
            ) -> ::std::result::Result<Self, ::vmstate::state::StateError> {
                ::vmstate::state::derived::struct_from_value(value)
            }
        }
    })
}

/// Has each `length` go by the name that its field has in the description, which need not be the one in the source.
fn name_lengths(fields: &mut [Member<'_>]) {
    let names: Vec<_> = fields
        .iter()
        .map(|field| (field.ident.clone(), field.name.value()))
        .collect();
    for field in fields {
        if let Role::Described(described) = &mut field.role
            && let Some(length) = &described.length
        {
            let named = names.iter().find(|(ident, _)| ident == length);
            // One that is not there is found by the compiler, where its value is taken.
            described.length_name = Some(named.map_or_else(|| length.unraw().to_string(), |(_, name)| name.clone()));
        }
    }
}

/// One field of the struct, and what becomes of it.
struct Member<'a> {
    ident: &'a Ident,
    name: LitStr,
    role: Role<'a>,
}

enum Role<'a> {
    /// A field of the description.
    Described(Box<Described<'a>>),
    /// A subsection of the description, sent always or when a function of the struct says so.
    Subsection { ty: &'a Type, needed: Option<Path> },
    /// No state: made anew when a value is loaded.
    Skipped,
}

struct Described<'a> {
    /// The type that is written: of a field that may be absent, what its option holds.
    ty: &'a Type,
    max: Option<Expr>,
    /// The field of the struct that says how many elements of the array are state.
    length: Option<Ident>,
    /// What the description calls that field.
    length_name: Option<String>,
    range: Option<ExprRange>,
    must_equal: Option<LitStr>,
    skip_when_default: bool,
    since: u32,
    until: Option<u32>,
    may_be_absent: bool,
    default: Option<Expr>,
}

impl<'a> Member<'a> {
    fn parse(field: &'a Field, container: &Container) -> Result<Self> {
        let ident = field
            .ident
            .as_ref()
            .ok_or_else(|| Error::new_spanned(field, "a field without a name"))?;
        let marks = Marks::parse(field)?;
        let name = marks
            .name
            .clone()
            .unwrap_or_else(|| LitStr::new(&ident.unraw().to_string(), ident.span()));
        let role = match (&marks.skip, &marks.subsection) {
            (None, None) => Role::Described(Box::new(Described::new(field, &marks, container)?)),
            _ if marks.describe_a_field() => {
                return Err(Error::new_spanned(
                    ident,
                    "this attribute is not possible with `skip` or `subsection`",
                ));
            }
            (Some(()), None) => Role::Skipped,
            (None, Some(needed)) => Role::Subsection {
                ty: &field.ty,
                needed: needed.clone(),
            },
            (Some(()), Some(_)) => {
                return Err(Error::new_spanned(
                    ident,
                    "a field cannot be skipped and a subsection at once",
                ));
            }
        };
        Ok(Self { ident, name, role })
    }

    fn field_schema(&self) -> Option<TokenStream> {
        let Role::Described(field) = &self.role else {
            return None;
        };
        let (name, ty, form) = (&self.name, field.ty, field.form());
        let constructor = if field.may_be_absent {
            quote!(absentable_field)
        } else {
            quote!(field)
        };
        let base = quote!(::vmstate::state::derived::#constructor::<#form, #ty>(#name));
        let mut changes = Vec::new();
        let since = field.since;
        if since > 1 {
            changes.push(quote!(since: #since));
        }
        if let Some(until) = field.until {
            changes.push(quote!(until: ::std::option::Option::Some(#until)));
        }
        if let Some(default) = &field.default {
            changes.push(quote!(default: ::std::option::Option::Some({
                let default: #ty = #default;
                <#form as ::vmstate::state::derived::FieldForm<#ty>>::to_value(&default)
            })));
        }
        if field.skip_when_default {
            changes.push(quote!(skip_when_default: true));
        }
        if let Some(ExprRange { start, end, .. }) = &field.range {
            changes.push(quote!(range: ::std::option::Option::Some((
                ::vmstate::state::MapKey::from(#start), ::vmstate::state::MapKey::from(#end)
            ))));
        }
        if let Some(length) = &field.length_name {
            changes.push(quote!(length: ::std::option::Option::Some(::vmstate::state::Name::from(#length))));
        }
        if let Some(hint) = &field.must_equal {
            changes.push(quote!(must_equal: ::std::option::Option::Some(::std::string::String::from(#hint))));
        }
        Some(match changes[..] {
            [] => base,
            _ => quote!(::vmstate::state::FieldSchema { #(#changes,)* ..#base }),
        })
    }

    fn subsection_schema(&self) -> Option<TokenStream> {
        let Role::Subsection { ty, needed } = &self.role else {
            return None;
        };
        let (name, optional) = (&self.name, needed.is_some());
        Some(quote!(::vmstate::state::derived::subsection::<#ty>(#name, #optional)))
    }

    /// The statement of `to_value`.
    fn put(&self) -> TokenStream {
        let (ident, name) = (self.ident, &self.name);
        match &self.role {
            Role::Skipped => quote!(),
            // Retired: current versions do not write it.
            Role::Described(field) if field.until.is_some() => quote!(),
            Role::Described(field) => {
                let (ty, form) = (field.ty, field.form());
                let to_value = quote!(<#form as ::vmstate::state::derived::FieldForm<#ty>>::to_value);
                if let Some(length) = &field.length {
                    let counted = quote!(::vmstate::state::derived::counted_to_value(&self.#ident, self.#length));
                    quote!(::vmstate::state::derived::put(&mut value, #name, #counted);)
                } else if let (true, Some(default)) = (field.skip_when_default, &field.default) {
                    quote!({
                        let default: #ty = #default;
                        let (given, default) = (#to_value(&self.#ident), #to_value(&default));
                        if given != default {
                            ::vmstate::state::derived::put(&mut value, #name, given);
                        }
                    })
                } else if field.may_be_absent {
                    quote!(if let ::std::option::Option::Some(field) = &self.#ident {
                        ::vmstate::state::derived::put(&mut value, #name, #to_value(field));
                    })
                } else {
                    quote!(::vmstate::state::derived::put(&mut value, #name, #to_value(&self.#ident));)
                }
            }
            Role::Subsection { ty, needed } => {
                let put = quote!(::vmstate::state::derived::put_subsection::<#ty>(&mut value, #name, &self.#ident););
                match needed {
                    Some(needed) => quote!(if #needed(self) { #put }),
                    None => put,
                }
            }
        }
    }

    /// The initialiser in `from_value`.
    fn take(&self) -> TokenStream {
        let (ident, name) = (self.ident, &self.name);
        match &self.role {
            Role::Skipped => quote!(#ident: ::std::default::Default::default()),
            Role::Subsection { ty, .. } => {
                quote!(#ident: ::vmstate::state::derived::take_subsection::<#ty>(value, #name)?)
            }
            Role::Described(field) => {
                let (ty, form) = (field.ty, field.form());
                let from_value = quote!(<#form as ::vmstate::state::derived::FieldForm<#ty>>::from_value);
                let if_there = quote!(::vmstate::state::derived::take_if_there(value, #name, #from_value)?);
                match (&field.default, field.until) {
                    _ if field.may_be_absent => quote!(#ident: #if_there),
                    (Some(default), None) if field.skip_when_default => {
                        quote!(#ident: #if_there.unwrap_or_else(|| #default))
                    }
                    (Some(default), Some(_)) => quote!(#ident: #if_there.unwrap_or_else(|| #default)),
                    _ => quote!(#ident: ::vmstate::state::derived::take(value, #name, #from_value)?),
                }
            }
        }
    }
}

impl<'a> Described<'a> {
    fn new(field: &'a Field, marks: &Marks, container: &Container) -> Result<Self> {
        let fault = |message: String| Err(Error::new_spanned(field, message));
        let may_be_absent = marks.may_be_absent.is_some();
        let ty = match option_contents(&field.ty) {
            Some(contents) if may_be_absent => contents,
            None if may_be_absent => return fault("a field that may be absent is of type `Option<...>`".into()),
            _ => &field.ty,
        };
        let since = marks.since.unwrap_or(1);
        let Container {
            version,
            minimum_version,
            ..
        } = *container;
        if !(1..=version).contains(&since) {
            return fault(format!(
                "`since` is between 1 and the version of the struct, which is {version}"
            ));
        }
        if marks.until.is_some_and(|until| until <= since || until > version) {
            return fault(format!(
                "`until` is the first version without the field: {} to {version}",
                since + 1
            ));
        }
        if may_be_absent && marks.default.is_some() {
            return fault("a field that may be absent is `None` by default; leave out `default`".into());
        }
        let substituted = may_be_absent || marks.default.is_some();
        if marks.until.is_some() && !substituted {
            return fault("a retired field needs a `default` for the versions that no longer have it".into());
        }
        if since > minimum_version && !substituted {
            return fault(format!(
                "a field that version {minimum_version} does not have needs a `default`, \
                 or the struct `minimum_version = {since}`"
            ));
        }
        let skip_when_default = marks.skip_when_default.is_some();
        if skip_when_default && (marks.default.is_none() || marks.until.is_some()) {
            return fault(
                "a field that is left out when it has its default needs a `default`, and is not retired".into(),
            );
        }
        if marks.length.is_some()
            && (skip_when_default || may_be_absent || marks.max.is_some() || marks.until.is_some())
        {
            return fault("`length` is for an array `[T; N]` that is always there; its most elements are N".into());
        }
        let default = marks.default.as_ref().map(|given| match given {
            Some(expression) => expression.clone(),
            None => syn::parse_quote!(<#ty as ::std::default::Default>::default()),
        });
        Ok(Self {
            ty,
            max: marks.max.clone(),
            length: marks.length.clone(),
            length_name: None,
            range: marks.range.clone(),
            must_equal: marks.must_equal.clone(),
            skip_when_default,
            since,
            until: marks.until,
            may_be_absent,
            default,
        })
    }

    /// The type of `vmstate::state::derived` that knows how the field is written.
    fn form(&self) -> TokenStream {
        match &self.max {
            Some(max) => quote!(::vmstate::state::derived::Max<{ #max }>),
            None if self.length.is_some() => quote!(::vmstate::state::derived::Counted),
            None => quote!(::vmstate::state::derived::Plain),
        }
    }
}

/// The `T` of an `Option<T>`.
fn option_contents(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Option")?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else {
        return None;
    };
    match arguments.args.first()? {
        GenericArgument::Type(contents) => Some(contents),
        _ => None,
    }
}

fn refuse_duplicates(fields: &[Member]) -> Result<()> {
    for (i, field) in fields.iter().enumerate() {
        let described = |member: &Member| !matches!(member.role, Role::Skipped);
        let same = |other: &&Member| described(other) && other.name.value() == field.name.value();
        if described(field) && fields[..i].iter().any(|other| same(&other)) {
            return Err(Error::new(
                field.name.span(),
                format!("two fields are named `{}`", field.name.value()),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::marks::kebab_case;
    use super::*;
    use syn::parse_quote;

    fn refusal(input: &DeriveInput) -> String {
        let derived = if matches!(input.data, Data::Enum(_)) {
            derive_enum(input)
        } else {
            derive_state(input)
        };
        derived.expect_err("it should be refused").to_string()
    }

    #[test]
    fn a_type_is_named_in_kebab_case() {
        assert_eq!(kebab_case(&parse_quote!(RtcState)), "rtc-state");
        assert_eq!(kebab_case(&parse_quote!(X86Cpu)), "x86-cpu");
        assert_eq!(kebab_case(&parse_quote!(r#Type)), "type");
    }

    #[test]
    fn a_field_of_a_later_version_needs_a_default() {
        let input = parse_quote! { #[vmstate(version = 2)] struct S { #[vmstate(since = 2)] a: u8 } };
        assert!(refusal(&input).contains("needs a `default`"));
        let raised = parse_quote! {
            #[vmstate(version = 2, minimum_version = 2)] struct S { #[vmstate(since = 2)] a: u8 }
        };
        assert!(derive_state(&raised).is_ok());
    }

    #[test]
    fn a_field_lives_within_the_versions_of_its_struct() {
        let late = parse_quote! { struct S { #[vmstate(since = 2, default)] a: u8 } };
        assert!(refusal(&late).contains("`since` is between 1 and"));
        let early = parse_quote! {
            #[vmstate(version = 3)] struct S { #[vmstate(since = 2, until = 2, default)] a: u8 }
        };
        assert!(refusal(&early).contains("`until` is the first version without"));
    }

    #[test]
    fn to_skip_a_field_takes_a_reason() {
        let input = parse_quote! { struct S { #[vmstate(skip(reason = " "))] a: u8 } };
        assert!(refusal(&input).contains("why is this field no state?"));
    }

    #[test]
    fn an_unknown_or_doubled_attribute_is_refused() {
        assert!(refusal(&parse_quote! { struct S { #[vmstate(sinse = 2)] a: u8 } }).contains("unknown attribute"));
        assert!(refusal(&parse_quote! { struct S { #[vmstate(max = 2, max = 3)] a: u8 } }).contains("given twice"));
    }

    #[test]
    fn two_fields_of_one_wire_name_are_refused() {
        let input = parse_quote! { struct S { a: u8, #[vmstate(name = "a")] b: u8 } };
        assert!(refusal(&input).contains("two fields are named `a`"));
    }

    #[test]
    fn what_may_be_absent_is_an_option() {
        let input = parse_quote! { struct S { #[vmstate(may_be_absent)] a: u8 } };
        assert!(refusal(&input).contains("`Option<...>`"));
    }

    #[test]
    fn shapes_without_a_description_are_refused() {
        assert!(refusal(&parse_quote! { struct S(u8); }).contains("named fields"));
        assert!(refusal(&parse_quote! { struct S<T> { a: T } }).contains("no parameters"));
        assert!(refusal(&parse_quote! { enum E { A(u8) } }).contains("variant with fields"));
        assert!(refusal(&parse_quote! { enum E {} }).contains("without variants"));
    }
}
