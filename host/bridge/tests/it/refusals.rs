//! Who may come in, and what may not be sent.

use portcullis_e2e::http;
use serde_json::json;

use crate::kit::{Bridge, Client, initialize};

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_comes_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let bridge = Bridge::fixture(&["--token-file", file.to_str().unwrap()], &[]).await;
    let hello = initialize(json!({}), http::LEGACY).to_string();
    for bad in [
        vec![],
        vec![("authorization", "Bearer 0123456789abcdef")],
        vec![("authorization", "0123456789abcdef0123456789abcdef")],
    ] {
        let reply = http::post(&bridge.url, &bad, hello.clone()).await.unwrap();
        assert_eq!(
            (reply.status.as_u16(), &reply.headers["www-authenticate"]),
            (401, &"Bearer".parse().unwrap()),
            "{bad:?}"
        );
        assert_eq!(http::get(&bridge.at("metrics"), &bad).await.unwrap().status, 401);
    }
    let good = [("authorization", "Bearer 0123456789abcdef0123456789abcdef")];
    assert_eq!(http::post(&bridge.url, &good, hello).await.unwrap().status, 200);
    assert_eq!(http::get(&bridge.at("healthz"), &[]).await.unwrap().status, 200, "probes have none");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_pages_and_foreign_names_are_refused() {
    let bridge = Bridge::fixture(&["--allow-origin", "https://app.example"], &[]).await;
    let hello = initialize(json!({}), http::LEGACY).to_string();
    let status =
        async |headers: &[(&str, &str)]| http::post(&bridge.url, headers, hello.clone()).await.unwrap().status.as_u16();
    assert_eq!(status(&[("origin", "https://evil.example")]).await, 403);
    assert_eq!(status(&[("origin", "null")]).await, 403);
    assert_eq!(status(&[("host", "evil.example")]).await, 403);
    assert_eq!(status(&[("origin", "http://localhost:3000")]).await, 200);
    assert_eq!(status(&[("origin", "https://app.example")]).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_the_process_sees_it() {
    let bridge = Bridge::fixture(&["--max-message", "10000"], &[]).await;
    let client = Client::open(&bridge, json!({})).await;
    let calls = bridge.figure("calls_total").await;
    let post = async |headers: &[(&str, &str)], body: &str| {
        let mut all = client.headers();
        all.extend_from_slice(headers);
        http::post(&client.url, &all, body.to_owned()).await.unwrap().status.as_u16()
    };
    let call = Client::call(1, "echo", json!({})).to_string();
    assert_eq!(post(&[("content-type", "text/plain")], &call).await, 415);
    assert_eq!(post(&[("accept", "text/html")], &call).await, 406);
    assert_eq!(post(&[], "{").await, 400);
    assert_eq!(post(&[], &format!("[{call}]")).await, 400, "no batches");
    assert_eq!(post(&[], r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#).await, 400, "ambiguous");
    assert_eq!(post(&[], &Client::call(1, "echo", json!({"text": "x".repeat(20_000)})).to_string()).await, 413);
    assert_eq!(post(&[("mcp-session-id", "0000")], &call).await, 400, "two sessions");
    for session in ["", "0000", "../../etc"] {
        let reply = http::post(&client.url, &[("mcp-session-id", session)], call.clone()).await.unwrap();
        assert_eq!(reply.status, 404, "{session}");
    }
    assert_eq!(http::post(&client.url, &[], call.clone()).await.unwrap().status, 400, "no session");
    assert_eq!(http::get(&bridge.at("elsewhere"), &[]).await.unwrap().status, 404);
    assert_eq!(bridge.figure("calls_total").await, calls);
    // An answer that is too large is told, and the next one comes.
    let huge = client.post(&Client::call(4, "huge", json!({"bytes": 30_000}))).await.message();
    assert_eq!((&huge["id"], &huge["error"]["data"]["code"]), (&json!(4), &json!("server-too-large")), "{huge}");
    client.said("echo", json!({})).await;
}

#[test]
fn it_does_not_serve_everybody_unless_it_is_told_whom() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis-bridge"))
        .args(["--listen", "0.0.0.0:0", "--", "true"])
        .output()
        .unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("--token-file"), "{out:?}");
}
