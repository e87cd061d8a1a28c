//! `#[derive(Object)]`: a struct becomes the part of a type, with its declaration, properties and state binding.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, ExprLit, Field, Fields, Ident, Lit, LitStr, Path, Result, Token, Type,
};

const MARKS: &str = "`#[config]` (fixed once the object is in use, part of the recipe), `#[runtime]` (made anew when the \
                     object comes to life, never saved), `#[state]` (what the guest can change, saved) or \
                     `#[derived(reason = \"...\")]` (follows from the others)";

/// What `#[object(...)]` says.
#[derive(Default)]
struct TypeOptions {
    name: Option<LitStr>,
    parent: Option<Expr>,
    kind: Kind,
    interfaces: Vec<Expr>,
    stateless: bool,
    unmigratable: Option<LitStr>,
    hooks: bool,
    phase: Option<Ident>,
    /// For `vmstate` itself and its tests, which put their types into tables by hand.
    unregistered: bool,
    class_data: Option<Type>,
    functions: Vec<(Ident, Path)>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Kind {
    #[default]
    Concrete,
    Abstract,
    Interface,
}

/// A field with its mark.
struct Marked<'a> {
    field: &'a Field,
    name: &'a Ident,
    mark: Mark,
}

enum Mark {
    /// A configuration that is no property, something made at run time, or something derived.
    Plain {
        init: Option<Expr>,
    },
    Property(Box<PropertyOptions>),
    Link {
        name: Option<LitStr>,
        description: Option<LitStr>,
    },
    State {
        init: Option<Expr>,
    },
}

#[derive(Default)]
struct PropertyOptions {
    name: Option<LitStr>,
    description: Option<LitStr>,
    default: Option<Expr>,
    min: Option<Expr>,
    max: Option<Expr>,
    size: bool,
}

pub fn derive(input: &DeriveInput) -> Result<TokenStream> {
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "an object type has no type parameters",
        ));
    }
    let options = type_options(input)?;
    let name = options
        .name
        .as_ref()
        .ok_or_else(|| Error::new(Span::call_site(), "give the type a name: `#[object(name = \"...\")]`"))?;
    let fields = marked_fields(input)?;
    let state_field = state_field(&fields)?;
    check_state_declaration(&options, name, state_field)?;
    if options.kind == Kind::Interface {
        return interface(input, &options, name, &fields);
    }

    let part = &input.ident;
    let default = default_impl(part, &fields);
    let state = state_decl(part, &options, state_field);
    let state_part = state_field.map(|state| {
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
    let properties = properties(part, &fields);
    let parent = match &options.parent {
        Some(parent) => type_name(parent),
        None => quote!("object"),
    };
    let fields = quote! {
        parent: ::core::option::Option::Some(#parent),
        part: ::core::option::Option::Some(|| ::std::boxed::Box::new(<#part as ::core::default::Default>::default())),
        properties: || ::std::vec![#(#properties),*],
    };
    let declaration = declaration(part, &options, name, &fields, &state);
    Ok(quote! {
        #default
        #state_part
        #declaration
    })
}

/// An interface has no part: the struct is only its name in Rust, and carries its class data.
fn interface(input: &DeriveInput, options: &TypeOptions, name: &LitStr, fields: &[Marked]) -> Result<TokenStream> {
    if let Some(marked) = fields.first() {
        return Err(Error::new_spanned(
            marked.field,
            "an interface has no instances, so it has no fields",
        ));
    }
    let part = &input.ident;
    let default = default_impl(part, fields);
    let parent = match &options.parent {
        Some(parent) => {
            let parent = type_name(parent);
            quote!(::core::option::Option::Some(#parent))
        }
        None => quote!(::core::option::Option::None),
    };
    let declaration = declaration(
        part,
        options,
        name,
        &quote!(parent: #parent,),
        &quote!(::vmstate::qom::StateDecl::Stateless),
    );
    Ok(quote! {
        #default
        #declaration
    })
}

/// The static declaration, its entry in the link-time list, and the trait that leads from the Rust type to it.
fn declaration(
    part: &Ident,
    options: &TypeOptions,
    name: &LitStr,
    fields: &TokenStream,
    state: &TokenStream,
) -> TokenStream {
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

            impl ::vmstate::qom::ObjectPart for #part {
                const TYPE: &'static str = #name;

                fn type_info() -> &'static ::vmstate::qom::TypeInfo {
                    &TYPE_INFO
                }
            }
        };
    }
}

fn default_impl(part: &Ident, fields: &[Marked]) -> TokenStream {
    let fields = fields.iter().map(|Marked { field, name, mark }| {
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

fn properties(part: &Ident, fields: &[Marked]) -> Vec<TokenStream> {
    fields.iter().filter_map(|marked| property(part, marked)).collect()
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
            Some(quote_spanned! {ty.span()=>
                ::vmstate::qom::ConfigProperty::new(#external, |part: &#part| &part.#name, #default)
                    .describe(#description) #min #max #size
                    .build()
            })
        }
        Mark::Link {
            name: given,
            description,
        } => {
            let (external, description) = (external(given), text(description));
            Some(quote_spanned! {ty.span()=>
                <#ty>::property(#external, #description, |part: &#part| &part.#name)
            })
        }
        Mark::Plain { .. } | Mark::State { .. } => None,
    }
}

fn state_field<'a, 'b>(fields: &'a [Marked<'b>]) -> Result<Option<&'a Marked<'b>>> {
    let mut states = fields.iter().filter(|marked| matches!(marked.mark, Mark::State { .. }));
    let first = states.next();
    match states.next() {
        Some(second) => Err(Error::new_spanned(
            second.field,
            "a type has one `#[state]` field: put all state into one struct behind one lock, so that it is taken out whole",
        )),
        None => Ok(first),
    }
}

fn check_state_declaration(options: &TypeOptions, name: &LitStr, state: Option<&Marked>) -> Result<()> {
    let contradiction = "say one thing about state: a `#[state]` field, `stateless` or `unmigratable = \"...\"`";
    match (state, options.stateless, &options.unmigratable) {
        (Some(_), false, None) | (None, true, None) | (None, false, Some(_)) => Ok(()),
        (None, false, None) if options.kind == Kind::Interface => Ok(()),
        (None, false, None) => Err(Error::new_spanned(
            name,
            format!(
                "type `{}` says nothing about state, and state that nobody describes is lost when a machine is saved: add a \
                 `#[state]` field, or `stateless` if it adds none, or `unmigratable = \"the reason shown to the user\"`",
                name.value()
            ),
        )),
        (Some(state), ..) => Err(Error::new_spanned(state.field, contradiction)),
        (None, ..) => Err(Error::new_spanned(name, contradiction)),
    }
}

fn state_decl(part: &Ident, options: &TypeOptions, state: Option<&Marked>) -> TokenStream {
    if let Some(reason) = &options.unmigratable {
        return quote!(::vmstate::qom::StateDecl::Unmigratable(#reason));
    }
    if state.is_none() {
        return quote!(::vmstate::qom::StateDecl::Stateless);
    }
    let hooks = if options.hooks {
        quote!(::vmstate::qom::HookTable::of::<#part>())
    } else {
        quote!(::vmstate::qom::HookTable::NONE)
    };
    quote!(::vmstate::qom::StateDecl::Described(::vmstate::qom::StateBinding::of::<#part>(#hooks)))
}

/// A type is named by text, by a constant (`TYPE_DEVICE`, `Device::TYPE`), or by the Rust type of its part (`Device`):
/// of two paths, the one whose last word is all upper case is the constant, as everywhere in Rust.
fn type_name(given: &Expr) -> TokenStream {
    if let Expr::Path(path) = given
        && let Some(last) = path.path.segments.last()
        && last.ident.to_string().contains(char::is_lowercase)
    {
        return quote_spanned!(given.span()=> <#path as ::vmstate::qom::ObjectPart>::TYPE);
    }
    quote!(#given)
}

fn kebab(name: &Ident) -> String {
    name.to_string().trim_start_matches("r#").replace('_', "-")
}

fn type_options(input: &DeriveInput) -> Result<TypeOptions> {
    let mut options = TypeOptions::default();
    for attribute in input
        .attrs
        .iter()
        .filter(|attribute| attribute.path().is_ident("object"))
    {
        attribute.parse_nested_meta(|meta| type_option(&mut options, &meta))?;
    }
    if options.hooks && options.stateless {
        return Err(Error::new(
            Span::call_site(),
            "`hooks` run around the state of the type, and it is `stateless`",
        ));
    }
    Ok(options)
}

fn type_option(options: &mut TypeOptions, meta: &ParseNestedMeta) -> Result<()> {
    let Some(word) = meta.path.get_ident().map(ToString::to_string) else {
        return Err(meta.error("not an option of `#[object]`"));
    };
    match word.as_str() {
        "name" => options.name = Some(meta.value()?.parse()?),
        "parent" => options.parent = Some(meta.value()?.parse()?),
        "abstract" => options.kind = Kind::Abstract,
        "interface" => options.kind = Kind::Interface,
        "interfaces" => {
            let content;
            let value = meta.value()?;
            syn::bracketed!(content in value);
            options.interfaces = Punctuated::<Expr, Token![,]>::parse_terminated(&content)?
                .into_iter()
                .collect();
        }
        "stateless" => options.stateless = true,
        "unmigratable" => {
            let reason: LitStr = meta.value()?.parse()?;
            if reason.value().trim().is_empty() {
                return Err(Error::new_spanned(reason, "tell the user why"));
            }
            options.unmigratable = Some(reason);
        }
        "hooks" => options.hooks = true,
        "unregistered" => options.unregistered = true,
        "phase" => options.phase = Some(meta.value()?.parse()?),
        "class_data" => options.class_data = Some(meta.value()?.parse()?),
        "class_init" | "class_base_init" | "instance_init" | "instance_post_init" | "instance_finalize" => {
            options
                .functions
                .push((Ident::new(&word, meta.path.span()), meta.value()?.parse()?));
        }
        _ => return Err(meta.error("not an option of `#[object]`")),
    }
    Ok(())
}

fn marked_fields(input: &DeriveInput) -> Result<Vec<Marked<'_>>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "an object type is a struct"));
    };
    let named = match &data.fields {
        Fields::Named(fields) => &fields.named,
        Fields::Unit => {
            return if is_interface(input) {
                Ok(Vec::new())
            } else {
                Err(no_named_fields(input))
            };
        }
        Fields::Unnamed(_) => return Err(no_named_fields(input)),
    };
    let mut marked = Vec::new();
    let mut errors: Option<Error> = None;
    for field in named {
        match mark(field) {
            Ok(field) => marked.push(field),
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    errors.map_or(Ok(marked), Err)
}

fn no_named_fields(input: &DeriveInput) -> Error {
    Error::new_spanned(
        &input.ident,
        "an object type is a struct with named fields, `{}` if it has none",
    )
}

fn is_interface(input: &DeriveInput) -> bool {
    type_options(input).is_ok_and(|options| options.kind == Kind::Interface)
}

/// The one mark of a field.
fn mark(field: &Field) -> Result<Marked<'_>> {
    let name = field
        .ident
        .as_ref()
        .ok_or_else(|| Error::new_spanned(field, "a field has a name"))?;
    let is_mark = |attribute: &&Attribute| {
        ["config", "runtime", "state", "derived"]
            .iter()
            .any(|mark| attribute.path().is_ident(mark))
    };
    let mut marks = field.attrs.iter().filter(is_mark);
    let Some(attribute) = marks.next() else {
        return Err(Error::new_spanned(
            field,
            format!("field `{name}` has no mark; decide what it is: {MARKS}"),
        ));
    };
    if marks.next().is_some() {
        return Err(Error::new_spanned(
            field,
            format!("field `{name}` has several marks; keep one: {MARKS}"),
        ));
    }
    let word = attribute
        .path()
        .get_ident()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mark = match word.as_str() {
        "config" => config_mark(attribute)?,
        "derived" => Mark::Plain {
            init: derived_init(attribute, name)?,
        },
        "state" => Mark::State {
            init: init_only(attribute)?,
        },
        _ => Mark::Plain {
            init: init_only(attribute)?,
        },
    };
    Ok(Marked { field, name, mark })
}

fn has_options(attribute: &Attribute) -> bool {
    !matches!(attribute.meta, syn::Meta::Path(_))
}

fn config_mark(attribute: &Attribute) -> Result<Mark> {
    let mut options = PropertyOptions::default();
    let mut init = None;
    let (mut property, mut link, mut value_option) = (false, false, None);
    if has_options(attribute) {
        attribute.parse_nested_meta(|meta| {
            let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            match word.as_str() {
                "property" => property = true,
                "link" => link = true,
                "name" => options.name = Some(meta.value()?.parse()?),
                "description" => options.description = Some(meta.value()?.parse()?),
                "default" => options.default = Some(meta.value()?.parse()?),
                "min" => options.min = Some(meta.value()?.parse()?),
                "max" => options.max = Some(meta.value()?.parse()?),
                "size" => options.size = true,
                "init" => init = Some(meta.value()?.parse()?),
                _ => return Err(meta.error("not an option of `#[config]`")),
            }
            if matches!(word.as_str(), "default" | "min" | "max" | "size") {
                value_option = Some(meta.path.clone());
            }
            Ok(())
        })?;
    }
    match (property, link) {
        (true, true) => Err(Error::new_spanned(
            attribute,
            "a field is a `property` or a `link`, not both",
        )),
        (true, false) if init.is_some() => Err(Error::new_spanned(attribute, "a property starts as its `default`")),
        (true, false) => Ok(Mark::Property(Box::new(options))),
        (false, _) if let Some(path) = value_option => Err(Error::new_spanned(
            path,
            "only a `property` has this: `#[config(property, ...)]`",
        )),
        (false, true) if init.is_some() => Err(Error::new_spanned(attribute, "a link starts leading nowhere")),
        (false, true) => Ok(Mark::Link {
            name: options.name,
            description: options.description,
        }),
        (false, false) if options.name.is_some() || options.description.is_some() => Err(Error::new_spanned(
            attribute,
            "only a property or a link has a name and a description",
        )),
        (false, false) => Ok(Mark::Plain { init }),
    }
}

fn init_only(attribute: &Attribute) -> Result<Option<Expr>> {
    let mut init = None;
    if has_options(attribute) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("init") {
                return Err(meta.error("the only option here is `init = EXPRESSION`"));
            }
            init = Some(meta.value()?.parse()?);
            Ok(())
        })?;
    }
    Ok(init)
}

fn derived_init(attribute: &Attribute, name: &Ident) -> Result<Option<Expr>> {
    let (mut init, mut reason) = (None, false);
    if has_options(attribute) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("init") {
                init = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("reason") {
                let given: Expr = meta.value()?.parse()?;
                reason =
                    matches!(&given, Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if !text.value().trim().is_empty());
            } else {
                return Err(meta.error("the options here are `reason = \"...\"` and `init = EXPRESSION`"));
            }
            Ok(())
        })?;
    }
    if reason {
        return Ok(init);
    }
    Err(Error::new_spanned(
        attribute,
        format!("say why `{name}` needs no saving, what it follows from: `#[derived(reason = \"...\")]`"),
    ))
}
