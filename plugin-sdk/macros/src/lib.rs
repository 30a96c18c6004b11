//! `#[derive(Schema)]`: the JSON Schema of a configuration's type, made while the plugin is compiled.
//!
//! It follows what serde is told: names, defaults, tags. What it can't follow it refuses, at the place where it stands.

mod attributes;
mod json;
mod names;
mod types;

use proc_macro::TokenStream;

/// The JSON Schema of a type that serde reads, for `export!(..; config: TYPE)`. Comments become descriptions.
///
/// Attributes of fields: `#[schema(stands_for = OtherType)]` where serde reads the field by a function, and limits that serde can't express
/// but the type checks, such as `#[schema(minimum = 1)]`, `maximum`, `minLength`, `maxLength`, `minItems`, `maxItems`.
#[proc_macro_derive(Schema, attributes(schema, serde))]
pub fn schema(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    types::implement(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}
