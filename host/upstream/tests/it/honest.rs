//! Servers that keep to the protocol.

use std::{sync::Arc, time::Duration};

use portcullis_model::spec::Traffic;
use portcullis_protocol::Era;
use portcullis_telemetry::Metrics;
use portcullis_upstream::{
    Account, Incoming, MessageKind, Options, Outgoing, Sent, UpstreamError, Upstreams, launch::NoLauncher,
};

use crate::fixture::{Server, call, eventually, peer, peer_with, pool, send, start};

#[tokio::test]
async fn both_eras_as_json_and_as_events() {
    for (modern, sse) in [(false, false), (false, true), (true, false), (true, true)] {
        let (server, url) = start(Server { modern, sse, ..Server::default() }).await;
        let (_pool, peer) = peer(&url);
        for _ in 0..3 {
            assert_eq!(call(&peer, "echo").await.unwrap().payload_text(), r#"{"echo":{"n":1}}"#);
        }
        assert_eq!(peer.era(), Some(if modern { Era::Modern } else { Era::Legacy }));
        assert_eq!(server.count("initialize"), usize::from(!modern), "one session serves all");
        assert_eq!(server.count("notifications/initialized"), usize::from(!modern));
        assert_eq!(server.count("server/discover"), 1, "the era is remembered");
        assert_eq!(server.header("tools/call", "authorization").as_deref(), Some("Bearer x"));
        assert_eq!(server.header("tools/call", "mcp-name").as_deref(), modern.then_some("echo"));
        assert_eq!(peer.in_flight(), 0);
    }
}

#[tokio::test]
async fn many_first_callers_open_one_session() {
    let (server, url) = start(Server::default()).await;
    let (_pool, peer) = peer(&url);
    let all = futures_util::future::join_all((0..50).map(|_| call(&peer, "echo"))).await;
    assert!(all.into_iter().all(|r| r.is_ok()));
    assert_eq!((server.count("server/discover"), server.count("initialize")), (1, 1));
}

#[tokio::test]
async fn a_forgotten_session_is_opened_again_once() {
    let (server, url) = start(Server::default()).await;
    let (_pool, peer) = peer(&url);
    call(&peer, "echo").await.unwrap();
    server.sessions.lock().unwrap().clear();
    call(&peer, "echo").await.unwrap();
    assert_eq!(server.count("initialize"), 2);
    assert_eq!(server.count("server/discover"), 1);
}

#[tokio::test]
async fn a_session_forgotten_with_400_is_opened_again_but_other_refusals_pass() {
    let (server, url) = start(Server { old_sdk: true, ..Server::default() }).await;
    let (_pool, peer) = peer(&url);
    call(&peer, "echo").await.unwrap();
    server.sessions.lock().unwrap().clear();
    assert_eq!(call(&peer, "echo").await.unwrap().kind, MessageKind::Result);
    assert_eq!((server.count("initialize"), server.count("ping")), (2, 1));
    // The session lives, so this 400 is about the request itself, which is not sent again.
    let refused = call(&peer, "rpc-error").await.unwrap();
    assert_eq!((refused.kind, server.count("initialize")), (MessageKind::Error, 2));
    let sent = server.seen.lock().unwrap().iter().filter(|m| m["params"]["name"] == "rpc-error").count();
    assert_eq!(sent, 1);
}

#[tokio::test]
async fn what_happens_is_counted() {
    let (_server, url) = start(Server::default()).await;
    let metrics = Metrics::new();
    let pool = Upstreams::new(Options { metrics: metrics.clone(), ..Options::new(Arc::new(NoLauncher)) }).unwrap();
    let peer = peer_with(&url, Account::None, Traffic::default(), &pool);
    for tool in ["echo"; 3] {
        call(&peer, tool).await.unwrap();
    }
    call(&peer, "crash").await.unwrap_err();
    tokio::time::timeout(Duration::from_millis(50), send(&peer, "hang", Duration::from_secs(60))).await.unwrap_err();
    let text = metrics.encode();
    let count = |outcome: &str| {
        let series = format!(
            r#"upstream_requests_total{{tenant="default",server="fixture",era="legacy",outcome="{outcome}"}} "#
        );
        text.lines().find_map(|l| l.split_once(&series)?.1.parse::<u64>().ok()).unwrap_or(0)
    };
    assert_eq!([count("answered"), count("server-status"), count("cancelled")], [3, 1, 1], "{text}");
    assert!(
        text.contains(r#"upstream_connects_total{tenant="default",server="fixture",outcome="session"} 1"#),
        "{text}"
    );
    assert!(metrics.upstream_pooled.get() >= 2, "a connection and a session");
    drop(peer);
    drop(pool);
    eventually("connections and sessions are let go of", || metrics.upstream_pooled.get() == 0).await;
}

#[tokio::test]
async fn accounts_share_no_session() {
    let (server, url) = start(Server::default()).await;
    let pool = pool();
    for holder in ["alice", "bob"] {
        let peer = peer_with(&url, Account::Holder(holder.into()), Traffic::default(), &pool);
        call(&peer, "echo").await.unwrap();
    }
    assert_eq!(server.count("initialize"), 2);
    assert_eq!(server.sessions.lock().unwrap().len(), 2);
    pool.retain(|_| false);
    eventually("both sessions are given back", || *server.deleted.lock().unwrap() == 2).await;
}

#[tokio::test]
async fn progress_is_relayed_and_requests_are_refused() {
    let (server, url) = start(Server::default()).await;
    let (_pool, peer) = peer(&url);
    let text = br#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"progress","_meta":{"progressToken":"t"}}}"#;
    let message = portcullis_protocol::parse(text, &portcullis_protocol::ParseLimits::default()).unwrap();
    let body = portcullis_upstream::Spliced { message: &message, edit: Default::default() };
    let outgoing = Outgoing {
        name: Some("progress"),
        progress: true,
        ..Outgoing::new("tools/call", &body, std::time::Instant::now() + Duration::from_secs(10))
    };
    let Incoming::Stream { mut stream, .. } = peer.send(outgoing).await.unwrap() else { panic!("no stream") };
    let mut kinds = Vec::new();
    while let Some(message) = stream.next().await {
        kinds.push(message.unwrap().kind);
    }
    assert_eq!(kinds, [MessageKind::Progress, MessageKind::Progress, MessageKind::Result]);
    let refused = || server.seen.lock().unwrap().iter().any(|m| m["id"] == "q" && m["error"]["code"] == -32601);
    eventually("the elicitation is refused", refused).await;
    assert_eq!(server.count("notifications/cancelled"), 0);
}

#[tokio::test]
async fn going_away_cancels() {
    for modern in [false, true] {
        for tool in ["hang", "hang-stream"] {
            let (server, url) = start(Server { modern, ..Server::default() }).await;
            let (_pool, peer) = peer(&url);
            call(&peer, "echo").await.unwrap();
            let sent =
                tokio::time::timeout(Duration::from_millis(300), send(&peer, tool, Duration::from_secs(60))).await;
            assert_eq!(sent.is_err(), tool == "hang");
            drop(sent);
            eventually("the stream is closed", || *server.dropped.lock().unwrap() == 1).await;
            let told = usize::from(!modern);
            eventually("a legacy server is told", || server.count("notifications/cancelled") == told).await;
            assert_eq!(peer.in_flight(), 0);
        }
    }
}

#[tokio::test]
async fn deadlines_hold() {
    let (_server, url) = start(Server { modern: true, ..Server::default() }).await;
    let (_pool, peer) = peer(&url);
    call(&peer, "echo").await.unwrap();
    let error = send(&peer, "hang", Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { sent: Sent::Maybe }), "{error}");
}
