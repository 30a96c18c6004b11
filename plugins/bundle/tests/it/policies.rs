//! The policies that change or refuse what they see, in the real host: fresh instances and kept ones, within the usual limits.

use std::sync::Arc;

use bytes::Bytes;
use portcullis_model::{
    Bytes as Size,
    spec::{Grants, Isolation},
};
use portcullis_plugin::{CallFacts, Decision, Outcome, Plugin, PluginFailure, ResultFacts, TargetFacts};
use serde_json::{Value, json};

use super::{decide, load, load_granted, name, principal, request};

async fn review(plugin: &Plugin, result: &Value) -> Result<Decision, PluginFailure> {
    let call = CallFacts {
        server: name("crm"),
        tool: "get".into(),
        exposed_tool: "crm__get".into(),
        arguments: Bytes::from_static(b"{}"),
    };
    let outcome = ResultFacts::new(false, Bytes::from(result.to_string()));
    plugin.review(&principal("ann", &[]), &request(), &call, &outcome).await
}

/// The plugin, fresh for each call and kept.
async fn both(built_in: &str, config: &Value) -> [Arc<Plugin>; 2] {
    let fresh = load(built_in, config.clone(), &[], Isolation::Call).await;
    assert!(fresh.starts_ready(), "{built_in} reads its configuration once");
    [fresh, load(built_in, config.clone(), &[], Isolation::Tenant).await]
}

#[tokio::test]
async fn redact_takes_out_what_it_was_told_to() {
    let config = json!({"salt": "0123456789abcdef", "rules": [
        {"patterns": ["secrets"], "action": "deny", "in": ["arguments"]},
        {"patterns": ["credit-card"]},
        {"patterns": ["email"], "action": "hash"},
        {"name": "pin", "paths": ["/**/pin"]},
    ]});
    for plugin in both("redact", &config).await {
        let ann = principal("ann", &[]);
        for _ in 0..3 {
            let key = r#"{"note": "AKIAIOSFODNN7EXAMPLE"}"#;
            let denied = decide(&plugin, &ann, "add", key).await.unwrap();
            assert!(matches!(&denied, Decision::Deny { code, .. } if code == "redacted"), "{denied:?}");
            let passed = decide(&plugin, &ann, "add", r#"{"n": 1.50, "card": "4111 1111 1111 1111"}"#).await.unwrap();
            assert_eq!(passed, Decision::Modify(Bytes::from_static(br#"{"n": 1.50, "card": "[credit-card]"}"#)));
            assert_eq!(decide(&plugin, &ann, "add", r#"{"n": 1}"#).await.unwrap(), Decision::Allow);
            let result =
                json!({"content": [{"type": "text", "text": r#"{"user": {"pin": 1234, "mail": "a@b.example"}}"#}]});
            let Decision::Modify(new) = review(&plugin, &result).await.unwrap() else { panic!("not redacted") };
            let new = String::from_utf8(new.to_vec()).unwrap();
            assert!(new.contains(r#"\"pin\": \"[pin]\""#) && new.contains("[email:") && !new.contains("a@b"), "{new}");
        }
    }
}

#[tokio::test]
async fn redact_reads_a_large_result_in_time() {
    let config = json!({"rules": [{"patterns": ["secrets", "personal"]}]});
    let [_, plugin] = both("redact", &config).await;
    let rows: Vec<Value> =
        (0..500).map(|i| json!({"id": i, "name": format!("row {i}"), "at": "2026-11-28T12:00:00Z"})).collect();
    let result =
        json!({"content": [{"type": "text", "text": json!(rows).to_string()}], "structuredContent": {"rows": rows}});
    assert_eq!(review(&plugin, &result).await.unwrap(), Decision::Allow);
}

#[tokio::test]
async fn size_cap_refuses_and_shortens() {
    let config = json!({"rules": [{"arguments": "1KiB", "results": "2KiB", "action": "truncate"}]});
    for plugin in both("size-cap", &config).await {
        let ann = principal("ann", &[]);
        assert_eq!(decide(&plugin, &ann, "add", r#"{"n": 1}"#).await.unwrap(), Decision::Allow);
        let long: &'static str = json!({"text": "x".repeat(2_000)}).to_string().leak();
        assert!(
            matches!(decide(&plugin, &ann, "add", long).await.unwrap(), Decision::Deny { code, .. } if code == "too-large")
        );
        let result = json!({"content": [{"type": "text", "text": "y".repeat(1 << 20)}]});
        let Decision::Modify(new) = review(&plugin, &result).await.unwrap() else { panic!("not shortened") };
        assert!(new.len() <= 2048);
        let new: Value = serde_json::from_slice(&new).unwrap();
        assert!(new["content"][1]["text"].as_str().unwrap().contains("2 KiB are the most"), "{new}");
    }
}

#[tokio::test]
async fn arguments_checks_schemas_and_conditions() {
    let config = json!({"rules": [{
        "tools": ["pay"],
        "schema": {"required": ["amount"], "properties": {"amount": {"type": "number", "maximum": 100}}},
        "conditions": [{"holds": "args.amount <= 10 || 'finance' in caller.teams", "message": "ask finance"}],
    }]});
    for plugin in both("arguments", &config).await {
        let (ann, bob) = (principal("ann", &["finance"]), principal("bob", &[]));
        let said = async |who, arguments| match decide(&plugin, who, "pay", arguments).await.unwrap() {
            Decision::Allow => "allowed".to_owned(),
            Decision::Deny { message, .. } => message,
            other => panic!("{other:?}"),
        };
        for _ in 0..3 {
            assert_eq!(said(&ann, r#"{"amount": 50}"#).await, "allowed");
            assert_eq!(said(&bob, r#"{"amount": 5}"#).await, "allowed");
            assert_eq!(said(&bob, r#"{"amount": 50}"#).await, "ask finance");
            assert_eq!(
                said(&ann, r#"{"amount": 500}"#).await,
                "the arguments of pay do not fit: /amount must be at most 100"
            );
        }
    }
}

#[tokio::test]
async fn header_map_says_who_is_calling() {
    let plugin = load("header-map", json!({}), &[], Isolation::Call).await;
    let resolve = async |settings: Value| {
        let target = TargetFacts {
            server: name("github"),
            url: "https://github.example/mcp".into(),
            connection: None,
            settings: Arc::new(settings.as_object().unwrap().clone()),
        };
        plugin.resolve(&principal("bob", &["blue"]), &request(), &target).await
    };
    let headers = json!({"X-User": {"caller": "subject"}, "X-Teams": {"caller": "teams"}});
    let alone = resolve(json!({"headers": headers})).await.unwrap();
    assert_eq!(alone.outcome, Outcome::Headers);
    let mut said: Vec<(String, String)> = alone
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8(value.value().expose().to_vec()).unwrap()))
        .collect();
    said.sort();
    assert_eq!(said, [("x-teams".into(), "blue".into()), ("x-user".into(), "user:bob".into())]);
    let beside = resolve(json!({"headers": headers, "under": "call-time"})).await.unwrap();
    assert_eq!((beside.outcome, beside.headers.len()), (Outcome::Use { connection: name("bobs") }, 2));
    let missing = json!({"headers": {"X-Mail": {"claim": "email"}}});
    assert!(matches!(resolve(missing).await, Err(PluginFailure::Error(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rate_gives_out_no_more_than_there_is() {
    let config = json!({"rules": [{"name": "each", "per": ["caller"], "limit": 40, "every": "1d"}]});
    for isolation in [Isolation::Call, Isolation::Tenant] {
        let grants = Grants { state: Some(Size::mebi(1)), ..Grants::default() };
        let plugin = load_granted("rate", config.clone(), grants, isolation).await;
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let plugin = Arc::clone(&plugin);
                tokio::spawn(async move {
                    let mut passed = 0;
                    for _ in 0..20 {
                        match decide(&plugin, &principal("ann", &[]), "add", "{}").await.unwrap() {
                            Decision::Allow => passed += 1,
                            Decision::Deny { code, .. } => assert_eq!(code, "rate-limited"),
                            other => panic!("{other:?}"),
                        }
                    }
                    passed
                })
            })
            .collect();
        let mut passed = 0;
        for caller in callers {
            passed += caller.await.unwrap();
        }
        assert_eq!(passed, 40, "{isolation:?}");
        let bob = decide(&plugin, &principal("bob", &[]), "add", "{}").await.unwrap();
        assert_eq!(bob, Decision::Allow, "his bucket is his own");
    }
}

#[tokio::test]
async fn rate_without_room_to_count_lets_nobody_pass() {
    let config = json!({"rules": [{"name": "each", "per": ["caller"], "limit": 40, "every": "1d"}]});
    let grants = Grants { state: Some(Size::new(256)), ..Grants::default() };
    let plugin = load_granted("rate", config, grants, Isolation::Call).await;
    assert_eq!(decide(&plugin, &principal("u0", &[]), "add", "{}").await.unwrap(), Decision::Allow);
    let mut last = Ok(Decision::Allow);
    for n in 1..4 {
        last = decide(&plugin, &principal(&format!("u{n}"), &[]), "add", "{}").await;
    }
    assert!(matches!(last, Err(PluginFailure::Error(_))), "{last:?}");
}
