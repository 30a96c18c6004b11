//! JSON that is put together while compiling: texts that are known now, and other types' schemas in between.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};

/// A piece of JSON, as the code that makes it.
#[derive(Default)]
pub(crate) struct Json {
    pieces: Vec<TokenStream>,
    text: String,
}

impl Json {
    /// Text as it stands.
    pub(crate) fn raw(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The schema of a type.
    pub(crate) fn of(&mut self, ty: &impl ToTokens) {
        self.flush();
        self.pieces.push(quote!(::portcullis_sdk::__json::Piece::All(
            <#ty as ::portcullis_sdk::Schema>::PIECES
        )));
    }

    /// The schema of a type with a description and limits beside it.
    pub(crate) fn described(&mut self, ty: &impl ToTokens, beside: &str) {
        if beside.is_empty() {
            return self.of(ty);
        }
        self.raw(&format!("{{{beside},\"allOf\":["));
        self.of(ty);
        self.raw("]}");
    }

    /// All of another one.
    pub(crate) fn append(&mut self, mut other: Self) {
        if other.pieces.is_empty() {
            self.text.push_str(&other.text);
            return;
        }
        self.flush();
        other.flush();
        self.pieces.append(&mut other.pieces);
    }

    /// Several, with commas between them.
    pub(crate) fn list(&mut self, items: Vec<Self>) {
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.raw(",");
            }
            self.append(item);
        }
    }

    /// The code of all pieces.
    pub(crate) fn finish(mut self) -> TokenStream {
        self.flush();
        let pieces = self.pieces;
        quote!(&[#(#pieces),*])
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.pieces.push(quote!(::portcullis_sdk::__json::Piece::Raw(#text)));
        }
    }
}

/// A JSON string with its quotes (RFC 8259 section 7).
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
