//! What stands above a type, a variant or a field: serde's words, ours, and comments.

use syn::{
    Attribute, Expr, Lit, LitStr, Meta, Result, Token, Type, ext::IdentExt as _, meta::ParseNestedMeta,
    parse::Parse as _,
};

use crate::{json::quoted, names::Case};

/// All that is understood.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) rename: Option<String>,
    pub(crate) rename_all: Case,
    pub(crate) rename_all_fields: Case,
    pub(crate) deny_unknown_fields: bool,
    pub(crate) default: bool,
    pub(crate) skip: bool,
    pub(crate) transparent: bool,
    pub(crate) untagged: bool,
    pub(crate) tag: Option<String>,
    pub(crate) aliases: Vec<String>,
    /// The type whose schema it is: of `#[serde(from)]`, `#[serde(try_from)]` or `#[schema(stands_for)]`.
    pub(crate) stands_for: Option<Type>,
    /// Whether serde reads it by a function of its own.
    pub(crate) by_function: bool,
    description: String,
    limits: Vec<(String, String)>,
}

/// The limits that `#[schema(..)]` takes.
const LIMITS: [&str; 10] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];

impl Attributes {
    pub(crate) fn read(attributes: &[Attribute]) -> Result<Self> {
        let mut read = Self::default();
        for attribute in attributes {
            if attribute.path().is_ident("doc") {
                read.comment(attribute);
            } else if attribute.path().is_ident("serde") {
                attribute.parse_nested_meta(|meta| read.serde(&meta))?;
            } else if attribute.path().is_ident("schema") {
                attribute.parse_nested_meta(|meta| read.ours(&meta))?;
            }
        }
        Ok(read)
    }

    /// The keywords beside a type: `"description":"..","minimum":1`. Empty where there are none.
    pub(crate) fn beside(&self) -> String {
        let mut all = Vec::new();
        let description = self.description.trim();
        if !description.is_empty() {
            all.push(format!("\"description\":{}", quoted(description)));
        }
        all.extend(self.limits.iter().map(|(name, value)| format!("{}:{value}", quoted(name))));
        all.join(",")
    }

    fn comment(&mut self, attribute: &Attribute) {
        let Meta::NameValue(pair) = &attribute.meta else { return };
        let Expr::Lit(literal) = &pair.value else { return };
        if let Lit::Str(line) = &literal.lit {
            if !self.description.is_empty() {
                self.description.push(' ');
            }
            self.description.push_str(line.value().trim());
        }
    }

    fn serde(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        let text = |meta: &ParseNestedMeta<'_>| meta.value()?.parse::<LitStr>();
        match word.as_str() {
            "rename" => self.rename = Some(renamed(meta)?),
            "rename_all" => self.rename_all = case(meta)?,
            "rename_all_fields" => self.rename_all_fields = case(meta)?,
            "deny_unknown_fields" => self.deny_unknown_fields = true,
            "default" => {
                self.default = true;
                if meta.input.peek(Token![=]) {
                    text(meta)?;
                }
            }
            "skip" | "skip_deserializing" => self.skip = true,
            "transparent" => self.transparent = true,
            "untagged" => self.untagged = true,
            "tag" => self.tag = Some(text(meta)?.value()),
            "alias" => self.aliases.push(text(meta)?.value()),
            "from" | "try_from" => self.stands_for = Some(text(meta)?.parse()?),
            "with" | "deserialize_with" => {
                text(meta)?;
                self.by_function = true;
            }
            "flatten" | "content" => {
                return Err(meta.error(format!(
                    "the schema can't follow serde's `{word}`: name the fields, or give the type a schema with `impl Schema`"
                )));
            }
            // What is about writing, or about other traits.
            _ => {
                if meta.input.peek(Token![=]) {
                    meta.value()?.parse::<Expr>()?;
                } else if meta.input.peek(syn::token::Paren) {
                    meta.parse_nested_meta(|inner| {
                        if inner.input.peek(Token![=]) {
                            inner.value()?.parse::<Expr>()?;
                        }
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    }

    fn ours(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let word = meta.path.get_ident().map(|ident| ident.unraw().to_string()).unwrap_or_default();
        if word == "stands_for" {
            self.stands_for = Some(Type::parse(meta.value()?)?);
            self.by_function = false;
            return Ok(());
        }
        if !LIMITS.contains(&word.as_str()) {
            return Err(meta.error(format!("the schema knows `stands_for = Type` and {}", LIMITS.join(", "))));
        }
        let value: Lit = meta.value()?.parse()?;
        let number = match &value {
            Lit::Int(number) => number.base10_digits().to_owned(),
            Lit::Float(number) => number.base10_digits().to_owned(),
            _ => return Err(meta.error("a limit is a number")),
        };
        self.limits.push((word, number));
        Ok(())
    }
}

/// `rename = ".."`, or `rename(deserialize = "..")`.
fn renamed(meta: &ParseNestedMeta<'_>) -> Result<String> {
    if !meta.input.peek(syn::token::Paren) {
        return Ok(meta.value()?.parse::<LitStr>()?.value());
    }
    let mut name = None;
    meta.parse_nested_meta(|inner| {
        let text = inner.value()?.parse::<LitStr>()?.value();
        if inner.path.is_ident("deserialize") {
            name = Some(text);
        }
        Ok(())
    })?;
    name.ok_or_else(|| meta.error("name how it is read: rename(deserialize = \"..\")"))
}

fn case(meta: &ParseNestedMeta<'_>) -> Result<Case> {
    let text = renamed(meta)?;
    Case::parse(&text).ok_or_else(|| meta.error("serde has no such case"))
}
