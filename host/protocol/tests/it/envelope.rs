//! The envelope parser against serde_json, and against what an attacker would send.

use portcullis_protocol::{Kind, ParseError, ParseLimits, parse, strict};
use proptest::prelude::*;

use crate::json;

fn limits() -> ParseLimits {
    ParseLimits::default()
}

proptest! {
    #[test]
    fn reads_what_serde_reads(
        id in prop_oneof![Just("7".to_owned()), json::string()],
        name in json::string(),
        arguments in json::text(),
        extra in json::text(),
        meta in json::object(json::text()),
        s in json::space(),
    ) {
        let text = format!(
            "{s}{{\"x\":{extra},{s}\"id\":{id},\"jsonrpc\"{s}:\"2.0\",\"params\":{{\"_meta\":{meta},\"name\":{name},\"arguments\":{arguments}}},\"method\":\"tools/call\"}}{s}"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let message = parse(text.as_bytes(), &limits()).unwrap();
        prop_assert_eq!(message.kind, Kind::Request);
        prop_assert_eq!(message.method(), "tools/call");
        prop_assert_eq!(message.id.unwrap().raw, &id);
        prop_assert_eq!(message.name(), value["params"]["name"].as_str());
        let params = message.params.as_ref().unwrap();
        prop_assert_eq!(params.arguments.unwrap().raw, &arguments);
        prop_assert_eq!(&text[params.arguments.unwrap().range()], &arguments);
        prop_assert_eq!(params.meta.as_ref().unwrap().piece.raw, &meta);
        prop_assert!(strict::check(arguments.as_bytes(), &limits()).is_ok());
    }

    #[test]
    fn accepts_and_refuses_the_same_json_as_serde(bytes in mutated()) {
        let ours = strict::check(&bytes, &limits());
        let serde = serde_json::from_slice::<serde_json::Value>(&bytes);
        match (&ours, &serde) {
            // Ours is stricter about duplicate keys, and does not read numbers into floats.
            (Err(ParseError::Duplicate { .. }), Ok(_)) => {}
            (Ok(()), Err(e)) if e.to_string().starts_with("number out of range") => {}
            _ => prop_assert_eq!(ours.is_ok(), serde.is_ok(), "{:?} {:?} {:?}", ours, serde, String::from_utf8_lossy(&bytes)),
        }
    }

    #[test]
    fn nothing_makes_it_panic(bytes in mutated(), noise in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&bytes, &limits());
        let _ = parse(&noise, &limits());
        let _ = portcullis_protocol::tool::rename(&String::from_utf8_lossy(&bytes), "x", Some("d"));
    }
}

/// JSON text with a few bytes changed, cut or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let envelope = (json::text(), json::text()).prop_map(|(a, b)| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":{{\"_meta\":{{\"k\":{a}}},\"arguments\":{b}}}}}"
        )
    });
    (
        prop_oneof![json::text(), envelope],
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..3),
    )
        .prop_map(|(text, changes)| {
            let mut bytes = text.into_bytes();
            for (at, byte, how) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.truncate(at),
                    2 => bytes.insert(at, byte),
                    _ => {
                        bytes.remove(at);
                    }
                }
            }
            bytes
        })
}

fn refused(text: &str) -> ParseError {
    parse(text.as_bytes(), &limits()).expect_err(text)
}

#[test]
fn duplicate_keys_are_refused_however_they_are_written() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"a","id":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1,"x":2}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{},"n\u0061me":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"a":1,"a":2}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":1,"progressToken":2}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{},"_meta":{}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","resultType":"task"}}"#,
    ] {
        assert!(matches!(refused(text), ParseError::Duplicate { .. }), "{text}");
    }
}

#[test]
fn what_is_no_message_is_named() {
    for (text, code) in [
        ("", -32700),
        ("{", -32700),
        ("nope", -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a"} {}"#, -32700),
        ("[]", -32600),
        ("1", -32600),
        (r#"{"id":1,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","result":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":3}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":{"_meta":{"progressToken":{}}}}"#, -32602),
    ] {
        assert_eq!(refused(text).rpc_code(), code, "{text}");
    }
    assert!(matches!(parse(b"{\"a\":\"\xff\"}", &limits()), Err(ParseError::NotUtf8 { at: 6 })));
}

#[test]
fn size_and_depth_are_bounded() {
    let deep = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{{\"x\":{}", "[".repeat(1_000_000));
    assert!(matches!(refused(&deep), ParseError::TooDeep { limit: 64 }));
    let small = ParseLimits { max_bytes: 10, max_depth: 64 };
    assert!(matches!(parse(&[b' '; 11], &small), Err(ParseError::TooLarge { size: 11, limit: 10 })));
    // A limit that an operator set too high must not cost the stack.
    let high = ParseLimits { max_bytes: 4 << 20, max_depth: usize::MAX };
    assert!(matches!(parse(deep.as_bytes(), &high), Err(ParseError::TooDeep { limit: 512 })));
    let keys: Vec<String> = (0..5000).map(|i| format!("\"k{i}\":0")).collect();
    let wide = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{{{}}}}}", keys.join(","));
    assert!(matches!(refused(&wide), ParseError::TooManyKeys { .. }));
}

#[test]
fn kinds_are_told_apart() {
    let kind = |text: &str| parse(text.as_bytes(), &limits()).unwrap().kind;
    assert_eq!(kind(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), Kind::Notification);
    assert_eq!(kind(r#"{"jsonrpc":"2.0","id":"a","result":{}}"#), Kind::Response);
    assert_eq!(kind(r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"x"},"id":null}"#), Kind::Response);
    assert_eq!(kind(r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"x"}}"#), Kind::Response);
}

/// Not a benchmark, but a guard against a parser that has become slow by an order: a build without optimisation needs
/// some microseconds for a call of this size.
#[test]
fn a_call_is_read_in_microseconds() {
    let text = call_text();
    let best = (0..50)
        .map(|_| {
            let start = std::time::Instant::now();
            for _ in 0..100 {
                std::hint::black_box(parse(std::hint::black_box(text.as_bytes()), &limits()).unwrap());
            }
            start.elapsed() / 100
        })
        .min()
        .unwrap();
    println!("{} bytes in {best:?}", text.len());
    assert!(best < std::time::Duration::from_micros(60), "{best:?}");
}

fn call_text() -> String {
    r#"{"jsonrpc":"2.0","id":12345,"method":"tools/call","params":{"name":"github__search_issues","arguments":{"query":"is:open label:bug","page":1,"perPage":30},"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}}}"#.to_owned()
}
