//! What the gateway answers itself is JSON, whatever stands in it.

use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{
    Era, Kind, ParseLimits, Version,
    headers::HeaderFault,
    parse,
    rpc::{self, ServerInfo},
};
use serde_json::{Value, json};

fn value(bytes: &[u8]) -> Value {
    assert_eq!(parse(bytes, &ParseLimits::default()).unwrap().kind, Kind::Response);
    serde_json::from_slice(bytes).unwrap()
}

const HINTS: rpc::Hints = rpc::Hints { ttl_ms: 5, public: false };
const INFO: ServerInfo<'static> = ServerInfo { name: "a \"b\"", title: Some("T"), version: "0.1.0" };

#[test]
fn handshakes_have_what_each_era_wants() {
    let init = value(&rpc::initialize("1", Version::V2025_06_18, "{\"tools\":{}}", &INFO.json(), Some("line\nline")));
    assert_eq!(init["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(init["result"]["serverInfo"], json!({"name": "a \"b\"", "title": "T", "version": "0.1.0"}));
    assert_eq!(init["result"]["instructions"], "line\nline");
    let discover = value(&rpc::discover("\"x\"", "{\"tools\":{}}", &INFO.json(), None, 60_000));
    let result = &discover["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["supportedVersions"][0], "2026-07-28");
    assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(60_000), &json!("private")));
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["version"], "0.1.0");
    assert_eq!(discover["id"], "x");
}

#[test]
fn pages_hold_the_raw_items() {
    let items = [r#"{"name":"a","n":1.10}"#, r#"{"name":"b"}"#];
    let modern = rpc::list_page("1", "tools", items, Some("cur"), Era::Modern, HINTS, None);
    assert!(
        String::from_utf8_lossy(&modern).contains(r#""tools":[{"name":"a","n":1.10},{"name":"b"}],"nextCursor":"cur""#)
    );
    assert_eq!(value(&modern)["result"]["cacheScope"], "private");
    let legacy = value(&rpc::list_page("1", "tools", [], None, Era::Legacy, HINTS, None));
    assert_eq!(legacy["result"], json!({"tools": []}));
    assert_eq!(value(&rpc::empty("1", Era::Legacy))["result"], json!({}));
}

#[test]
fn faults_say_whose_they_are_and_what_to_do() {
    let fault = Fault::new(Side::Policy, "denied", "Not this \"table\"")
        .server("db")
        .tool("db__query")
        .next("Ask your team's admin.")
        .retry_after_ms(1500);
    let error = value(&rpc::fault(Some("3"), &fault, "req-1"));
    assert_eq!(error["error"]["code"], -32600);
    assert_eq!(
        error["error"]["data"],
        json!({"side": "policy", "code": "denied", "requestId": "req-1", "server": "db", "tool": "db__query",
               "next": "Ask your team's admin.", "retryAfterMs": 1500})
    );
    let refusal = value(&rpc::tool_refusal("3", &fault, "req-1", Era::Modern));
    assert_eq!(refusal["result"]["isError"], true);
    assert_eq!(
        refusal["result"]["content"][0]["text"],
        "Not this \"table\". Ask your team's admin. [policy: denied, request req-1]"
    );
    assert_eq!(refusal["result"]["_meta"]["portcullis.dev/fault"]["tool"], "db__query");
    assert_eq!(rpc::http_status(&fault), StatusCode::FORBIDDEN);
    assert_eq!(rpc::http_status(&Fault::new(Side::Server, "connect", "x")), StatusCode::BAD_GATEWAY);
    assert_eq!(rpc::http_status(&Fault::new(Side::Server, "timeout", "x")), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(rpc::http_status(&Fault::new(Side::Gateway, "rate-limited", "x")), StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn unreadable_messages_are_answered_with_a_null_id() {
    let problem = parse(b"{", &ParseLimits::default()).unwrap_err();
    let error = value(&rpc::parse_fault(&problem, "r"));
    assert_eq!((&error["id"], &error["error"]["code"]), (&Value::Null, &json!(-32700)));
    let unsupported = HeaderFault::UnsupportedVersion { requested: "1900-01-01".into() };
    let error = value(&rpc::header_fault(Some("1"), &unsupported, "r"));
    assert_eq!(error["error"]["data"]["supported"][0], "2026-07-28");
    assert_eq!(error["error"]["data"]["requested"], "1900-01-01");
    assert_eq!(rpc::rpc_http_status(-32601, Era::Modern), StatusCode::NOT_FOUND);
    assert_eq!(rpc::rpc_http_status(-32601, Era::Legacy), StatusCode::OK);
}
