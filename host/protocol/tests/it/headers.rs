//! Eras told apart, and headers held to the body.

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_protocol::{
    Era, ParseLimits, Version,
    headers::{self, HeaderFault, Spoken, check},
    parse,
};
use proptest::prelude::*;

fn checked(body: &str, pairs: &[(&'static str, &str)]) -> Result<Spoken, HeaderFault> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    check(&map, &parse(body.as_bytes(), &ParseLimits::default()).unwrap())
}

fn call(name: &str, version: &str) -> String {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"{name}\",\"_meta\":{{\"io.modelcontextprotocol/protocolVersion\":\"{version}\",\"io.modelcontextprotocol/clientCapabilities\":{{}}}}}}}}"
    )
}

const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
const METHOD: (&str, &str) = ("mcp-method", "tools/call");
const NAME: (&str, &str) = ("mcp-name", "echo");
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

#[test]
fn a_modern_call_has_to_agree_with_its_headers() {
    let body = call("echo", "2026-07-28");
    let modern = Ok(Spoken { era: Era::Modern, version: Some(Version::V2026_07_28) });
    assert_eq!(checked(&body, &[VERSION, METHOD, NAME]), modern);
    assert_eq!(
        checked(&call("größe", "2026-07-28"), &[VERSION, METHOD, ("mcp-name", "=?base64?Z3LDtsOfZQ==?=")]),
        modern
    );
    let mismatch = |result: Result<Spoken, HeaderFault>| result.unwrap_err().rpc_code() == -32020;
    assert!(mismatch(checked(&body, &[METHOD, NAME])));
    assert!(mismatch(checked(&body, &[VERSION, NAME])));
    assert!(mismatch(checked(&body, &[VERSION, METHOD])));
    assert!(mismatch(checked(&body, &[("mcp-protocol-version", "2025-11-25"), METHOD, NAME])));
    assert!(mismatch(checked(&body, &[VERSION, ("mcp-method", "tools/list"), NAME])));
    assert!(mismatch(checked(&body, &[VERSION, METHOD, ("mcp-name", "Echo")])));
    assert!(mismatch(checked(&body, &[VERSION, METHOD, ("mcp-name", "=?base64?%%?=")])));
    assert!(mismatch(checked(&body, &[VERSION, METHOD, NAME, NAME])));
}

#[test]
fn unknown_versions_are_named_as_such() {
    let body = call("echo", "1900-01-01");
    let fault = checked(&body, &[("mcp-protocol-version", "1900-01-01"), METHOD, NAME]).unwrap_err();
    assert_eq!(fault, HeaderFault::UnsupportedVersion { requested: "1900-01-01".into() });
    let legacy = call("echo", "2025-11-25");
    let fault = checked(&legacy, &[("mcp-protocol-version", "2025-11-25"), METHOD, NAME]).unwrap_err();
    assert_eq!(fault.rpc_code(), -32022);
    assert_eq!(checked(LIST, &[("mcp-protocol-version", "x")]).unwrap_err().rpc_code(), -32022);
}

#[test]
fn a_modern_request_has_to_bring_its_meta() {
    let list = ("mcp-method", "tools/list");
    assert_eq!(checked(LIST, &[VERSION, list]).unwrap_err().rpc_code(), -32602);
    let half = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let fault = checked(half, &[VERSION, list]).unwrap_err();
    assert_eq!(fault, HeaderFault::MissingMeta("io.modelcontextprotocol/clientCapabilities"));
    let discover = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
    assert_eq!(checked(discover, &[]).unwrap_err().rpc_code(), -32602);
}

#[test]
fn legacy_messages_need_none_of_it() {
    let init =
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{}}}"#;
    assert_eq!(checked(init, &[]), Ok(Spoken { era: Era::Legacy, version: Some(Version::V2025_06_18) }));
    assert_eq!(checked(LIST, &[]), Ok(Spoken { era: Era::Legacy, version: None }));
    let spoken = checked(LIST, &[("mcp-protocol-version", "2025-11-25")]).unwrap();
    assert_eq!(spoken.version, Some(Version::V2025_11_25));
}

#[test]
fn servers_get_the_headers_of_their_era() {
    let names = |version| -> Vec<String> {
        headers::upstream_headers("tools/call", Some("größe"), version)
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect()
    };
    assert_eq!(
        names(Version::V2026_07_28),
        ["mcp-protocol-version: 2026-07-28", "mcp-method: tools/call", "mcp-name: =?base64?Z3LDtsOfZQ==?="]
    );
    assert_eq!(names(Version::V2025_06_18), ["mcp-protocol-version: 2025-06-18"]);
    assert!(names(Version::V2025_03_26).is_empty());
}

proptest! {
    #[test]
    fn every_text_survives_a_header(text in "\\PC{0,20}|[ -~\t\n]{0,20}|=\\?base64\\?[a-zA-Z=]{0,8}\\?=") {
        let value = headers::encode_value(&text);
        let shown = value.to_str().unwrap();
        prop_assert_eq!(shown.trim(), shown);
        let decoded = headers::decode_value(shown);
        prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
    }
}
