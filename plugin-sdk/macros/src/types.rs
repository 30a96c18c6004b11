//! The schema of a struct or an enum.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, Result, Type, Variant, ext::IdentExt as _};

use crate::{
    attributes::Attributes,
    json::{Json, quoted},
    names::Case,
};

pub(crate) fn implement(input: &DeriveInput) -> Result<TokenStream> {
    if let Some(parameter) = input.generics.params.first() {
        return Err(Error::new_spanned(parameter, "the schema of a type with parameters can't be derived"));
    }
    let attributes = Attributes::read(&input.attrs)?;
    let mut json = Json::default();
    match (&attributes.stands_for, &input.data) {
        (Some(other), _) => json.described(other, &attributes.beside()),
        (None, Data::Struct(data)) => json.append(structure(&data.fields, &attributes, input.ident.span())?),
        (None, Data::Enum(data)) => json.append(choice(data.variants.iter().collect(), &attributes)?),
        (None, Data::Union(data)) => {
            return Err(Error::new_spanned(data.union_token, "serde reads no unions"));
        }
    }
    let (name, pieces) = (&input.ident, json.finish());
    Ok(quote! {
        #[automatically_derived]
        impl ::portcullis_sdk::Schema for #name {
            const PIECES: &'static [::portcullis_sdk::__json::Piece] = #pieces;
        }
    })
}

fn structure(fields: &Fields, attributes: &Attributes, at: Span) -> Result<Json> {
    let mut json = Json::default();
    match fields {
        Fields::Named(named) => {
            let named: Vec<&Field> = named.named.iter().collect();
            if attributes.transparent {
                let [only] = named[..] else { return Err(Error::new(at, "`transparent` is for one field")) };
                json.described(&only.ty, &attributes.beside());
            } else {
                json.append(object(&named, attributes, attributes.rename_all, None, &attributes.beside())?);
            }
        }
        Fields::Unnamed(unnamed) if unnamed.unnamed.len() == 1 => {
            json.described(&unnamed.unnamed[0].ty, &attributes.beside());
        }
        Fields::Unnamed(_) | Fields::Unit => {
            return Err(Error::new(at, "a schema is derived for named fields, or for one type in a bracket"));
        }
    }
    Ok(json)
}

/// The schema of an object with these fields; `tag` is a field with one value in front of them.
fn object(fields: &[&Field], owner: &Attributes, case: Case, tag: Option<(&str, &str)>, beside: &str) -> Result<Json> {
    let mut properties: Vec<Json> = Vec::new();
    let mut required: Vec<String> = Vec::new();
    if let Some((name, value)) = tag {
        let mut property = Json::default();
        property.raw(&format!("{}:{{\"const\":{}}}", quoted(name), quoted(value)));
        properties.push(property);
        required.push(quoted(name));
    }
    for field in fields {
        let attributes = Attributes::read(&field.attrs)?;
        if attributes.skip {
            continue;
        }
        let ident = field.ident.as_ref().map(|ident| ident.unraw().to_string()).unwrap_or_default();
        let name = attributes.rename.clone().unwrap_or_else(|| case.field(&ident));
        let ty = match &attributes.stands_for {
            Some(other) => other,
            None if attributes.by_function => {
                return Err(Error::new_spanned(
                    field,
                    "serde reads this field by a function: say what it looks like with #[schema(stands_for = Type)]",
                ));
            }
            None => &field.ty,
        };
        for name in std::iter::once(&name).chain(&attributes.aliases) {
            let mut property = Json::default();
            property.raw(&format!("{}:", quoted(name)));
            property.described(ty, &attributes.beside());
            properties.push(property);
        }
        let optional = attributes.default || owner.default || is_option(&field.ty);
        if !optional && attributes.aliases.is_empty() {
            required.push(quoted(&name));
        }
    }
    let mut json = Json::default();
    json.raw("{\"type\":\"object\"");
    if !beside.is_empty() {
        json.raw(&format!(",{beside}"));
    }
    json.raw(",\"properties\":{");
    json.list(properties);
    json.raw("}");
    if !required.is_empty() {
        json.raw(&format!(",\"required\":[{}]", required.join(",")));
    }
    if owner.deny_unknown_fields {
        json.raw(",\"additionalProperties\":false");
    }
    json.raw("}");
    Ok(json)
}

fn is_option(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"))
}

fn choice(variants: Vec<&Variant>, owner: &Attributes) -> Result<Json> {
    let mut forms = Vec::new();
    let mut words = Vec::new();
    for variant in variants {
        let attributes = Attributes::read(&variant.attrs)?;
        if attributes.skip {
            continue;
        }
        let ident: &Ident = &variant.ident;
        let name = attributes.rename.clone().unwrap_or_else(|| owner.rename_all.variant(&ident.unraw().to_string()));
        if matches!(variant.fields, Fields::Unit) && owner.tag.is_none() && !owner.untagged {
            words.extend(std::iter::once(&name).chain(&attributes.aliases).map(|word| quoted(word)));
        } else {
            forms.push(form(variant, &name, &attributes, owner)?);
        }
    }
    let mut json = Json::default();
    if !words.is_empty() {
        let mut word = Json::default();
        word.raw(&format!("{{\"enum\":[{}]}}", words.join(",")));
        forms.insert(0, word);
    }
    json.raw("{");
    if !owner.beside().is_empty() {
        json.raw(&format!("{},", owner.beside()));
    }
    json.raw("\"anyOf\":[");
    json.list(forms);
    json.raw("]}");
    Ok(json)
}

/// One variant that is more than a word.
fn form(variant: &Variant, name: &str, attributes: &Attributes, owner: &Attributes) -> Result<Json> {
    let case = match attributes.rename_all {
        Case::AsWritten => owner.rename_all_fields,
        own => own,
    };
    let of_fields = |tag, beside: &str| {
        let fields: Vec<&Field> = variant.fields.iter().collect();
        object(&fields, owner, case, tag, beside)
    };
    let beside = attributes.beside();
    let mut json = Json::default();
    match (&owner.tag, owner.untagged, &variant.fields) {
        (Some(tag), _, Fields::Named(_) | Fields::Unit) => json.append(of_fields(Some((tag, name)), &beside)?),
        (None, true, Fields::Named(_)) => json.append(of_fields(None, &beside)?),
        (None, true, Fields::Unnamed(one)) if one.unnamed.len() == 1 => json.described(&one.unnamed[0].ty, &beside),
        (None, true, Fields::Unit) => json.raw("{\"type\":\"null\"}"),
        (None, false, fields @ (Fields::Named(_) | Fields::Unnamed(_))) => {
            json.raw(&format!("{{\"type\":\"object\",\"properties\":{{{}:", quoted(name)));
            match fields {
                Fields::Unnamed(one) if one.unnamed.len() == 1 => json.described(&one.unnamed[0].ty, &beside),
                Fields::Named(_) => json.append(of_fields(None, &beside)?),
                _ => return Err(Error::new_spanned(variant, "a variant holds one type or named fields")),
            }
            json.raw(&format!("}},\"required\":[{}],\"additionalProperties\":false}}", quoted(name)));
        }
        _ => return Err(Error::new_spanned(variant, "the schema can't follow this variant: give it named fields")),
    }
    Ok(json)
}
