//! How things end: a process, a session, the bridge.

use portcullis_e2e::{eventually, http, process};
use serde_json::json;

use crate::kit::{Bridge, Client, FIXTURE, initialize};

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_that_is_killed_is_started_again_and_sessions_go_on() {
    let bridge = Bridge::fixture(&[], &["stay"]).await;
    let client = Client::open(&bridge, json!({})).await;
    let pid = client.said("told", json!({})).await["pid"].as_u64().unwrap();
    let mut events = client.events(&Client::call(1, "never", json!({}))).await;
    events.event().await.unwrap();
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    let (_, answer) = events.message().await.unwrap().unwrap();
    assert_eq!((&answer["id"], &answer["error"]["data"]["side"]), (&json!(1), &json!("server")));
    assert!(answer["error"]["message"].as_str().unwrap().contains("ended before it answered"), "{answer}");
    let after = client.said("told", json!({})).await["pid"].as_u64().unwrap();
    assert_ne!(pid, after);
    assert!(bridge.log().contains("signal 9"), "{}", bridge.log());
    assert_eq!(bridge.figure("calls_lost_total").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_own_process_and_what_was_answered_can_still_be_read() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let client = Client::open(&bridge, json!({"roots": {}})).await;
    let mut events = client.events(&Client::call(1, "echo", json!({"text": "kept"}))).await;
    let first = events.event().await.unwrap().unwrap().id.unwrap();
    drop(events);
    let lost = client.post(&Client::call(2, "die", json!({}))).await.message();
    assert_eq!(lost["error"]["data"]["code"], "server-unreachable", "{lost}");
    assert_eq!(client.post(&Client::call(3, "echo", json!({}))).await.status, 404, "start again");
    let (_, answer) = client.listen(Some(&first)).await.message().await.unwrap().unwrap();
    assert_eq!(answer["result"]["said"]["text"], "kept");
    Client::open(&bridge, json!({"roots": {}})).await.said("echo", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_at_once_is_started_less_and_less() {
    let bridge = Bridge::start(&[], FIXTURE, &["die-at-once"]);
    let hello = initialize(json!({}), http::LEGACY).to_string();
    let refused = async || {
        let reply = http::post(&bridge.url, &[], hello.clone()).await.unwrap();
        (reply.status == 502).then_some(reply)
    };
    let reply = eventually("it is told that it keeps ending", refused).await;
    assert!(reply.headers.contains_key("retry-after"), "{:?}", reply.headers);
    assert!(reply.text().contains("status 3"), "{}", reply.text());
    assert_eq!(http::get(&bridge.at("readyz"), &[]).await.unwrap().status, 503);
    assert_eq!(http::get(&bridge.at("healthz"), &[]).await.unwrap().status, 200);
    assert!(bridge.figure("child_starts_total").await < 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_ends_the_bridge_with_words() {
    let mut bridge = Bridge::start::<&str>(&[], "surely-no-such-program", &[]);
    assert_eq!(bridge.ended().await, Some(1));
    bridge.logged("can't be run").await;
    bridge.logged("surely-no-such-program").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_lets_calls_end_and_leaves_nothing_behind() {
    let mut bridge = Bridge::fixture(&[], &["stay"]).await;
    let client = Client::open(&bridge, json!({"roots": {}})).await;
    let mut outside = client.listen(None).await;
    let mut slow = client.events(&Client::call(1, "ask", json!({"text": "x"}))).await;
    let tree = bridge.tree();
    assert!(tree.len() >= 6, "two processes with two supervisors each: {tree:?}");
    slow.message().await.unwrap().unwrap();
    bridge.signal("-TERM");
    assert!(outside.message().await.unwrap().is_none(), "whoever listens goes");
    assert_eq!(http::get(&bridge.at("readyz"), &[]).await.unwrap().status, 503);
    let refused = http::post(&bridge.url, &[], initialize(json!({}), http::LEGACY).to_string()).await.unwrap();
    assert_eq!((refused.status.as_u16(), &refused.message()["error"]["data"]["code"]), (503, &json!("draining")));
    // What is under way may still be answered.
    client.post(&json!({"jsonrpc": "2.0", "id": "q-x", "result": {"roots": []}})).await;
    let (_, answer) = slow.message().await.unwrap().unwrap();
    assert!(answer["result"].is_object(), "{answer}");
    assert_eq!(bridge.ended().await, Some(0));
    eventually("nothing is left", || async { tree.iter().all(|pid| !process::alive(*pid)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_it_leaves_nothing_behind_and_sessions_start_again_at_the_next() {
    let mut bridge = Bridge::fixture(&[], &["stay"]).await;
    let client = Client::open(&bridge, json!({"roots": {}})).await;
    let tree = bridge.tree();
    bridge.child.kill().unwrap();
    bridge.ended().await;
    eventually("nothing is left", || async { tree.iter().all(|pid| !process::alive(*pid)).then_some(()) }).await;
    let next = Bridge::fixture(&[], &[]).await;
    let reply = http::post(&next.url, &client.headers(), Client::call(1, "echo", json!({})).to_string()).await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.message()["error"]["data"]["code"]), (404, &json!("unknown-session")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_floods_its_outputs_still_answers() {
    let bridge = Bridge::fixture(&[], &["flood"]).await;
    let client = Client::open(&bridge, json!({})).await;
    client.said("echo", json!({})).await;
    let dropped = || async { (bridge.figure("log_lines_dropped_total").await > 0).then_some(()) };
    eventually("its log is bounded", dropped).await;
}
