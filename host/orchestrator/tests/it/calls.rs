//! Calls over standard input and output: nothing crosses, nothing hangs, nothing grows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_model::{Bytes, Span, spec::Traffic};
use portcullis_protocol::Era;
use portcullis_upstream::{Change, Changed, Incoming, ListKind, MessageKind, Outgoing, Params, Sent, UpstreamError};
use serde_json::json;

use crate::kit::{House, call, eventually, payload, process, send};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_share_a_child_and_never_cross() {
    let house = House::new();
    let mut spec = process(&[]);
    spec["maxInFlight"] = json!(200);
    let peer = house.process(spec, Traffic::default());
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..200 {
        let peer = peer.clone();
        callers.spawn(async move {
            for round in 0..10 {
                let mark = json!({"caller": n, "round": round});
                assert_eq!(call(&peer, "shuffle", mark.clone()).await.unwrap()["echo"], mark);
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    assert_eq!(house.orchestrator.status()[0].starts, 1);
    assert_eq!(peer.in_flight(), 0);
    house.close().await;
}

#[tokio::test]
async fn speaks_both_eras_and_tells_of_changes() {
    for (flags, era) in [(&[][..], Era::Legacy), (&["modern"], Era::Modern)] {
        let house = House::new();
        let mut changes = house.pool.changes();
        let peer = house.server(flags);
        let listing = peer.list(ListKind::Tools, &[]).await.unwrap();
        assert_eq!(peer.era(), Some(era));
        assert_eq!(listing.items.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(&listing.items[0].raw[..], br#"{"name":"a","x":1.1}"#);
        assert_eq!((listing.ttl, listing.public), (Some(Duration::from_millis(500)), true));
        let change = tokio::time::timeout(Duration::from_secs(5), changes.recv()).await.unwrap().unwrap();
        assert_eq!(change, Change { key: peer.key().clone(), what: Changed::Tools });
        house.close().await;
    }
}

#[tokio::test]
async fn a_server_that_never_answers_discover_is_greeted_anyway() {
    let house = House::new();
    let peer = house.server(&["mute-discover"]);
    assert_eq!(call(&peer, "echo", json!(1)).await.unwrap()["echo"], 1);
    house.close().await;
}

#[tokio::test]
async fn a_list_without_an_end_is_refused() {
    let house = House::new();
    let error = house.server(&["endless"]).list(ListKind::Tools, &[]).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Protocol(_)), "{error}");
    house.close().await;
}

#[tokio::test]
async fn a_child_that_dies_fails_its_calls_and_the_next_call_starts_it_again() {
    let house = House::new();
    let peer = house.server(&[]);
    let first = call(&peer, "pid", json!({})).await.unwrap();
    let neighbour = tokio::spawn({
        let peer = peer.clone();
        async move { call(&peer, "never", json!({})).await }
    });
    eventually("the neighbour is in flight", || peer.in_flight() == 1).await;
    for error in [call(&peer, "die", json!({})).await.unwrap_err(), neighbour.await.unwrap().unwrap_err()] {
        assert!(matches!(error, UpstreamError::Closed { sent: Sent::Maybe }), "{error}");
        assert_eq!(error.to_fault("fixture", Some("die")).side, portcullis_model::Side::Server);
    }
    let second = call(&peer, "pid", json!({})).await.unwrap();
    assert_ne!(first, second);
    assert!(house.log().contains("it ended with status 7"), "{}", house.log());
    house.close().await;
}

#[tokio::test]
async fn deadlines_hold_and_the_server_is_told() {
    let house = House::new();
    let peer = house.server(&[]);
    call(&peer, "echo", json!(0)).await.unwrap();
    let start = Instant::now();
    for tool in ["never", "wrong-id"] {
        let error = send(&peer, tool, json!({}), Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Timeout { sent: Sent::Maybe }), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(3));
    // A caller that goes away.
    let gone =
        tokio::time::timeout(Duration::from_millis(200), send(&peer, "never", json!({}), Duration::from_secs(60)));
    assert!(gone.await.is_err());
    eventually("three cancellations", || house.log().matches("cancelled ").count() == 3).await;
    assert_eq!(peer.in_flight(), 0);
    house.close().await;
}

#[tokio::test]
async fn answers_twice_and_garbage_harm_nobody() {
    let house = House::new();
    let peer = house.server(&["fill-stdout"]);
    for n in 0..3 {
        assert_eq!(call(&peer, "twice", json!({})).await.unwrap()["n"], 1);
        assert_eq!(call(&peer, "echo", json!(n)).await.unwrap()["echo"], n);
    }
    assert_eq!(house.orchestrator.status()[0].starts, 1);
    house.close().await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_fails_its_own_call_only() {
    let house = House::new();
    let peer = house.process(process(&[]), Traffic { max_response: Bytes::new(100_000), ..Traffic::default() });
    let neighbour = tokio::spawn({
        let peer = peer.clone();
        async move { call(&peer, "shuffle", json!("n")).await }
    });
    eventually("the neighbour is in flight", || peer.in_flight() == 1).await;
    let error = call(&peer, "huge", json!({"bytes": 1_500_000})).await.unwrap_err();
    assert!(matches!(error, UpstreamError::TooLarge { limit: 100_000 }), "{error}");
    call(&peer, "shuffle", json!("m")).await.unwrap();
    assert_eq!(neighbour.await.unwrap().unwrap()["echo"], "n");
    house.close().await;
}

#[tokio::test]
async fn progress_reaches_the_caller_who_asked() {
    let house = House::new();
    for flags in [&[][..], &["modern"]] {
        let house = House::new();
        let peer = house.server(flags);
        let text = r#"{"jsonrpc":"2.0","id":"c1","method":"tools/call","params":{"name":"progress","arguments":{},"_meta":{"progressToken":"mine"}}}"#;
        let message =
            portcullis_protocol::parse(text.as_bytes(), &portcullis_protocol::ParseLimits::default()).unwrap();
        let body = portcullis_upstream::Spliced { message: &message, edit: Default::default() };
        let deadline = Instant::now() + Duration::from_secs(20);
        let outgoing = Outgoing { progress: true, ..Outgoing::new("tools/call", &body, deadline) };
        let Incoming::Stream { mut stream, .. } = peer.send(outgoing).await.unwrap() else { panic!("no stream") };
        let mut seen = Vec::new();
        while let Some(message) = stream.next().await {
            let message = message.unwrap();
            if message.kind == MessageKind::Progress {
                let back: serde_json::Value = serde_json::from_slice(&message.with_token("\"mine\"")).unwrap();
                assert_eq!(back["params"]["progressToken"], "mine");
                seen.push(back["params"]["progress"].as_u64().unwrap());
            } else {
                assert_eq!(payload(&message)["done"], true);
                let back: serde_json::Value = serde_json::from_slice(&message.with_id("\"c1\"")).unwrap();
                assert_eq!(back["id"], "c1");
            }
        }
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!(peer.in_flight(), 0);
        house.close().await;
    }
    house.close().await;
}

#[tokio::test]
async fn a_request_from_the_server_is_refused() {
    let house = House::new();
    let peer = house.server(&[]);
    assert_eq!(call(&peer, "ask", json!({})).await.unwrap()["asked"], true);
    eventually("the refusal arrives", || house.log().contains("answered -32601")).await;
    house.close().await;
}

#[tokio::test]
async fn callers_queue_for_a_place_and_are_turned_away_in_time() {
    let house = House::new();
    let mut spec = process(&[]);
    spec["maxInFlight"] = json!(1);
    let peer = house.process(spec, Traffic { timeout: Span::seconds(20), max_concurrent: 3, ..Traffic::default() });
    call(&peer, "echo", json!(0)).await.unwrap();
    let slow = |ms: u64| {
        let peer: Arc<_> = peer.clone();
        tokio::spawn(async move { call(&peer, "slow", json!({"ms": ms})).await })
    };
    let (a, b) = (slow(600), slow(10));
    eventually("both are in flight", || peer.in_flight() == 2).await;
    let error = send(&peer, "echo", json!(1), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Busy { .. }), "{error}");
    a.await.unwrap().unwrap();
    b.await.unwrap().unwrap();
    house.close().await;
}

#[tokio::test]
async fn a_request_with_line_breaks_is_one_line() {
    let house = House::new();
    let peer = house.server(&[]);
    let body = Params { method: "tools/call", members: "\"name\":\n\"echo\",\r\n\"arguments\":\n5" };
    let deadline = Instant::now() + Duration::from_secs(20);
    let outgoing = Outgoing::new("tools/call", &body, deadline);
    let Incoming::Json { message, .. } = peer.send(outgoing).await.unwrap() else { panic!("a stream") };
    assert_eq!(payload(&message)["echo"], 5);
    house.close().await;
}
