//! A result (2025-06-18 server/tools "Tool Result") made to fit: content blocks stay in their order as long as there is room, the
//! last text is cut, and a note stands at the end. What stays is byte for byte as it was.

use std::{borrow::Cow, collections::BTreeMap};

use portcullis_plugin_kit::Size;
use portcullis_sdk::Error;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Room for the note and for what holds the result together, beside the hint.
const FRAME: usize = 512;

/// A content block, if it is a text.
#[derive(Deserialize)]
struct Block<'a> {
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

/// The result in at most `limit` bytes.
///
/// # Errors
/// Where it is no result.
pub(crate) fn shorten(json: &[u8], limit: u64, hint: Option<&str>) -> Result<Vec<u8>, Error> {
    let mut members: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(json)?;
    let content: Vec<&RawValue> = match members.remove("content") {
        Some(content) => serde_json::from_str(content.get())?,
        None => Vec::new(),
    };
    let structured = members.remove("structuredContent");
    let is_error = members.remove("isError").is_some_and(|error| error.get() == "true");
    // What else there is belongs to the protocol and stays.
    let others: String =
        members.iter().map(|(name, value)| format!(",{}:{}", serde_json::Value::from(&**name), value.get())).collect();
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(mut room) = limit.checked_sub(FRAME + 2 * hint.map_or(0, str::len) + others.len()) else {
        return Err(Error::denied("too-large", "a result can't be shortened to so little"));
    };
    let mut kept: Vec<String> = Vec::new();
    let (mut left_out, mut cut) = (0_usize, false);
    for block in &content {
        let written = block.get();
        if left_out == 0 && !cut && written.len() < room {
            room -= written.len() + 1;
            kept.push(written.to_owned());
            continue;
        }
        let text =
            serde_json::from_str::<Block<'_>>(written).ok().filter(|block| block.r#type == "text").and_then(|b| b.text);
        match text {
            Some(text) if left_out == 0 && !cut => {
                let (piece, encoded) = beginning(&text, room.saturating_sub(64));
                cut = true;
                if !piece.is_empty() {
                    room = room.saturating_sub(encoded.len() + 64);
                    kept.push(format!(r#"{{"type":"text","text":{encoded}}}"#));
                }
            }
            _ => left_out += 1,
        }
    }
    // Data that a schema speaks of can't be cut to anything that still fits it. An error need not fit it.
    let had_structured = structured.is_some();
    let structured = structured.filter(|data| data.get().len() + 32 < room);
    let dropped = had_structured && structured.is_none();
    let mut note = format!(
        "[Shortened by the gateway: this result has {}, and {} are the most here.",
        Size(json.len() as u64),
        Size(limit as u64)
    );
    if cut {
        note.push_str(" The text above ends in the middle.");
    }
    if left_out > 0 {
        note.push_str(&format!(" {left_out} more content blocks are left out."));
    }
    if dropped {
        note.push_str(" Its structured content is left out.");
    }
    note.push_str(" Ask for less at a time: a narrower query, fewer fields, or a smaller page.");
    if let Some(hint) = hint {
        note.push(' ');
        note.push_str(hint);
    }
    note.push(']');
    kept.push(format!(r#"{{"type":"text","text":{}}}"#, serde_json::Value::from(note)));
    let structured = structured.map(|data| format!(r#","structuredContent":{}"#, data.get())).unwrap_or_default();
    let error = if is_error || dropped { r#","isError":true"# } else { "" };
    Ok(format!(r#"{{"content":[{}]{structured}{error}{others}}}"#, kept.join(",")).into_bytes())
}

/// As much of a text as takes at most so many bytes as a JSON string, and that string.
fn beginning(text: &str, room: usize) -> (&str, String) {
    let mut end = text.len().min(room);
    loop {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let encoded = serde_json::Value::from(&text[..end]).to_string();
        if encoded.len() <= room + 2 || end == 0 {
            return (&text[..end], encoded);
        }
        // Escapes take more: shrink by what is over, which is at least a byte.
        end -= (encoded.len() - room - 2).div_ceil(6).min(end);
    }
}
