//! What an author writes: `#[object(...)]` on the struct and the mark of each field, read and checked.

use proc_macro2::Span;
use syn::meta::ParseNestedMeta;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Data, DeriveInput, Error, Expr, Field, Fields, Ident, LitStr, Meta, Path, Result, Token, Type};

const MARKS: &str = "`#[config]` (fixed once the object is in use, part of the recipe), `#[runtime(reason = \"...\")]` \
                     (no state, and why: made anew when the object comes to life), `#[state]` (what the guest can change, saved) or \
                     `#[derived(reason = \"...\")]` (follows from the others)";

/// The declaration of a type as its author wrote it.
pub(super) struct Declared<'a> {
    pub ident: &'a Ident,
    pub name: LitStr,
    pub options: TypeOptions,
    pub fields: Vec<Marked<'a>>,
}

/// What `#[object(...)]` says.
#[derive(Default)]
pub(super) struct TypeOptions {
    name: Option<LitStr>,
    pub parent: Option<Expr>,
    pub kind: Kind,
    pub interfaces: Vec<Expr>,
    pub stateless: bool,
    pub unmigratable: Option<LitStr>,
    pub hooks: bool,
    pub phase: Option<Ident>,
    /// For `vmstate` itself and its tests, which put their types into tables by hand.
    pub unregistered: bool,
    pub class_data: Option<Type>,
    /// A function that returns more properties.
    pub properties: Option<Path>,
    pub functions: Vec<(Ident, Path)>,
}

#[derive(Default, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    #[default]
    Concrete,
    Abstract,
    Interface,
}

/// A field with its mark.
pub(super) struct Marked<'a> {
    pub field: &'a Field,
    pub name: &'a Ident,
    pub mark: Mark,
}

pub(super) enum Mark {
    /// A configuration that is no property, something made at run time, or something derived.
    Plain {
        init: Option<Expr>,
    },
    Property(Box<PropertyOptions>),
    Link {
        name: Option<LitStr>,
        description: Option<LitStr>,
        check: Option<Expr>,
        live: bool,
    },
    State {
        init: Option<Expr>,
    },
}

#[derive(Default)]
pub(super) struct PropertyOptions {
    pub name: Option<LitStr>,
    pub description: Option<LitStr>,
    pub default: Option<Expr>,
    pub min: Option<Expr>,
    pub max: Option<Expr>,
    pub size: bool,
    pub live: bool,
}

impl<'a> Declared<'a> {
    pub(super) fn parse(input: &'a DeriveInput) -> Result<Self> {
        if !input.generics.params.is_empty() {
            return Err(Error::new_spanned(
                &input.generics,
                "an object type has no type parameters",
            ));
        }
        let mut options = type_options(input)?;
        let name = options
            .name
            .take()
            .ok_or_else(|| Error::new(Span::call_site(), "give the type a name: `#[object(name = \"...\")]`"))?;
        let fields = marked_fields(input, options.kind)?;
        let declared = Self {
            ident: &input.ident,
            name,
            options,
            fields,
        };
        declared.check_state()?;
        Ok(declared)
    }

    /// The `#[state]` field, of which there is at most one.
    pub(super) fn state_field(&self) -> Option<&Marked<'a>> {
        self.fields
            .iter()
            .find(|marked| matches!(marked.mark, Mark::State { .. }))
    }

    /// A type says one thing about state, and never nothing.
    fn check_state(&self) -> Result<()> {
        let states: Vec<_> = self
            .fields
            .iter()
            .filter(|marked| matches!(marked.mark, Mark::State { .. }))
            .collect();
        let contradiction = "say one thing about state: a `#[state]` field, `stateless` or `unmigratable = \"...\"`";
        match (&states[..], self.options.stateless, &self.options.unmigratable) {
            (_, false, None) if self.options.kind == Kind::Interface => Ok(()),
            ([_], false, None) | ([], true, None) | ([], false, Some(_)) => Ok(()),
            ([_, second, ..], ..) => Err(Error::new_spanned(
                second.field,
                "a type has one `#[state]` field: put all state into one struct behind one lock, so that it is taken \
                 out whole",
            )),
            ([], false, None) => Err(Error::new_spanned(
                &self.name,
                format!(
                    "type `{}` says nothing about state, and state that nobody describes is lost when a machine is \
                     saved: add a `#[state]` field, or `stateless` if it adds none, or `unmigratable = \"the reason \
                     shown to the user\"`",
                    self.name.value()
                ),
            )),
            ([state], ..) => Err(Error::new_spanned(state.field, contradiction)),
            ([], ..) => Err(Error::new_spanned(&self.name, contradiction)),
        }
    }
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
        "properties" => options.properties = Some(meta.value()?.parse()?),
        "class_init" | "class_base_init" | "instance_init" | "instance_post_init" | "instance_finalize" => {
            options
                .functions
                .push((Ident::new(&word, meta.path.span()), meta.value()?.parse()?));
        }
        _ => return Err(meta.error("not an option of `#[object]`")),
    }
    Ok(())
}

fn marked_fields(input: &DeriveInput, kind: Kind) -> Result<Vec<Marked<'_>>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "an object type is a struct"));
    };
    let named = match &data.fields {
        Fields::Named(fields) => &fields.named,
        Fields::Unit if kind == Kind::Interface => return Ok(Vec::new()),
        Fields::Unit | Fields::Unnamed(_) => {
            return Err(Error::new_spanned(
                &input.ident,
                "an object type is a struct with named fields, or with `{}`",
            ));
        }
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
            init: explained_init(
                attribute,
                &format!("what `{name}` follows from, so that it needs no saving"),
            )?,
        },
        "runtime" => Mark::Plain {
            init: explained_init(attribute, &format!("why `{name}` is no state, and who makes it anew"))?,
        },
        "state" => Mark::State {
            init: init_only(attribute)?,
        },
        _ => unreachable!("a mark is one of the four"),
    };
    Ok(Marked { field, name, mark })
}

fn has_options(attribute: &Attribute) -> bool {
    !matches!(attribute.meta, Meta::Path(_))
}

fn config_mark(attribute: &Attribute) -> Result<Mark> {
    let mut options = PropertyOptions::default();
    let mut init = None;
    let (mut property, mut link, mut value_option) = (false, false, None);
    let mut check: Option<Expr> = None;
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
                "live" => options.live = true,
                "check" => check = Some(meta.value()?.parse()?),
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
        (true, false) if check.is_some() => Err(Error::new_spanned(attribute, "only a link has a `check`")),
        (true, false) => Ok(Mark::Property(Box::new(options))),
        (false, _) if let Some(path) = value_option => Err(Error::new_spanned(
            path,
            "only a `property` has this: `#[config(property, ...)]`",
        )),
        (false, true) if init.is_some() => Err(Error::new_spanned(attribute, "a link starts leading nowhere")),
        (false, true) => Ok(Mark::Link {
            name: options.name,
            description: options.description,
            check,
            live: options.live,
        }),
        (false, false)
            if options.name.is_some() || options.description.is_some() || options.live || check.is_some() =>
        {
            Err(Error::new_spanned(
                attribute,
                "only a property or a link has a name and a description, can be `live` or have a `check`",
            ))
        }
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

/// The options of a mark that takes the reason for it, which says `what`.
fn explained_init(attribute: &Attribute, what: &str) -> Result<Option<Expr>> {
    let (mut init, mut reason) = (None, false);
    if has_options(attribute) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("init") {
                init = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("reason") {
                let given: LitStr = meta.value()?.parse()?;
                reason = !given.value().trim().is_empty();
            } else {
                return Err(meta.error("the options here are `reason = \"...\"` and `init = EXPRESSION`"));
            }
            Ok(())
        })?;
    }
    if reason {
        return Ok(init);
    }
    let mark = attribute
        .path()
        .get_ident()
        .map(ToString::to_string)
        .unwrap_or_default();
    Err(Error::new_spanned(
        attribute,
        format!("say {what}: `#[{mark}(reason = \"...\")]`"),
    ))
}
