//! What is too large, and what is left of it.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Decision, Error, Setup, ToolCall, ToolResult, Value, fake};
use serde_json::json;

use crate::SizeCap;

fn review(config: &serde_json::Value, result: &serde_json::Value) -> (Decision, fake::Call) {
    let _host = fake::Host::new().config(config).install();
    let call = fake::Call::new("files", "read");
    let decision =
        SizeCap::review(fake::Caller::new("user:ann").lend(), call.lend(), fake::ToolOutcome::new(result).lend());
    (decision.unwrap(), call)
}

fn shortened(result: &serde_json::Value, hint: Option<&str>) -> serde_json::Value {
    let config = json!({"rules": [{"results": "2KiB", "action": "truncate", "hint": hint}]});
    match review(&config, result).0 {
        Decision::Modify(bytes) => {
            assert!(bytes.len() <= 2048, "{} bytes", bytes.len());
            serde_json::from_slice(&bytes).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_over_their_size_are_refused() {
    let config = json!({"rules": [
        {"tools": ["upload"], "arguments": "1MiB"},
        {"tools": ["read"], "arguments": 20, "hint": "send the path only"},
    ]});
    let _host = fake::Host::new().config(config).install();
    let decide = |tool: &str, arguments: &str| {
        let call = fake::Call::new("files", tool).with_arguments(arguments);
        SizeCap::decide(fake::Caller::new("user:ann").lend(), call.lend()).unwrap()
    };
    assert_eq!(decide("read", r#"{"path": "/a/b/cde"}"#), Decision::Allow, "exactly 20 bytes");
    assert_eq!(
        decide("read", r#"{"path": "/a/b/cdef"}"#),
        Decision::deny(
            "too-large",
            "the arguments of read take 21 bytes, and 20 bytes are the most here: send the path only"
        )
    );
    assert_eq!(decide("upload", r#"{"path": "/a/b/cdef"}"#), Decision::Allow);
    assert_eq!(decide("other", r#"{"path": "/a/b/cdef"}"#), Decision::Allow);
}

#[test]
fn a_text_is_cut_and_says_so() {
    let result =
        json!({"content": [{"type": "text", "text": "short"}, {"type": "text", "text": "é\"\n".repeat(1_000)}]});
    let short = shortened(&result, Some("Use `offset`."));
    let content = short["content"].as_array().unwrap();
    assert_eq!(content.len(), 3);
    assert_eq!(content[0]["text"], "short");
    let cut = content[1]["text"].as_str().unwrap();
    assert!(cut.len() > 500 && "é\"\n".repeat(1_000).starts_with(cut));
    let note = content[2]["text"].as_str().unwrap();
    for words in ["2 KiB are the most", "ends in the middle", "Ask for less", "Use `offset`."] {
        assert!(note.contains(words), "{note}");
    }
    assert!(short.get("isError").is_none());
}

#[test]
fn what_can_not_be_cut_is_left_out() {
    let image = json!({"type": "image", "data": "A".repeat(4_000), "mimeType": "image/png"});
    let result = json!({"content": [{"type": "text", "text": "a"}, image, {"type": "text", "text": "behind"}]});
    let short = shortened(&result, None);
    let content = short["content"].as_array().unwrap();
    assert_eq!((content.len(), &content[0]["text"]), (2, &json!("a")));
    assert!(content[1]["text"].as_str().unwrap().contains("2 more content blocks are left out"), "{short}");
}

#[test]
fn structured_content_stays_whole_or_goes() {
    let big = json!({"content": [{"type": "text", "text": "a"}], "structuredContent": {"rows": "x".repeat(3_000)}});
    let short = shortened(&big, None);
    assert!(
        short.get("structuredContent").is_none() && short["isError"] == true,
        "a client must not check it: {short}"
    );
    assert!(short["content"][1]["text"].as_str().unwrap().contains("structured content is left out"));
    let small = json!({"content": [{"type": "image", "data": "A".repeat(4_000), "mimeType": "image/png"}], "structuredContent": {"a": 1}});
    let short = shortened(&small, None);
    assert!(short["structuredContent"] == json!({"a": 1}) && short.get("isError").is_none(), "{short}");
}

#[test]
fn the_tightest_rule_counts_and_refusing_before_shortening() {
    let config =
        json!({"rules": [{"results": "1MiB"}, {"results": "1KiB", "action": "truncate"}, {"results": "1KiB"}]});
    let result = json!({"content": [{"type": "text", "text": "x".repeat(2_000)}]});
    assert!(
        matches!(review(&config, &result).0, Decision::Deny(denial) if denial.message.contains("result of read take 2.0 KiB"))
    );
    let (decision, call) = review(&json!({"rules": [{"results": "1KiB", "action": "truncate"}]}), &result);
    assert!(matches!(decision, Decision::Modify(_)));
    assert_eq!(call.annotation("shortened-from"), Some(Value::Number(result.to_string().len() as f64)));
}

#[test]
fn what_is_too_large_to_be_read_is_refused() {
    let config = json!({"rules": [{"results": "4MiB", "action": "truncate"}]});
    let result = json!({"content": [{"type": "text", "text": "x".repeat(5 << 20)}]});
    assert!(matches!(review(&config, &result).0, Decision::Deny(_)));
}

#[test]
fn errors_stay_errors_and_what_else_there_is_stays() {
    let text = json!([{"type": "text", "text": "x".repeat(5_000)}]);
    let short = shortened(&json!({"content": text, "isError": true, "_meta": {"a": 1}}), None);
    assert_eq!((&short["isError"], &short["_meta"]), (&json!(true), &json!({"a": 1})));
}

#[test]
fn wrong_configurations_are_refused_naming_the_place() {
    for (config, words) in [
        (json!({}), "missing field `rules`"),
        (json!({"rules": []}), "at least one"),
        (json!({"rules": [{}]}), "rules[0].arguments"),
        (json!({"rules": [{"arguments": "1 megabyte"}]}), "no size"),
        (json!({"rules": [{"arguments": 1, "action": "truncate"}]}), "never shortened"),
        (json!({"rules": [{"results": 10, "action": "truncate"}]}), "rules[0].results"),
        (json!({"rules": [{"results": "5MiB", "action": "truncate"}]}), "rules[0].results"),
        (json!({"rules": [{"results": 10, "servers": [""]}]}), "servers[0]: is empty"),
        (json!({"rules": [{"result": 10}]}), "unknown field"),
    ] {
        let _host = fake::Host::new().config(&config).install();
        let refused = SizeCap::prepare();
        assert!(matches!(&refused, Err(Error::InvalidConfig(why)) if why.contains(words)), "{config}: {refused:?}");
    }
}
