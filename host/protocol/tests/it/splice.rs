//! What is spliced differs from what came in the parts replaced, and in nothing else.

use portcullis_protocol::{
    ParseLimits, parse,
    splice::{self, MODERN_CACHEABLE, MODERN_RESULT, MetaEdit, Raw, RequestEdit, ResponseEdit},
};
use proptest::prelude::*;

use crate::json;

const MODERN: MetaEdit<'static> = MetaEdit::Modern {
    version: "2026-07-28",
    capabilities: "{\"elicitation\":{}}",
    client_info: Some("{\"name\":\"portcullis\",\"version\":\"1\"}"),
    log_level: None,
};
const PREFIX: &str = "io.modelcontextprotocol/";

fn limits() -> ParseLimits {
    ParseLimits::default()
}

fn spliced(text: &str, edit: &RequestEdit<'_>) -> String {
    let out = splice::request(&parse(text.as_bytes(), &limits()).unwrap(), edit);
    parse(&out, &limits()).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out)));
    String::from_utf8(out.to_vec()).unwrap()
}

fn metas() -> impl Strategy<Value = String> {
    // Every subset and order of protocol members among others, with odd white space.
    let member = prop_oneof![
        Just(format!("\"{PREFIX}protocolVersion\":\"2026-07-28\"")),
        Just(format!("\"{PREFIX}clientCapabilities\" : {{\"a\":1}}")),
        Just(format!("\"{PREFIX}clientInfo\":{{}}")),
        Just(format!("\"{PREFIX}logLevel\":\"debug\"")),
        Just("\"progressToken\":\"tok\"".to_owned()),
        Just("\"vendor/x\":1.10".to_owned()),
        Just("\"vendor/y\":12345678901234567890123".to_owned()),
        Just(format!("\"{PREFIX}related-task\":{{}}")),
    ];
    (prop::collection::vec((json::space(), member, json::space()), 0..8)).prop_map(|members| {
        let mut seen = Vec::new();
        let mut parts = Vec::new();
        for (a, m, b) in members {
            let key = m.split(':').next().unwrap_or_default().trim().to_owned();
            if !seen.contains(&key) {
                seen.push(key);
                parts.push(format!("{a}{m}{b}"));
            }
        }
        format!("{{{}}}", parts.join(","))
    })
}

proptest! {
    #[test]
    fn requests_keep_all_but_what_is_replaced(
        meta in prop::option::of(metas()),
        arguments in prop::option::of(json::text()),
        extra in json::text(),
        name in json::string(),
        new_name in "\\PC{0,12}",
        era in 0..3u8,
    ) {
        let arguments_text = arguments.as_ref().map(|a| format!(",\"arguments\":{a}")).unwrap_or_default();
        let meta_text = meta.as_ref().map(|m| format!("\"_meta\": {m},")).unwrap_or_default();
        let text = format!(
            "{{\"jsonrpc\":\"2.0\",\"params\":{{{meta_text}\"name\":{name},\"x\":{extra}{arguments_text}}},\"id\":\"client\",\"method\":\"tools/call\"}}"
        );
        let edit = RequestEdit {
            id: Some(Raw::Number(42)),
            name: Some(&new_name),
            progress_token: Some(Raw::Number(43)),
            meta: match era { 0 => MetaEdit::Keep, 1 => MODERN, _ => MetaEdit::Legacy },
            ..RequestEdit::default()
        };
        let out = spliced(&text, &edit);
        let message = parse(out.as_bytes(), &limits()).unwrap();
        prop_assert_eq!(message.id.unwrap().raw, "42");
        prop_assert_eq!(message.name(), Some(new_name.as_str()));
        let params = message.params.as_ref().unwrap();
        prop_assert_eq!(params.arguments.map(|a| a.raw), arguments.as_deref());
        let raw = format!("\"x\":{extra}");
        prop_assert!(out.contains(&raw));

        let before: serde_json::Value = serde_json::from_str(&text).unwrap();
        let after: serde_json::Value = serde_json::from_str(&out).unwrap();
        let mut wanted = before["params"]["_meta"].clone();
        if era == 1 && wanted.is_null() {
            wanted = serde_json::json!({});
        }
        if let Some(members) = wanted.as_object_mut() {
            if members.contains_key("progressToken") {
                members.insert("progressToken".into(), 43.into());
            }
            if era > 0 {
                for key in ["protocolVersion", "clientCapabilities", "clientInfo"] {
                    members.remove(&format!("{PREFIX}{key}"));
                }
            }
            if era == 2 {
                members.remove(&format!("{PREFIX}logLevel"));
            }
            if era == 1 {
                members.insert(format!("{PREFIX}protocolVersion"), "2026-07-28".into());
                members.insert(format!("{PREFIX}clientCapabilities"), serde_json::json!({"elicitation":{}}));
                members.insert(format!("{PREFIX}clientInfo"), serde_json::json!({"name":"portcullis","version":"1"}));
            }
        }
        prop_assert_eq!(&after["params"]["_meta"], &wanted, "{}", out);
    }

    #[test]
    fn an_edit_of_nothing_changes_nothing(extra in json::text(), meta in metas()) {
        let text = format!(" {{\"method\":\"x\" , \"jsonrpc\":\"2.0\",\"id\":1,\"params\":{{\"a\":{extra},\"_meta\":{meta}}}}} ");
        prop_assert_eq!(spliced(&text, &RequestEdit::default()), text);
    }

    #[test]
    fn responses_keep_all_but_their_id(body in json::object(json::text()), extra in json::text()) {
        let text = format!("{{\"result\":{body},\"x\":{extra},\"id\":42,\"jsonrpc\":\"2.0\"}}");
        let message = parse(text.as_bytes(), &limits()).unwrap();
        let legacy = splice::response(&message, &ResponseEdit { id: "\"c\"", defaults: &[] });
        let wanted = text.replace("\"id\":42,\"jsonrpc\"", "\"id\":\"c\",\"jsonrpc\"");
        prop_assert_eq!(&legacy[..], wanted.as_bytes());
        let modern = splice::response(&message, &ResponseEdit { id: "1", defaults: MODERN_CACHEABLE });
        let parsed = parse(&modern, &limits()).unwrap();
        let result = parsed.result.unwrap();
        prop_assert_eq!(result.result_type.unwrap().value, "complete");
        prop_assert!(result.piece.raw.ends_with(&body[1..]));
    }
}

#[test]
fn members_are_added_to_whatever_there_is() {
    for (text, wanted) in [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"a":1},"_meta":{M}}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"a":1},"_meta":{M}}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":[],"_meta":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"a":1},"_meta":{M}}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"a":1}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{"a":1},"_meta":{M,"a":1}}}"#,
        ),
    ] {
        let meta = MetaEdit::Modern { version: "2026-07-28", capabilities: "{}", client_info: None, log_level: None };
        let edit = RequestEdit { arguments: Some("{\"a\":1}"), meta, ..RequestEdit::default() };
        let m = "\"io.modelcontextprotocol/protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{}";
        assert_eq!(spliced(text, &edit), wanted.replace('M', m));
    }
}

#[test]
fn results_that_say_their_type_keep_it_and_errors_are_kept() {
    let apply = |text: &str| {
        let message = parse(text.as_bytes(), &limits()).unwrap();
        String::from_utf8(splice::response(&message, &ResponseEdit { id: "9", defaults: MODERN_RESULT }).to_vec())
            .unwrap()
    };
    for (text, wanted) in [
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete"}}"#),
        (
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"task","n":1.0}}"#,
            r#"{"jsonrpc":"2.0","id":9,"result":{"resultType":"task","n":1.0}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"m","data":{"z":1,"a":2},"x":0}}"#,
            r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32042,"message":"m","data":{"z":1,"a":2},"x":0}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"},"id":9}"#,
        ),
    ] {
        assert_eq!(apply(text), wanted);
    }
}

#[test]
fn progress_tokens_are_put_back() {
    let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1.50,"progressToken":43}}"#;
    let message = parse(text.as_bytes(), &limits()).unwrap();
    assert_eq!(splice::notification(&message, Some("\"mine\"")), text.replace("43", "\"mine\""));
    assert_eq!(splice::notification(&message, None), text);
}
