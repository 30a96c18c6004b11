//! Sessions of the older era: shared and own processes, questions, streams that are resumed.

use portcullis_e2e::{eventually, http};
use serde_json::{Value, json};

use crate::kit::{Bridge, Client, initialize};

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_with_the_same_ids_and_tokens_never_get_each_others_messages() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let clients = [Client::open(&bridge, json!({})).await, Client::open(&bridge, json!({})).await];
    let mut calls = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        for id in 0..40 {
            let text = format!("client {n} call {id}");
            let mut message = Client::call(id, "echo", json!({"text": text, "ms": (id * 37) % 50}));
            message["params"]["_meta"] = json!({"progressToken": "same"});
            calls.push(async move {
                let mut events = client.events(&message).await;
                let mut progress = 0;
                while let Some((_, said)) = events.message().await.unwrap() {
                    if said["method"] == "notifications/progress" {
                        assert_eq!(
                            (&said["params"]["message"], &said["params"]["progressToken"]),
                            (&json!(text), &json!("same"))
                        );
                        progress += 1;
                    } else {
                        assert_eq!((&said["id"], &said["result"]["said"]["text"]), (&json!(id), &json!(text)));
                        return progress;
                    }
                }
                panic!("no answer to {text}");
            });
        }
    }
    let progress: i32 = futures(calls).await.into_iter().sum();
    assert_eq!(progress, 80);
    assert_eq!(bridge.figure("children").await, 1, "they share one process");
    assert_eq!(bridge.figure("calls_in_flight").await, 0);
}

async fn futures<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut done = Vec::new();
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        let mut at = 0;
        while at < all.len() {
            match all[at].as_mut().poll(context) {
                std::task::Poll::Ready(value) => {
                    done.push(value);
                    drop(all.swap_remove(at));
                }
                std::task::Poll::Pending => at += 1,
            }
        }
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_asks_reaches_the_session_whose_process_it_is() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let capabilities = json!({"roots": {"listChanged": true}});
    let asked = Client::open(&bridge, capabilities.clone()).await;
    let other = Client::open(&bridge, capabilities.clone()).await;
    let shared = Client::open(&bridge, json!({})).await;
    assert_eq!(bridge.figure("children").await, 3);
    assert_eq!(asked.said("told", json!({})).await["capabilities"], capabilities);
    assert_eq!(shared.said("told", json!({})).await["capabilities"], json!({}));

    // The same question of both, at once: each answer goes where its question came from.
    for (client, name) in [(&asked, "ada"), (&other, "bob")] {
        let mut events = client.events(&Client::call(1, "ask", json!({"text": "same"}))).await;
        let (_, question) = events.message().await.unwrap().unwrap();
        assert_eq!((&question["method"], &question["id"]), (&json!("roots/list"), &json!("q-same")));
        let foreign = json!({"jsonrpc": "2.0", "id": "q-never", "result": {"roots": []}});
        assert_eq!(client.post(&foreign).await.status, 202, "an answer to no question is left out");
        let roots = json!({"roots": [{"uri": format!("file:///home/{name}")}]});
        client.post(&json!({"jsonrpc": "2.0", "id": "q-same", "result": roots})).await;
        let (_, answer) = events.message().await.unwrap().unwrap();
        assert_eq!(answer["result"]["said"]["result"], roots, "{answer}");
    }
    // Nobody can be asked who shares.
    let answer = shared.said("ask", json!({"text": "x"})).await;
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_there_for_whoever_lost_the_connection() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let client = Client::open(&bridge, json!({})).await;
    let mut events = client.events(&Client::call("a", "echo", json!({"text": "kept", "ms": 300}))).await;
    let first = events.event().await.unwrap().unwrap();
    assert!(first.data.is_empty(), "it primes");
    let id = first.id.unwrap();
    drop(events);
    let mut again = client.listen(Some(&id)).await;
    let (at, answer) = again.message().await.unwrap().unwrap();
    assert_eq!((&answer["id"], &answer["result"]["said"]["text"]), (&json!("a"), &json!("kept")));
    assert!(again.message().await.unwrap().is_none(), "the stream ends with its answer");
    // From the answer on there is nothing more, and a stream of another session is not found.
    assert!(client.listen(at.as_deref()).await.message().await.unwrap().is_none());
    let other = Client::open(&bridge, json!({})).await;
    for bad in ["99.1", "1.99", "x", "", "1", "18446744073709551616.1"] {
        assert_eq!(other.listen(Some(bad)).await.status, 400, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_bounded_and_what_is_missing_is_told() {
    let bridge = Bridge::fixture(&["--max-replay", "65536"], &[]).await;
    let client = Client::open(&bridge, json!({})).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let mut events = client.events(&Client::call(n, "huge", json!({"bytes": 40_000}))).await;
        ids.push(events.event().await.unwrap().unwrap().id.unwrap());
        let (_, answer) = events.message().await.unwrap().unwrap();
        assert_eq!(answer["id"], n);
    }
    assert!(bridge.figure("replay_bytes").await < 200_000);
    let (_, answer) = client.listen(Some(&ids[0])).await.message().await.unwrap().unwrap();
    assert_eq!((&answer["id"], &answer["error"]["data"]["code"]), (&json!(0), &json!("answer-lost")), "{answer}");
    let (_, answer) = client.listen(Some(&ids[3])).await.message().await.unwrap().unwrap();
    assert!(answer["result"].is_object());
    client.post(&json!({})).await;
    let ended = http::send("DELETE", &client.url, &client.headers(), "").await.unwrap();
    assert_eq!(ended.status, 204);
    eventually("nothing is kept", || async { (bridge.figure("replay_bytes").await == 0).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_who_wants_them_and_a_new_process_is_told_again() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let (one, two) = (Client::open(&bridge, json!({})).await, Client::open(&bridge, json!({})).await);
    let watch = |method: &str| json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": {"uri": "a:b"}});
    assert!(one.post(&watch("resources/subscribe")).await.message()["result"].is_object());
    let (mut first, mut second) = (one.listen(None).await, two.listen(None).await);
    two.said("changed", json!({"uri": "a:b"})).await;
    let method = async |events: &mut portcullis_e2e::events::Events| {
        events.message().await.unwrap().unwrap().1["method"].as_str().unwrap().to_owned()
    };
    assert_eq!(method(&mut first).await, "notifications/tools/list_changed");
    assert_eq!(method(&mut first).await, "notifications/resources/updated");
    assert_eq!(method(&mut second).await, "notifications/tools/list_changed");
    two.said("changed", json!({"uri": "c:d"})).await;
    assert_eq!(
        method(&mut second).await,
        "notifications/tools/list_changed",
        "not the resource that it does not watch"
    );

    let lost = one.post(&Client::call(9, "die", json!({}))).await.message();
    assert_eq!(lost["error"]["data"]["code"], "server-unreachable", "{lost}");
    two.said("told", json!({})).await;
    let twice = || async { (bridge.log().matches("resources/subscribe").count() == 2).then_some(()) };
    eventually("the new process is told what is watched", twice).await;
    one.post(&watch("resources/unsubscribe")).await;
    bridge.logged("resources/unsubscribe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_message_reaches_the_only_call_of_whoever_wants_it() {
    let bridge = Bridge::fixture(&[], &[]).await;
    let (loud, quiet) = (Client::open(&bridge, json!({})).await, Client::open(&bridge, json!({})).await);
    let level =
        |level: &str| json!({"jsonrpc": "2.0", "id": 5, "method": "logging/setLevel", "params": {"level": level}});
    assert!(quiet.post(&level("error")).await.message()["result"].is_object());
    assert!(loud.post(&level("info")).await.message()["result"].is_object());
    let told = || async { (loud.said("told", json!({})).await["level"] == "info").then_some(()) };
    eventually("the process gets the least level", told).await;
    let heard = async |client: &Client, level: &str| {
        let mut events = client.events(&Client::call(1, "log", json!({"level": level, "text": "hm"}))).await;
        let mut heard = 0;
        while let Some((_, message)) = events.message().await.unwrap() {
            heard += i32::from(message["method"] == "notifications/message");
        }
        heard
    };
    assert_eq!((heard(&loud, "info").await, heard(&quiet, "info").await, heard(&quiet, "error").await), (1, 0, 1));
    // With two calls under way nobody knows whose it is.
    let mut waiting = quiet.events(&Client::call(2, "echo", json!({"ms": 1500}))).await;
    waiting.event().await.unwrap();
    let under_way = || async { (bridge.figure("calls_in_flight").await == 1).then_some(()) };
    eventually("a call is under way", under_way).await;
    assert_eq!(heard(&loud, "info").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_is_cancelled_at_the_process() {
    let bridge = Bridge::fixture(&["--call-timeout", "2"], &[]).await;
    let client = Client::open(&bridge, json!({})).await;
    let mut events = client.events(&Client::call("c", "never", json!({}))).await;
    events.event().await.unwrap();
    let again = client.post(&Client::call("c", "echo", json!({}))).await;
    assert_eq!(again.status, 400, "the id is in use");
    client.post(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}})).await;
    bridge.logged("cancelled").await;
    assert!(events.message().await.unwrap().is_none(), "the stream ends");
    // And one that takes too long is answered.
    let late = client.post(&Client::call("d", "never", json!({}))).await.message();
    assert_eq!((&late["id"], &late["error"]["data"]["code"]), (&json!("d"), &json!("server-timeout")), "{late}");
    // A client that reads no events gets the answer alone.
    let mut headers = client.headers();
    headers.push(("accept", "application/json"));
    let plain =
        http::post(&client.url, &headers, Client::call(3, "echo", json!({"text": "x"})).to_string()).await.unwrap();
    assert_eq!(plain.headers["content-type"], "application/json");
    assert_eq!(plain.message()["result"]["said"]["text"], "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_their_processes_are_bounded() {
    let bridge = Bridge::fixture(&["--max-children", "1", "--max-sessions", "2", "--max-in-flight", "2"], &[]).await;
    let own = Client::open(&bridge, json!({"roots": {}})).await;
    let refused =
        http::post(&bridge.url, &[], initialize(json!({"roots": {}}), http::LEGACY).to_string()).await.unwrap();
    assert_eq!((refused.status.as_u16(), &refused.message()["error"]["data"]["code"]), (503, &json!("overloaded")));
    let shared = Client::open(&bridge, json!({})).await;
    let refused = http::post(&bridge.url, &[], initialize(json!({}), http::LEGACY).to_string()).await.unwrap();
    assert_eq!(refused.status, 503);
    let mut held = Vec::new();
    for id in 0..2 {
        let mut events = shared.events(&Client::call(id, "never", json!({}))).await;
        events.event().await.unwrap();
        held.push(events);
    }
    assert_eq!(shared.post(&Client::call(9, "echo", json!({}))).await.status, 503);
    // What is ended makes room, and its process ends with it.
    http::send("DELETE", &own.url, &own.headers(), "").await.unwrap();
    assert_eq!(own.post(&Client::call(1, "echo", json!({}))).await.status, 404);
    eventually("its process ends", || async { (bridge.figure("children").await == 1).then_some(()) }).await;
    Client::open(&bridge, json!({"roots": {}})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_its_own_process_where_that_is_wanted_and_ends_when_nobody_uses_it() {
    let bridge = Bridge::fixture(&["--per-session", "--session-idle", "1"], &[]).await;
    let (one, two) = (Client::open(&bridge, json!({})).await, Client::open(&bridge, json!({})).await);
    let pids = [one.said("told", json!({})).await["pid"].clone(), two.said("told", json!({})).await["pid"].clone()];
    assert_ne!(pids[0], pids[1]);
    let gone =
        || async { (bridge.figure("sessions").await == 0 && bridge.figure("children").await == 1).then_some(()) };
    eventually("sessions that nobody uses end", gone).await;
    let value: Value = one.post(&Client::call(1, "echo", json!({}))).await.message();
    assert_eq!(value["error"]["data"]["code"], "unknown-session");
}
