//! The definition of a tool, prompt or resource under another name or URI: the server's raw bytes but for that.

use crate::{
    envelope::{ParseError, ParseLimits},
    scan::{Keys, Scanner},
    splice::quote,
};

/// A tool's (or prompt's) definition under another name. All but `name` and `description` is kept
/// byte for byte.
///
/// # Errors
/// If `raw` is no object with one string `name`.
pub fn rename(raw: &str, name: &str, description: Option<&str>) -> Result<String, ParseError> {
    replace(raw, "name", name, description)
}

/// A definition with another text for `member`, such as `uri`, and, where asked, another `description`. Everything else is
/// kept byte for byte.
///
/// # Errors
/// If `raw` is no object with one string of that name.
pub fn replace(raw: &str, member: &str, text: &str, description: Option<&str>) -> Result<String, ParseError> {
    const PLACE: &str = "a definition";
    let mut scanner = Scanner::new(raw, ParseLimits::default().max_depth);
    scanner.space();
    if scanner.peek() != Some(b'{') {
        return Err(ParseError::Envelope("a definition must be an object"));
    }
    let mut keys = Keys::default();
    let mut name_at = None;
    let mut description_at = None;
    scanner.object(|s, key| {
        let key = key.decode()?;
        let place = match &*key {
            key_text if key_text == member => {
                keys.known(0, &key, PLACE)?;
                if s.peek() != Some(b'"') {
                    return Err(ParseError::Envelope("the name or URI of a definition must be a string"));
                }
                &mut name_at
            }
            "description" => {
                keys.known(1, &key, PLACE)?;
                &mut description_at
            }
            _ => return s.skip(),
        };
        let start = s.pos;
        s.skip()?;
        *place = Some(start..s.pos);
        Ok(())
    })?;
    scanner.end()?;
    let Some(name_at) = name_at else {
        return Err(ParseError::Envelope("a definition without its name or URI"));
    };
    let mut edits = vec![(name_at.clone(), quote(text).into_owned())];
    if let Some(description) = description {
        match description_at {
            Some(range) => edits.push((range, quote(description).into_owned())),
            None => edits[0].1.push_str(&format!(",\"description\":{}", quote(description))),
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(raw.len() + text.len() + description.map_or(0, str::len) + 20);
    let mut done = 0;
    for (range, new) in edits {
        out.push_str(&raw[done..range.start]);
        out.push_str(&new);
        done = range.end;
    }
    out.push_str(&raw[done..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_other_byte() {
        let raw = r#"{ "title":"T", "name" : "echo", "inputSchema":{"name":1.10,"z":1,"a":12345678901234567890123}, "x-vendor":{} }"#;
        assert_eq!(rename(raw, "srv__echo", None).unwrap(), raw.replace("\"echo\"", "\"srv__echo\""));
        assert_eq!(
            rename(r#"{"description":"old","name":"a"}"#, "b", Some("say \"hi\"")).unwrap(),
            r#"{"description":"say \"hi\"","name":"b"}"#
        );
        assert_eq!(rename(r#"{"name":"a","k":1}"#, "b", Some("d")).unwrap(), r#"{"name":"b","description":"d","k":1}"#);
    }

    #[test]
    fn readdresses_resources() {
        let raw = r#"{"uri" : "a://b","name":"uri","_meta":{"uri":1}}"#;
        assert_eq!(replace(raw, "uri", "c://d", None).unwrap(), raw.replace("a://b", "c://d"));
        assert!(replace(raw, "uriTemplate", "x", None).is_err());
    }

    #[test]
    fn refuses_what_is_no_tool() {
        for bad in ["[]", "{}", r#"{"name":1}"#, r#"{"name":"a","n\u0061me":"b"}"#, r#"{"name":"a"} x"#] {
            assert!(rename(bad, "x", None).is_err(), "{bad}");
        }
    }
}
