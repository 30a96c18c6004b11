//! The stateless era.

use portcullis_e2e::{
    events::Events,
    eventually,
    http::{self, MODERN},
};
use serde_json::json;

use crate::kit::Bridge;

#[tokio::test(flavor = "multi_thread")]
async fn requests_need_no_session_and_their_ids_are_their_own() {
    let bridge = Bridge::fixture(&[], &["modern"]).await;
    let reply = http::ask(&bridge.url, None, "server/discover", json!({})).await.unwrap();
    assert_eq!(reply.message()["result"]["supportedVersions"], json!([MODERN]));
    let call = async |n: u64| {
        let reply = http::call(&bridge.url, None, "echo", json!({"text": n, "ms": (n * 13) % 40})).await.unwrap();
        assert_eq!(reply.headers["content-type"], "application/json");
        assert_eq!((&reply.message()["id"], &reply.message()["result"]["said"]["text"]), (&json!(1), &json!(n)));
    };
    let mut all = tokio::task::JoinSet::new();
    for n in 0..30 {
        let url = bridge.url.clone();
        all.spawn(async move {
            http::call(&url, None, "echo", json!({"text": n, "ms": (n * 13) % 40})).await.unwrap().message()
        });
    }
    while let Some(message) = all.join_next().await {
        assert_eq!(message.unwrap()["id"], 1);
    }
    call(5).await;
    for method in ["ping", "resources/subscribe", "logging/setLevel"] {
        let reply = http::ask(&bridge.url, None, method, json!({})).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.message()["error"]["code"]), (404, &json!(-32601)), "{method}");
    }
    let reply = http::ask(&bridge.url, None, "no/such", json!({})).await.unwrap();
    assert_eq!(
        (reply.status.as_u16(), &reply.message()["error"]["code"]),
        (404, &json!(-32601)),
        "the server's own refusal"
    );
    assert_eq!(http::send("GET", &bridge.url, &[("mcp-protocol-version", MODERN)], "").await.unwrap().status, 405);
    assert_eq!(bridge.figure("children").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_told_by_the_clients_own_id_and_end_with_their_connection() {
    let bridge = Bridge::fixture(&[], &["modern"]).await;
    let listen = async |id: &str| {
        let mut message = http::modern("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
        message["id"] = json!(id);
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "subscriptions/listen")];
        Events::open("POST", &bridge.url, &headers, message.to_string()).await.unwrap()
    };
    let (mut one, mut two) = (listen("mine").await, listen("yours").await);
    let tag = "io.modelcontextprotocol/subscriptionId";
    for (events, id) in [(&mut one, "mine"), (&mut two, "yours")] {
        let (_, first) = events.message().await.unwrap().unwrap();
        assert_eq!(
            (&first["method"], &first["params"]["_meta"][tag]),
            (&json!("notifications/subscriptions/acknowledged"), &json!(id))
        );
    }
    http::call(&bridge.url, None, "changed", json!({})).await.unwrap();
    for (events, id) in [(&mut one, "mine"), (&mut two, "yours")] {
        let (_, change) = events.message().await.unwrap().unwrap();
        assert_eq!(
            (&change["method"], &change["params"]["_meta"][tag]),
            (&json!("notifications/tools/list_changed"), &json!(id))
        );
    }
    drop(one);
    bridge.logged("cancelled").await;
    eventually("one is left", || async { (bridge.figure("calls_in_flight").await == 1).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_the_response_cancels_the_call_also_before_it_has_begun() {
    let bridge = Bridge::fixture(&[], &["modern"]).await;
    let url = bridge.url.clone();
    let waiting = tokio::spawn(async move { http::call(&url, None, "never", json!({})).await });
    eventually("it is under way", || async { (bridge.figure("calls_in_flight").await == 1).then_some(()) }).await;
    waiting.abort();
    bridge.logged("cancelled").await;
    eventually("it is over", || async { (bridge.figure("calls_in_flight").await == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_other_era_is_told_where_to_begin() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let reply = http::ask(&bridge.url, None, "server/discover", json!({})).await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.message()["error"]["code"]), (400, &json!(-32600)), "{}", reply.text());
    let bridge = Bridge::fixture(&[], &["modern"]).await;
    let hello = crate::kit::initialize(json!({}), http::LEGACY);
    let reply = http::post(&bridge.url, &[], hello.to_string()).await.unwrap();
    assert_eq!(reply.message()["error"]["code"], -32601, "the server's own words: {}", reply.text());
    assert!(!reply.headers.contains_key("mcp-session-id"));
    eventually("the process that refused is gone", || async { (bridge.figure("children").await == 1).then_some(()) })
        .await;
}
