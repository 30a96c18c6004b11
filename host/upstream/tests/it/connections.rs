//! Connections to servers over HTTP: whose they are, those that nobody uses just now, and those that break.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_model::spec::Traffic;
use portcullis_protocol::Era;
use portcullis_telemetry::Metrics;
use portcullis_upstream::{
    Account, Conversation, Endpoint, HttpEndpoint, Options, Target, TargetKey, UpstreamError, Upstreams,
    launch::NoLauncher,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::fixture::{Server, call, eventually, peer, peer_with, pool, start};

/// What the kernel says of the connections of this process to a port: which timer runs, and when it ends.
fn timers(port: u16) -> Vec<(u8, Duration)> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let one = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let to = u16::from_str_radix(columns[2].split_once(':')?.1, 16).ok()?;
        // 01 is an established connection.
        if to != port || columns[3] != "01" {
            return None;
        }
        let (timer, left) = columns[5].split_once(':')?;
        // In hundredths of a second, whatever the kernel counts in (proc_pid_net(5)).
        let left = Duration::from_millis(u64::from_str_radix(left, 16).ok()? * 10);
        Some((u8::from_str_radix(timer, 16).ok()?, left))
    };
    table.lines().skip(1).filter_map(one).collect()
}

#[tokio::test]
async fn a_silent_server_is_asked_whether_it_is_still_there() {
    const KEEPALIVE: u8 = 2;
    let (_server, url) = start(Server { modern: true, ..Server::default() }).await;
    let port = url.parse::<http::Uri>().unwrap().port_u16().unwrap();
    let (_pool, peer) = peer(&url);
    call(&peer, "echo").await.unwrap();
    eventually("the kernel's timer of keepalive runs on each connection, for a minute at most", || {
        let timers = timers(port);
        !timers.is_empty() && timers.iter().all(|(timer, left)| *timer == KEEPALIVE && *left <= Duration::from_secs(60))
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_let_go_before_its_server_hangs_up() {
    let (_server, url) = start(Server { modern: true, ..Server::default() }).await;
    let metrics = Metrics::new();
    let pool = Upstreams::new(Options { metrics: metrics.clone(), ..Options::new(Arc::new(NoLauncher)) }).unwrap();
    let peer = peer_with(&url, Account::None, Traffic::default(), &pool);
    let opened = || metrics.upstream_connects("default", "fixture", "connection").get();
    call(&peer, "echo").await.unwrap();
    let begun = opened();
    call(&peer, "echo").await.unwrap();
    assert_eq!(opened(), begun, "one that was used just now is used again");
    // Servers of Node and uvicorn hang up after five seconds. A request in that moment is lost, and none that a tool ran for
    // may be sent twice.
    let idle = Instant::now();
    let nothing = std::future::pending::<()>();
    let _ = tokio::time::timeout(Duration::from_millis(4_300), nothing).await;
    call(&peer, "echo").await.unwrap();
    assert!(idle.elapsed() > Duration::from_secs(4));
    assert_eq!(opened(), begun + 1, "after four seconds there is a new one");
}

#[tokio::test]
async fn each_part_of_a_key_has_a_peer_of_its_own() {
    let pool = pool();
    let conversation = |id: &str, can: &str| Some(Arc::new(Conversation { id: id.into(), capabilities: can.into() }));
    let key = TargetKey {
        tenant: "default".parse().unwrap(),
        server: "fixture".parse().unwrap(),
        generation: 1,
        account: Account::None,
        conversation: None,
        era: None,
    };
    let keys = [
        key.clone(),
        TargetKey { tenant: "acme".parse().unwrap(), ..key.clone() },
        TargetKey { server: "other".parse().unwrap(), ..key.clone() },
        // Another endpoint is another revision of the server.
        TargetKey { generation: 2, ..key.clone() },
        TargetKey { account: Account::Holder("alice".into()), ..key.clone() },
        TargetKey { account: Account::Holder("bob".into()), ..key.clone() },
        TargetKey { era: Some(Era::Legacy), ..key.clone() },
        TargetKey { conversation: conversation("s1", "{}"), ..key.clone() },
        TargetKey { conversation: conversation("s2", "{}"), ..key.clone() },
        TargetKey { conversation: conversation("s1", r#"{"roots":{}}"#), ..key.clone() },
    ];
    let endpoint =
        HttpEndpoint { url: "http://127.0.0.1:9/mcp".parse().unwrap(), headers: Vec::new(), allow_private: true };
    let endpoint = Endpoint::Http(Arc::new(endpoint));
    let peer = |key: &TargetKey| {
        let target = Target { key: key.clone(), endpoint: endpoint.clone(), traffic: Arc::new(Traffic::default()) };
        pool.peer(&target).unwrap()
    };
    let peers: Vec<_> = keys.iter().map(peer).collect();
    for (n, key) in keys.iter().enumerate() {
        let again = peer(key);
        for (m, other) in peers.iter().enumerate() {
            assert_eq!(Arc::ptr_eq(&again, other), n == m, "{n} {m}");
        }
    }
}

/// One request: its body.
async fn request(stream: &mut TcpStream) -> Option<Value> {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if bytes.len() >= head + length.unwrap_or(0) {
                return serde_json::from_slice(&bytes[head..]).ok();
            }
        }
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&part[..read]),
            _ => return None,
        }
    }
}

/// A server of 2026-07-28 that hangs up after so many bytes of the answer to a call, written in one of three ways.
async fn cutting(way: usize, at: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(message) = request(&mut stream).await else { continue };
            let result = match message["method"].as_str() {
                Some("tools/call") => json!({"resultType": "complete", "content": [{"type": "text", "text": "all"}]}),
                _ => {
                    json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
                }
            };
            let body = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
            let head = |kind: &str, more: &str| {
                format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n{more}\r\n")
            };
            let event = format!("event: message\ndata: {body}\n\n");
            let way = if message["method"] == "tools/call" { way } else { 0 };
            let answer = match way {
                0 => head("application/json", &format!("content-length: {}\r\n", body.len())) + &body,
                // Without a length, the end of the connection is the end of the body.
                1 => head("application/json", "") + &body,
                2 => head("text/event-stream", "") + &event,
                _ => {
                    let chunk = format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
                    head("text/event-stream", "transfer-encoding: chunked\r\n") + &chunk
                }
            };
            let cut = if message["method"] == "tools/call" { at.load(Ordering::SeqCst) } else { usize::MAX };
            // Whoever asked may be gone.
            let _ = stream.write_all(&answer.as_bytes()[..cut.min(answer.len())]).await;
            let _ = stream.shutdown().await;
        }
    });
    url
}

/// Whatever breaks off, wherever it does, is an error and never half an answer.
#[tokio::test]
async fn an_answer_that_breaks_off_at_any_byte_is_none() {
    for way in 0..4 {
        let at = Arc::new(AtomicUsize::new(usize::MAX));
        let url = cutting(way, Arc::clone(&at)).await;
        let (_pool, peer) = peer(&url);
        let whole = call(&peer, "echo").await.unwrap();
        let mut came = None;
        for cut in 0..2_000 {
            at.store(cut, Ordering::SeqCst);
            match call(&peer, "echo").await {
                Ok(message) => {
                    assert_eq!(message.payload_text(), whole.payload_text(), "way {way}, cut at {cut}");
                    came = Some(cut);
                    break;
                }
                Err(UpstreamError::Closed { .. } | UpstreamError::Protocol(_)) => {}
                Err(error) => panic!("way {way}, cut at {cut}: {error:?}"),
            }
        }
        assert!(came.is_some_and(|cut| cut > 100), "way {way}: {came:?}");
    }
}
