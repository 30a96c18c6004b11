//! A bridge in a pod: only the gateway that runs it comes in, and it goes so that nobody misses it.

use std::net::{IpAddr, SocketAddr};

use portcullis_e2e::http;
use portcullis_model::Secret;
use portcullis_protocol::proof::{ANSWER, Hello};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::kit::{Bridge, FIXTURE, initialize};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

async fn keyed(flags: &[&str]) -> Bridge {
    let bridge = Bridge::start_with::<&str>(&[("PORTCULLIS_BRIDGE_KEY", KEY)], flags, FIXTURE, &[]);
    bridge.ready().await;
    bridge
}

fn address(bridge: &Bridge) -> SocketAddr {
    bridge.url.trim_start_matches("http://").trim_end_matches("/mcp").parse().unwrap()
}

fn post(body: &str, more: &str) -> String {
    let kind = "content-type: application/json\r\naccept: application/json";
    format!("POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n{kind}\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
}

/// Says hello as a gateway with this key does, to a pod that it takes for one at `at`; sends the request whatever is answered.
async fn said(bridge: &Bridge, key: &str, at: IpAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address(bridge)).await.unwrap();
    let hello = Hello::new().unwrap();
    stream.write_all(&hello.bytes()).await.unwrap();
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await.unwrap();
    let proof = hello.prove(&answer, at, &[Secret::new(key)]);
    assert_eq!(proof.is_some(), key == KEY && at.is_loopback(), "the bridge proves itself first");
    stream.write_all(&[&proof.unwrap_or([7; 32]), request.as_bytes()].concat()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_the_key_comes_in_and_nobody_else() {
    let bridge = keyed(&[]).await;
    let hello = initialize(json!({}), http::LEGACY).to_string();
    let request = post(&hello, "connection: close\r\n");
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    assert!(said(&bridge, KEY, here, &request).await.starts_with("HTTP/1.1 200"));
    for (key, at) in [("another key, which is as long as it has to be", here), (KEY, "10.0.0.1".parse().unwrap())] {
        let refused = said(&bridge, key, at, &request).await;
        assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    }
    // Nor is the key itself a token.
    let bearer = format!("Bearer {KEY}");
    for headers in [&[][..], &[("authorization", &*bearer)], &[("authorization", "Bearer ")]] {
        assert_eq!(http::post(&bridge.url, headers, hello.clone()).await.unwrap().status, 401, "{headers:?}");
        assert_eq!(http::get(&bridge.at("metrics"), headers).await.unwrap().status, 401);
    }
    // What begins so and is none is not answered at all.
    let mut stream = TcpStream::connect(address(&bridge)).await.unwrap();
    stream.write_all(&[0; 48]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(!bridge.log().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_server_does_not_see_the_key() {
    let bridge = keyed(&[]).await;
    let mut stream = TcpStream::connect(address(&bridge)).await.unwrap();
    let hello = Hello::new().unwrap();
    stream.write_all(&hello.bytes()).await.unwrap();
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await.unwrap();
    let proof = hello.prove(&answer, "127.0.0.1".parse().unwrap(), &[Secret::new(KEY)]).unwrap();
    stream.write_all(&proof).await.unwrap();
    // One connection is proven once.
    let mut exchange = async |body: &str, session: &str| {
        let more = if session.is_empty() {
            String::new()
        } else {
            format!("mcp-session-id: {session}\r\nmcp-protocol-version: {}\r\n", http::LEGACY)
        };
        stream.write_all(post(body, &more).as_bytes()).await.unwrap();
        let mut text = String::new();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head, body.to_owned());
            }
        }
    };
    let (head, _) = exchange(&initialize(json!({}), http::LEGACY).to_string(), "").await;
    let session = head.lines().find_map(|l| l.strip_prefix("mcp-session-id: ")).unwrap().to_owned();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "seen", "arguments": {}}});
    let (_, body) = exchange(&call.to_string(), &session).await;
    let seen: Value = serde_json::from_str(&body).unwrap();
    let variables = seen["result"]["said"]["variables"].as_array().unwrap();
    assert!(variables.contains(&json!("PATH")) && !variables.contains(&json!("PORTCULLIS_BRIDGE_KEY")), "{seen}");
    // Its user may not read what is of the administrator alone, though it is its own process.
    let owner = std::fs::metadata(format!("/proc/{}/environ", bridge.child.id())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_could_be_guessed_is_none() {
    let variables = [("PORTCULLIS_BRIDGE_KEY", "short")];
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis-bridge"))
        .envs(variables)
        .args(["--listen", "127.0.0.1:0", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("fewer than 32 characters"), "{out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_lingers_and_each_answer_is_the_last_of_its_connection() {
    let mut bridge = Bridge::fixture(&["--linger", "2", "--drain", "1"], &[]).await;
    let hello = initialize(json!({}), http::LEGACY).to_string();
    let before = http::post(&bridge.url, &[], hello.clone()).await.unwrap();
    assert!(!before.headers.contains_key("connection"));
    bridge.signal("-TERM");
    bridge.logged("told to end").await;
    let after = http::post(&bridge.url, &[], hello).await.unwrap();
    assert_eq!((after.status.as_u16(), &after.headers["connection"]), (200, &"close".parse().unwrap()));
    assert_eq!(http::get(&bridge.at("readyz"), &[]).await.unwrap().status, 503);
    assert_eq!(bridge.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_somebody_starts_it_again_it_ends_with_a_server_that_never_answers() {
    for (flags, args, why) in [
        (&["--fail-fast"][..], &["die-at-once"][..], "it ended with status 3"),
        (&["--fail-fast", "--start-timeout", "0.5"], &["mute"], "it did not answer in time"),
    ] {
        let mut bridge = Bridge::start(flags, FIXTURE, args);
        assert_eq!(bridge.ended().await, Some(1));
        bridge.logged(why).await;
    }
    // One that has answered once is started again.
    let bridge = Bridge::fixture(&["--fail-fast"], &[]).await;
    let client = crate::kit::Client::open(&bridge, json!({})).await;
    client.post(&crate::kit::Client::call(1, "die", json!({}))).await;
    client.said("echo", json!({})).await;
}
