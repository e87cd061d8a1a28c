//! The attributes, parsed: `#[vmstate(...)]` on a struct and on its fields.

use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, DeriveInput, Error, Expr, ExprRange, Field, Ident, LitInt, LitStr, Path, RangeLimits, Result};

/// What the attributes of the struct say.
pub(super) struct Container {
    pub(super) name: LitStr,
    pub(super) version: u32,
    pub(super) minimum_version: u32,
    pub(super) priority: Expr,
}

impl Container {
    pub(super) fn parse(input: &DeriveInput) -> Result<Self> {
        let (mut name, mut version, mut minimum_version, mut priority) = (None, None, None, None);
        each_attribute(&input.attrs, &mut |meta| match () {
            () if meta.path.is_ident("name") => set(&mut name, &meta, meta.value()?.parse::<LitStr>()?),
            () if meta.path.is_ident("version") => set(&mut version, &meta, number(&meta)?),
            () if meta.path.is_ident("minimum_version") => set(&mut minimum_version, &meta, number(&meta)?),
            () if meta.path.is_ident("priority") => set(&mut priority, &meta, meta.value()?.parse()?),
            () => Err(meta.error("unknown attribute; a struct may have name, version, minimum_version, priority")),
        })?;
        let version = version.unwrap_or(1);
        let minimum_version = minimum_version.unwrap_or(1);
        if !(1..=version).contains(&minimum_version) {
            return Err(Error::new_spanned(
                &input.ident,
                format!("versions start at 1, and minimum_version ({minimum_version}) is at most version ({version})"),
            ));
        }
        Ok(Self {
            name: name.unwrap_or_else(|| LitStr::new(&kebab_case(&input.ident), input.ident.span())),
            version,
            minimum_version,
            priority: priority.unwrap_or_else(|| syn::parse_quote!(0)),
        })
    }
}

/// The attributes of a field, as they are written.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) name: Option<LitStr>,
    pub(super) since: Option<u32>,
    pub(super) until: Option<u32>,
    pub(super) default: Option<Option<Expr>>,
    pub(super) may_be_absent: Option<()>,
    pub(super) max: Option<Expr>,
    pub(super) range: Option<ExprRange>,
    pub(super) length: Option<Ident>,
    pub(super) must_equal: Option<LitStr>,
    pub(super) skip_when_default: Option<()>,
    pub(super) subsection: Option<Option<Path>>,
    pub(super) skip: Option<()>,
}

impl Marks {
    pub(super) fn parse(field: &Field) -> Result<Self> {
        let mut marks = Self::default();
        each_attribute(&field.attrs, &mut |meta| match () {
            () if meta.path.is_ident("name") => set(&mut marks.name, &meta, literal_name(&meta)?),
            () if meta.path.is_ident("since") => set(&mut marks.since, &meta, number(&meta)?),
            () if meta.path.is_ident("until") => set(&mut marks.until, &meta, number(&meta)?),
            () if meta.path.is_ident("max") => set(&mut marks.max, &meta, meta.value()?.parse()?),
            () if meta.path.is_ident("range") => set(&mut marks.range, &meta, range(&meta)?),
            () if meta.path.is_ident("length") => set(&mut marks.length, &meta, meta.value()?.parse()?),
            () if meta.path.is_ident("must_equal") => set(&mut marks.must_equal, &meta, sentence(&meta, "hint")?),
            () if meta.path.is_ident("skip_when_default") => set(&mut marks.skip_when_default, &meta, ()),
            () if meta.path.is_ident("may_be_absent") => set(&mut marks.may_be_absent, &meta, ()),
            () if meta.path.is_ident("default") => {
                let given = meta.input.peek(syn::Token![=]);
                let default = if given { Some(meta.value()?.parse()?) } else { None };
                set(&mut marks.default, &meta, default)
            }
            () if meta.path.is_ident("subsection") => {
                let mut needed = None;
                if meta.input.peek(syn::token::Paren) {
                    meta.parse_nested_meta(|inner| match () {
                        () if inner.path.is_ident("needed") => set(&mut needed, &inner, inner.value()?.parse()?),
                        () => Err(inner.error("a subsection may have `needed = path::to::function`")),
                    })?;
                }
                set(&mut marks.subsection, &meta, needed)
            }
            () if meta.path.is_ident("skip") => {
                sentence(&meta, "reason")?;
                set(&mut marks.skip, &meta, ())
            }
            () => Err(meta.error(
                "unknown attribute; a field may have name, since, until, default, skip_when_default, may_be_absent, \
                 must_equal, range, max, length, subsection, skip",
            )),
        })?;
        Ok(marks)
    }

    /// Whether anything is said that only makes sense for a field of the description.
    pub(super) fn describe_a_field(&self) -> bool {
        let versions = self.since.is_some() || self.until.is_some();
        let presence = self.default.is_some() || self.skip_when_default.is_some() || self.may_be_absent.is_some();
        let values = self.range.is_some() || self.must_equal.is_some();
        versions || presence || values || self.max.is_some() || self.length.is_some()
    }
}

pub(super) fn each_attribute(attrs: &[Attribute], logic: &mut dyn FnMut(ParseNestedMeta) -> Result<()>) -> Result<()> {
    let mut ours = attrs.iter().filter(|attr| attr.path().is_ident("vmstate"));
    ours.try_for_each(|attr| attr.parse_nested_meta(&mut *logic))
}

pub(super) fn set<T>(slot: &mut Option<T>, meta: &ParseNestedMeta, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(meta.error("this attribute is given twice")),
    }
}

/// The one sentence that an attribute takes, `skip(reason = "...")`.
fn sentence(meta: &ParseNestedMeta, called: &str) -> Result<LitStr> {
    let mut sentence = None;
    if meta.input.peek(syn::token::Paren) {
        meta.parse_nested_meta(|inner| match () {
            () if inner.path.is_ident(called) => set(&mut sentence, &inner, inner.value()?.parse::<LitStr>()?),
            () => Err(inner.error(format!("it takes `{called} = \"...\"` and nothing else"))),
        })?;
    }
    let question = match called {
        "reason" => "why is this field no state? say `skip(reason = \"...\")`",
        _ => "what can a user do if it differs? say `must_equal(hint = \"...\")`",
    };
    sentence
        .filter(|sentence| !sentence.value().trim().is_empty())
        .ok_or_else(|| meta.error(question))
}

/// A range with both ends, the last one included.
fn range(meta: &ParseNestedMeta) -> Result<ExprRange> {
    let range: ExprRange = meta.value()?.parse()?;
    match (&range.start, &range.limits, &range.end) {
        (Some(_), RangeLimits::Closed(_), Some(_)) => Ok(range),
        _ => Err(Error::new_spanned(
            range,
            "a range has two ends, and both are in it: `range = 0..=7`",
        )),
    }
}

pub(super) fn number(meta: &ParseNestedMeta) -> Result<u32> {
    meta.value()?.parse::<LitInt>()?.base10_parse()
}

/// The wire name of a field or variant, which a path of names must be able to hold.
pub(super) fn literal_name(meta: &ParseNestedMeta) -> Result<LitStr> {
    let name: LitStr = meta.value()?.parse()?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&name.value().len()) && name.value().chars().all(legal) {
        Ok(name)
    } else {
        Err(Error::new(
            name.span(),
            "a name is 1 to 64 ASCII letters, digits, `-` and `_`",
        ))
    }
}

pub(super) fn refuse_generics(input: &DeriveInput) -> Result<()> {
    if input.generics.params.is_empty() {
        Ok(())
    } else {
        Err(Error::new_spanned(
            &input.generics,
            "a state has one description, so its type has no parameters",
        ))
    }
}

/// `RtcState` as `rtc-state`, `X86Cpu` as `x86-cpu`.
pub(super) fn kebab_case(ident: &Ident) -> String {
    let mut kebab = String::new();
    for c in ident.unraw().to_string().chars() {
        if c.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(if c == '_' { '-' } else { c.to_ascii_lowercase() });
    }
    kebab
}
