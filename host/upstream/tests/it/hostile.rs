//! Servers that don't keep to the protocol, and servers that aren't there.

use std::time::{Duration, Instant};

use portcullis_model::{Bytes, spec::Traffic};
use portcullis_upstream::{Account, Endpoint, HttpEndpoint, MessageKind, Sent, Target, TargetKey, UpstreamError};

use crate::fixture::{Server, call, peer, peer_with, pool, start};

#[tokio::test]
async fn every_fault_has_its_error_and_the_next_call_works() {
    for modern in [false, true] {
        let (_server, url) = start(Server { modern, ..Server::default() }).await;
        let pool = pool();
        let traffic = Traffic { max_response: Bytes::mebi(8), ..Traffic::default() };
        let peer = peer_with(&url, Account::None, traffic, &pool);
        let check = async |tool: &str, expected: fn(&UpstreamError) -> bool| {
            let error = call(&peer, tool).await.unwrap_err();
            assert!(expected(&error), "{tool}: {error:?}");
            call(&peer, "echo").await.unwrap();
        };
        for tool in ["garbage", "html", "nothing", "wrong-id", "twice"] {
            check(tool, |e| matches!(e, UpstreamError::Protocol(_))).await;
        }
        for tool in ["gigabyte", "gigabyte-stream"] {
            check(tool, |e| matches!(e, UpstreamError::TooLarge { .. })).await;
        }
        check("break", |e| matches!(e, UpstreamError::Closed { sent: Sent::Maybe })).await;
        check(
            "unauthorized",
            |e| matches!(e, UpstreamError::Status { code: 401, www_authenticate: Some(w), .. } if w.contains("realm")),
        )
        .await;
        check("redirect", |e| matches!(e, UpstreamError::Status { code: 307, .. })).await;
        check("crash", |e| matches!(e, UpstreamError::Status { code: 500, .. })).await;
        let seven = |e: &UpstreamError| matches!(e, UpstreamError::Status { code: 429, retry_after: Some(after), .. } if after.as_secs() == 7);
        check("slow-down", seven).await;
        assert_eq!(call(&peer, "rpc-error").await.unwrap().kind, MessageKind::Error);
        assert_eq!(peer.in_flight(), 0);
    }
}

#[tokio::test]
async fn a_dead_address_fails_fast_the_second_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    drop(listener);
    let (_pool, peer) = peer(&url);
    let error = call(&peer, "echo").await.unwrap_err();
    assert!(matches!(&error, UpstreamError::Connect(_)), "{error:?}");
    assert_eq!(error.sent(), Sent::No);
    let start = Instant::now();
    assert!(matches!(call(&peer, "echo").await.unwrap_err(), UpstreamError::Open { .. }));
    assert!(start.elapsed() < Duration::from_millis(100));
}

#[tokio::test]
async fn private_addresses_are_out_of_reach() {
    let pool = pool();
    let target = |url: &str| Target {
        key: TargetKey {
            tenant: "default".parse().unwrap(),
            server: "lured".parse().unwrap(),
            generation: 1,
            account: Account::None,
            conversation: None,
            era: None,
        },
        endpoint: Endpoint::Http(std::sync::Arc::new(HttpEndpoint {
            url: url.parse().unwrap(),
            headers: Vec::new(),
            allow_private: false,
        })),
        traffic: std::sync::Arc::new(Traffic::default()),
    };
    for url in ["http://169.254.169.254/latest", "https://10.0.0.1/mcp", "https://[::ffff:127.0.0.1]/mcp"] {
        assert!(
            matches!(pool.peer(&target(url)), Err(UpstreamError::Connect(m)) if m.contains("allowPrivate")),
            "{url}"
        );
    }
}
