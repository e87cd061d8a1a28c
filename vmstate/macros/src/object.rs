//! `#[derive(Object)]`: a struct becomes the part of a type, with its declaration, properties and state binding.

mod attributes;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Error, Expr, Ident, LitStr, Result};

use self::attributes::{Declared, Kind, Mark, Marked};

pub fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let declared = Declared::parse(input)?;
    if declared.options.kind == Kind::Interface {
        return interface(&declared);
    }

    let (part, name) = (declared.ident, &declared.name);
    let default = default_impl(&declared);
    let state = state_decl(&declared);
    let state_part = declared.state_field().map(|state| {
        let (field, ty) = (state.name, &state.field.ty);
        quote_spanned! {ty.span()=>
            impl ::vmstate::qom::StatePart for #part {
                type Cell = #ty;

                fn state_cell(&self) -> &Self::Cell {
                    &self.#field
                }
            }
        }
    });
    let properties = declared.fields.iter().filter_map(|marked| property(part, marked));
    let parent = match &declared.options.parent {
        Some(parent) => type_name(parent),
        None => quote!("object"),
    };
    let more = declared
        .options
        .properties
        .as_ref()
        .map(|more| quote!(all.extend(#more());));
    let properties = match more {
        Some(more) => quote! {{
            let mut all = ::std::vec![#(#properties),*];
            #more
            all
        }},
        None => quote!(::std::vec![#(#properties),*]),
    };
    let fields = quote! {
        parent: ::core::option::Option::Some(#parent),
        part: ::core::option::Option::Some(|| ::std::boxed::Box::new(<#part as ::core::default::Default>::default())),
        properties: || #properties,
    };
    let names = quote! {
        impl ::vmstate::qom::ObjectPart for #part {
            const TYPE: &'static str = #name;

            fn type_info() -> &'static ::vmstate::qom::TypeInfo {
                &TYPE_INFO
            }
        }
    };
    let declaration = declaration(&declared, &fields, &state, &names);
    Ok(quote! {
        #default
        #state_part
        #declaration
    })
}

/// An interface has no part: the struct is only its name in Rust, and carries its class data.
fn interface(declared: &Declared) -> Result<TokenStream> {
    if let Some(marked) = declared.fields.first() {
        return Err(Error::new_spanned(
            marked.field,
            "an interface has no instances, so it has no fields",
        ));
    }
    let (interface, name) = (declared.ident, &declared.name);
    let parent = match &declared.options.parent {
        Some(parent) => {
            let parent = type_name(parent);
            quote!(::core::option::Option::Some(#parent))
        }
        None => quote!(::core::option::Option::None),
    };
    let names = quote! {
        impl #interface {
            #[doc = "The name of the interface."]
            pub const TYPE: &'static str = #name;

            #[doc = "The declaration of the interface, for a table built by hand."]
            #[must_use]
            pub fn type_info() -> &'static ::vmstate::qom::TypeInfo {
                &TYPE_INFO
            }
        }

        // Nobody makes a value of it, and nobody should be told so.
        const _: fn() -> #interface = || #interface {};
    };
    let state = quote!(::vmstate::qom::StateDecl::Stateless);
    Ok(declaration(declared, &quote!(parent: #parent,), &state, &names))
}

/// The static declaration, its entry in the link-time list, and `names`, which lead from the Rust type to it.
fn declaration(declared: &Declared, fields: &TokenStream, state: &TokenStream, names: &TokenStream) -> TokenStream {
    let (name, options) = (&declared.name, &declared.options);
    let kind = match options.kind {
        Kind::Concrete => quote!(Concrete),
        Kind::Abstract => quote!(Abstract),
        Kind::Interface => quote!(Interface),
    };
    let interfaces = options.interfaces.iter().map(type_name);
    let class_data = options.class_data.as_ref().map(|data| {
        quote! {
            class_data: ::core::option::Option::Some(
                || ::std::boxed::Box::new(<#data as ::core::default::Default>::default())
            ),
        }
    });
    let functions = options
        .functions
        .iter()
        .map(|(slot, path)| quote!(#slot: ::core::option::Option::Some(#path),));
    let default_phase = Ident::new("Qom", Span::call_site());
    let phase = options.phase.as_ref().unwrap_or(&default_phase);
    let registration = (!options.unregistered).then(|| {
        quote! {
            #[::vmstate::linkme::distributed_slice(::vmstate::qom::DECLARATIONS)]
            #[linkme(crate = ::vmstate::linkme)]
            static DECLARATION: ::vmstate::qom::Declaration = ::vmstate::qom::Declaration {
                phase: ::vmstate::qom::Phase::#phase,
                info: &TYPE_INFO,
            };
        }
    });
    quote! {
        const _: () = {
            static TYPE_INFO: ::vmstate::qom::TypeInfo = ::vmstate::qom::TypeInfo {
                kind: ::vmstate::qom::TypeKind::#kind,
                interfaces: &[#(#interfaces),*],
                #fields
                #class_data
                #(#functions)*
                ..::vmstate::qom::TypeInfo::new(#name, #state, ::core::concat!(::core::file!(), ":", ::core::line!()))
            };

            #registration

            #names
        };
    }
}

fn default_impl(declared: &Declared) -> TokenStream {
    let part = declared.ident;
    let fields = declared.fields.iter().map(|Marked { field, name, mark }| {
        let ty = &field.ty;
        match mark {
            Mark::Property(options) => match &options.default {
                Some(default) => quote_spanned!(ty.span()=> #name: ::vmstate::qom::Config::new(#default)),
                None => quote_spanned!(ty.span()=> #name: ::core::default::Default::default()),
            },
            Mark::Plain { init: Some(init) } | Mark::State { init: Some(init) } => quote!(#name: #init),
            Mark::Plain { init: None } | Mark::State { init: None } | Mark::Link { .. } => {
                quote_spanned!(ty.span()=> #name: ::core::default::Default::default())
            }
        }
    });
    quote! {
        impl ::core::default::Default for #part {
            fn default() -> Self {
                Self { #(#fields),* }
            }
        }
    }
}

fn property(part: &Ident, Marked { field, name, mark }: &Marked) -> Option<TokenStream> {
    let ty = &field.ty;
    let text = |given: &Option<LitStr>| given.as_ref().map_or_else(String::new, LitStr::value);
    let external = |given: &Option<LitStr>| given.as_ref().map_or_else(|| kebab(name), LitStr::value);
    match mark {
        Mark::Property(options) => {
            let (external, description) = (external(&options.name), text(&options.description));
            let default = match &options.default {
                Some(default) => quote!(#default),
                None => quote!(::core::default::Default::default()),
            };
            let min = options.min.as_ref().map(|min| quote!(.min(&(#min))));
            let max = options.max.as_ref().map(|max| quote!(.max(&(#max))));
            let size = options.size.then(|| quote!(.size()));
            let live = options.live.then(|| quote!(.live()));
            Some(quote_spanned! {ty.span()=>
                ::vmstate::qom::ConfigProperty::new(#external, |part: &#part| &part.#name, #default)
                    .describe(#description) #min #max #size #live
                    .build()
            })
        }
        Mark::Link {
            name: given,
            description,
            check,
            live,
        } => {
            let (external, description) = (external(given), text(description));
            let check = match check {
                Some(check) => quote!(::core::option::Option::Some(#check)),
                None => quote!(::core::option::Option::None),
            };
            let live = live.then(|| quote!(.live()));
            Some(quote_spanned! {ty.span()=>
                <#ty>::property(#external, #description, |part: &#part| &part.#name, #check) #live
            })
        }
        Mark::Plain { .. } | Mark::State { .. } => None,
    }
}

fn state_decl(declared: &Declared) -> TokenStream {
    if let Some(reason) = &declared.options.unmigratable {
        return quote!(::vmstate::qom::StateDecl::Unmigratable(#reason));
    }
    if declared.state_field().is_none() {
        return quote!(::vmstate::qom::StateDecl::Stateless);
    }
    let part = declared.ident;
    let hooks = if declared.options.hooks {
        quote!(::vmstate::qom::HookTable::of::<#part>())
    } else {
        quote!(::vmstate::qom::HookTable::NONE)
    };
    quote!(::vmstate::qom::StateDecl::Described(::vmstate::qom::StateBinding::of::<#part>(#hooks)))
}

/// A type is named by text, by a constant (`TYPE_DEVICE`, `Device::TYPE`), or by its Rust type (`Device`): of two paths,
/// the one whose last word is all upper case is the constant, as everywhere in Rust. The name is the trait's for a part
/// and the struct's own for an interface.
fn type_name(given: &Expr) -> TokenStream {
    if let Expr::Path(path) = given
        && let Some(last) = path.path.segments.last()
        && last.ident.to_string().contains(char::is_lowercase)
    {
        return quote_spanned! {given.span()=> {
            #[allow(unused_imports, reason = "an interface has a constant of its own")]
            use ::vmstate::qom::ObjectPart as _;
            <#path>::TYPE
        }};
    }
    quote!(#given)
}

fn kebab(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").replace('_', "-")
}
