//! What each pattern finds, where rules look, and what stands there afterwards.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use portcullis_sdk::{Call, Decision, Error, Setup, ToolCall, ToolResult, Value, fake};

use crate::{Redact, known};

fn arguments(config: &str, json: &str) -> Decision {
    let _host = fake::Host::new().config(config).install();
    Redact::decide(fake::Caller::new("user:ann").lend(), call(json).lend()).unwrap()
}

fn result(config: &str, json: &str) -> Decision {
    let _host = fake::Host::new().config(config).install();
    let outcome = fake::ToolOutcome::new(json);
    Redact::review(fake::Caller::new("user:ann").lend(), call("{}").lend(), outcome.lend()).unwrap()
}

fn call(json: &str) -> fake::Call {
    fake::Call::new("crm", "add_note").with_arguments(json)
}

fn modified(json: &str) -> Decision {
    Decision::Modify(json.as_bytes().to_vec())
}

#[test]
fn each_known_pattern_finds_its_own_and_not_its_neighbours() {
    let found = |name: &str, text: &str| -> Vec<String> {
        let config = format!(r##"{{"rules": [{{"patterns": ["{name}"], "with": "#"}}]}}"##);
        let json = serde_json::json!({"t": text}).to_string();
        match arguments(&config, &json) {
            Decision::Allow => vec![text.to_owned()],
            Decision::Modify(bytes) => {
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                vec![value["t"].as_str().unwrap().to_owned()]
            }
            other => panic!("{other:?}"),
        }
    };
    for (name, text, left) in [
        ("email", "to ann.o'neil+x@mail.example.com, now", "to ann.o'#, now"),
        ("email", "a@b and user@localhost", "a@b and user@localhost"),
        ("credit-card", "card 4111 1111 1111 1111.", "card #."),
        ("credit-card", "no 12 4111111111111111", "no 12 #"),
        ("credit-card", "4111-1111-1111-1112", "4111-1111-1111-1112"),
        ("credit-card", "0000000000000000 and 41111111111111111111", "0000000000000000 and 41111111111111111111"),
        ("credit-card", "5555555555554444 99", "# 99"),
        ("iban", "DE89 3704 0044 0532 0130 00 EURO", "# EURO"),
        ("iban", "GB82WEST12345698765432", "#"),
        ("iban", "NL91ABNA0417164300 TEXT and DE89370400440532013001", "# TEXT and DE89370400440532013001"),
        ("phone", "call +49 (30) 901820 or 1234567", "call # or 1234567"),
        ("us-ssn", "078-05-1120 000-12-3456 912-12-1234", "# 000-12-3456 912-12-1234"),
        ("ipv4", "10.0.0.1 and 300.1.1.1 and 1.2.3", "# and 300.1.1.1 and 1.2.3"),
        ("aws-key", "AKIAIOSFODNN7EXAMPLE XAKIAIOSFODNN7EXAMPLE", "# XAKIAIOSFODNN7EXAMPLE"),
        ("private-key", "a\n-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\nb", "a\n#\nb"),
        ("private-key", "-----BEGIN PRIVATE KEY-----\nMII cut", "#"),
        ("private-key", "-----BEGIN PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----"),
        ("jwt", "t eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln.", "t #."),
        ("github-token", "ghp_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa gho_short", "# gho_short"),
        ("slack-token", "xoxb-123456789012-abc", "#"),
        ("google-key", "AIzaSyA-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "#"),
        ("stripe-key", "sk_live_aaaaaaaaaaaaaaaa pk_live_aaaaaaaaaaaaaaaa", "# pk_live_aaaaaaaaaaaaaaaa"),
        ("portcullis-token", "pcl_aaaaaaaaaaaaaaaa", "#"),
        ("bearer", "Authorization: Bearer abcdefghijklmnop==, bearer of news", "Authorization: #, bearer of news"),
    ] {
        assert_eq!(found(name, text), [left], "{name}");
    }
    for group in ["secrets", "personal"] {
        assert!(known::by_name(group).len() > 4);
        for one in known::by_name(group) {
            assert_eq!(known::by_name(one.name).len(), 1, "{}", one.name);
        }
    }
}

#[test]
fn everything_else_stays_as_it_was_written() {
    let config = r#"{"rules": [{"patterns": ["email"]}]}"#;
    let json = r#"{ "b": 1.50, "a": ["ann@x.example", 12345678901234567890], "bob@x.example": null }"#;
    let redacted = r#"{ "b": 1.50, "a": ["[email]", 12345678901234567890], "[email]": null }"#;
    assert_eq!(arguments(config, json), modified(redacted));
    assert_eq!(arguments(config, r#"{"a": "nobody"}"#), Decision::Allow);
}

#[test]
fn numbers_are_looked_at_as_well() {
    let config = r#"{"rules": [{"patterns": ["credit-card"]}]}"#;
    assert_eq!(
        arguments(config, r#"{"card": 4111111111111111, "n": 5}"#),
        modified(r#"{"card": "[credit-card]", "n": 5}"#)
    );
}

#[test]
fn paths_take_whole_values_and_narrow_patterns() {
    let config = r##"{"rules": [
        {"name": "gone", "paths": ["/**/password"]},
        {"paths": ["/notes"], "regex": "[0-9]+", "with": "#"}
    ]}"##;
    let json = r#"{"user": {"password": {"old": 1}}, "notes": [{"t": "room 12"}], "t": "room 12"}"#;
    let redacted = r##"{"user": {"password": "[gone]"}, "notes": [{"t": "room #"}], "t": "room 12"}"##;
    assert_eq!(arguments(config, json), modified(redacted));
}

#[test]
fn data_of_a_result_is_found_where_servers_put_it() {
    let config = r#"{"rules": [{"name": "p", "paths": ["/user/password"]}, {"patterns": ["email"]}]}"#;
    let json = r#"{"content":[{"type":"text","text":"{\"user\":{\"password\":\"x\",\"mail\":\"a@b.example\"}}"},{"type":"text","text":"ask c@d.example"},{"type":"image","data":"YUBiLmV4YW1wbGU=","mimeType":"image/png"},{"type":"resource","resource":{"uri":"file:///x","text":"e@f.example"}}],"structuredContent":{"user":{"password":"x","mail":"a@b.example"}},"user":{"password":"y"}}"#;
    let redacted = r#"{"content":[{"type":"text","text":"{\"user\":{\"password\":\"[p]\",\"mail\":\"[email]\"}}"},{"type":"text","text":"ask [email]"},{"type":"image","data":"YUBiLmV4YW1wbGU=","mimeType":"image/png"},{"type":"resource","resource":{"uri":"file:///x","text":"[email]"}}],"structuredContent":{"user":{"password":"[p]","mail":"[email]"}},"user":{"password":"y"}}"#;
    assert_eq!(result(config, json), modified(redacted));
    let broken = r#"{"content":[{"type":"text","text":"{\"mail\": a@b.example"}]}"#;
    assert_eq!(result(config, broken), modified(r#"{"content":[{"type":"text","text":"{\"mail\": [email]"}]}"#));
}

#[test]
fn hashes_tell_equal_texts_and_depend_on_the_salt() {
    let config = |salt: &str| {
        format!(
            r#"{{"salt": "{salt}", "rules": [{{"patterns": ["email"], "action": "hash"}}, {{"name": "id", "paths": ["/id"], "action": "hash"}}]}}"#
        )
    };
    let hashed =
        |salt: &str| match arguments(&config(salt), r#"{"a": "a@b.example a@b.example", "b": "c@d.example", "id": 7}"#)
        {
            Decision::Modify(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(),
            other => panic!("{other:?}"),
        };
    let (one, other) = (hashed("0123456789abcdef"), hashed("0123456789abcdeg"));
    let (first, second) = one["a"].as_str().unwrap().split_once(' ').unwrap();
    assert_eq!(first, second);
    assert!(first.starts_with("[email:") && first.len() == "[email:]".len() + 16, "{first}");
    assert!(one["b"] != one["a"] && one["id"].as_str().unwrap().starts_with("[id:"));
    assert_ne!(one, other);
}

#[test]
fn denying_says_which_rule_and_not_what() {
    let config = r#"{"rules": [{"name": "keys", "patterns": ["aws-key"], "action": "deny"}]}"#;
    let denied = arguments(config, r#"{"a": "AKIAIOSFODNN7EXAMPLE"}"#);
    assert_eq!(denied, Decision::deny("redacted", "the arguments of add_note held what may not pass: keys"));
    let nested = r#"{"content":[{"type":"text","text":"[\"AKIAIOSFODNN7EXAMPLE\"]"}]}"#;
    assert!(matches!(result(config, nested), Decision::Deny(denial) if !denial.message.contains("AKIA")));
}

#[test]
fn rules_look_at_their_side_and_their_tools_only() {
    let only = |more: &str| format!(r#"{{"rules": [{{"patterns": ["email"], {more}}}]}}"#);
    let (json, answer) = (r#"{"a": "a@b.example"}"#, r#"{"structuredContent": {"a": "a@b.example"}}"#);
    assert_eq!(arguments(&only(r#""in": ["results"]"#), json), Decision::Allow);
    assert_eq!(result(&only(r#""in": ["arguments"]"#), answer), Decision::Allow);
    assert_eq!(arguments(&only(r#""tools": ["get_*"]"#), json), Decision::Allow);
    assert_eq!(arguments(&only(r#""servers": ["files"]"#), json), Decision::Allow);
    assert_eq!(arguments(&only(r#""servers": ["c*"], "tools": ["add_note"]"#), json), modified(r#"{"a": "[email]"}"#));
}

#[test]
fn the_audit_record_says_which_rules_found_something() {
    let _host = fake::Host::new().config(r#"{"rules": [{"patterns": ["email"]}, {"patterns": ["jwt"]}]}"#).install();
    let call = call(r#"{"a": "a@b.example"}"#);
    drop(Redact::decide(fake::Caller::new("user:ann").lend(), call.lend()));
    assert_eq!(call.annotation("redacted-arguments"), Some(Value::Texts(vec!["email".to_owned()])));
}

#[test]
fn what_is_no_json_fails() {
    let _host = fake::Host::new().config(r#"{"rules": [{"patterns": ["email"]}]}"#).install();
    let lend = |call: Call<'_>| Redact::decide(fake::Caller::new("user:ann").lend(), call);
    assert!(matches!(lend(call("{\"a\"").lend()), Err(Error::Other(_))));
}

#[test]
fn wrong_configurations_are_refused_naming_the_place() {
    for (config, words) in [
        (r#"{"rules": []}"#, "rules: 1 to 32"),
        (r#"{"rules": [{}]}"#, "rules[0].patterns"),
        (r#"{"rules": [{"patterns": ["emial"]}]}"#, "nobody knows \"emial\""),
        (r#"{"rules": [{"patterns": []}]}"#, "patterns: is empty"),
        (r#"{"rules": [{"regex": "("}]}"#, "rules[0].regex"),
        (r#"{"rules": [{"regex": "(a)\\1"}]}"#, "backreferences"),
        (r#"{"rules": [{"regex": "a*"}]}"#, "empty text"),
        (r#"{"rules": [{"regex": "(?:a{1000}){1000}"}]}"#, "size"),
        (r#"{"rules": [{"paths": ["a"]}]}"#, "no path"),
        (r#"{"rules": [{"patterns": ["email"], "action": "hash"}]}"#, "salt"),
        (r#"{"salt": "short", "rules": [{"patterns": ["email"]}]}"#, "salt"),
        (r#"{"rules": [{"patterns": ["email"], "action": "deny", "with": "x"}]}"#, "with"),
        (r#"{"rules": [{"patterns": ["email"], "tools": []}]}"#, "tools: is empty"),
        (r#"{"rules": [{"pattern": ["email"]}]}"#, "unknown field"),
    ] {
        let _host = fake::Host::new().config(config).install();
        let refused = Redact::prepare();
        assert!(matches!(&refused, Err(Error::InvalidConfig(why)) if why.contains(words)), "{config}: {refused:?}");
    }
}

#[test]
fn hostile_texts_take_no_time() {
    let config = r#"{"rules": [{"patterns": ["secrets", "personal", "ipv4"]}, {"regex": "(x+x+)+y"}]}"#;
    for piece in ["1 ", "1-", "x", "a@", "a.", "A1 ", "eyJ", "-----BEGIN PRIVATE KEY", "+1 2", "pcl_"] {
        let json = |times: usize| serde_json::json!({"t": piece.repeat(times)}).to_string();
        // Ten times the text takes ten times as long, or a little more; what tries each beginning with each end takes a hundred times.
        let (short, long) = (json(4_000), json(40_000));
        let few = (0..3).map(|_| took(|| drop(arguments(config, &short)))).min().unwrap();
        let many = (0..3).map(|_| took(|| drop(arguments(config, &long)))).min().unwrap();
        assert!(
            many < 40 * few.max(Duration::from_millis(1)),
            "{piece:?}: {few:?}, and {many:?} of ten times the text"
        );
    }
}

/// The processor time that something takes.
fn took(work: impl FnOnce()) -> Duration {
    // Nanoseconds on the processor come first (Documentation/scheduler/sched-stats.rst of Linux).
    let spent = || std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse::<u64>().ok();
    let (before, clock) = (spent(), Instant::now());
    work();
    match (before, spent()) {
        (Some(before), Some(after)) => Duration::from_nanos(after - before),
        _ => clock.elapsed(),
    }
}
