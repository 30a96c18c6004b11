//! What a component says of itself: read when it is compiled, and held against its configuration when it is loaded.

use std::sync::Arc;

use portcullis_plugin::LoadError;

use crate::{
    built::built_in,
    guests::{Guest, host, plan},
};

/// The component with one more custom section.
pub(crate) fn with_section(wasm: &[u8], name: &str, content: &str) -> Arc<[u8]> {
    let payload = [&[name.len() as u8][..], name.as_bytes(), content.as_bytes()].concat();
    assert!(payload.len() < 1 << 14, "two bytes of length are enough here");
    let length = [0x80 | (payload.len() & 0x7f) as u8, (payload.len() >> 7) as u8];
    [wasm, &[0], &length, &payload].concat().into()
}

/// The component with a manifest that asks for these.
pub(crate) fn asking(wasm: &[u8], wants: &serde_json::Value) -> Arc<[u8]> {
    let manifest = serde_json::json!({"manifest": 1, "name": "p", "version": "1", "wit": "0.1.0", "wants": wants});
    with_section(wasm, "portcullis:manifest", &manifest.to_string())
}

#[tokio::test]
async fn the_sdk_says_who_a_plugin_is_and_what_it_wants() {
    let component = host().compile(built_in("jwks")).await.unwrap();
    let manifest = component.manifest().unwrap();
    assert_eq!((manifest.name.as_str(), manifest.wit.as_str()), ("portcullis-plugin-jwks", "0.1.0"));
    assert!(manifest.asks_for("issuers") && !manifest.asks_for("http"));
    assert_eq!(component.needs(), ["issuers: [..]"]);
    let text = Guest::default().wasm();
    let silent = host().compile(text.clone()).await.unwrap();
    assert!(silent.manifest().is_none() && silent.schema().is_none(), "who says nothing is loaded all the same");
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_its_path() {
    let host = host();
    let mut wrong = plan(host.compile(built_in("client-certificate")).await.unwrap());
    wrong.config = r#"{"issuer": "corp-ca", "groups": ["OU", 7], "prefx": "spiffe://"}"#.into();
    let complaints = match host.load(wrong).await {
        Err(LoadError::Config(complaints)) => complaints,
        other => panic!("{other:?}"),
    };
    let said: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert!(said.contains(&"groups[1]: must be a text, not a number".to_owned()), "{said:?}");
    assert!(said.iter().any(|s| s.starts_with("prefx: is unknown; there is groups, issuer,")), "{said:?}");
}

#[tokio::test]
async fn a_component_that_contradicts_itself_is_refused() {
    let guest = Guest::default().wasm();
    for (name, content, word) in [
        ("portcullis:manifest", "no json", "portcullis:manifest"),
        ("portcullis:manifest", r#"{"manifest":9,"name":"a","version":"1","wit":"0.1.0"}"#, "form 9"),
        ("portcullis:config-schema", "[]", "a schema is an object"),
    ] {
        let refused = host().compile(with_section(&guest, name, content)).await.unwrap_err();
        assert!(matches!(refused, LoadError::Declared(_)) && refused.to_string().contains(word), "{refused}");
    }
    let own = built_in("static");
    let twice = with_section(&own, "portcullis:manifest", r#"{"manifest":1,"name":"a","version":"1","wit":"0.1.0"}"#);
    let refused = host().compile(twice).await.unwrap_err();
    assert!(refused.to_string().contains("two different sections"), "{refused}");
}
