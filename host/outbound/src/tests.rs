//! Against servers on this machine, which only some may reach.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{HeaderName, Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use portcullis_model::Secret;

use crate::{Client, Error, GuardedResolver, Reach, Refused, Request, reach::Lookup, roots};

/// A server that gives the same bytes to each connection, and what it was sent first.
async fn server(answer: impl Into<Vec<u8>>) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hear) = tokio::sync::mpsc::channel(8);
    let answer = answer.into();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut bytes = vec![0; 8192];
            let read = socket.read(&mut bytes).await.unwrap_or(0);
            let _ = heard.send(String::from_utf8_lossy(&bytes[..read]).into_owned()).await;
            let _ = socket.write_all(&answer).await;
            if answer.is_empty() {
                // Never answers, and never hangs up.
                std::future::pending::<()>().await;
            }
        }
    });
    (address, hear)
}

fn request(url: &str, reach: Reach) -> Request {
    Request {
        method: Method::GET,
        url: url.parse().unwrap(),
        headers: Vec::new(),
        body: Secret::new(""),
        timeout: Duration::from_secs(10),
        max_body: 1024,
        reach,
    }
}

fn denied<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Denied(why)) if why == Refused::Private.to_string())
}

/// A sender whose names lead where they are told: the first look-up to the first address, and so on.
fn rebinding(addresses: Vec<SocketAddr>) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let lookup: Lookup = {
        let asked = asked.clone();
        Arc::new(move |_| {
            let at = asked.fetch_add(1, SeqCst).min(addresses.len() - 1);
            let address = addresses[at];
            Box::pin(async move { Ok(vec![address]) })
        })
    };
    let tls = roots().unwrap();
    (Client::resolving(&tls, |reach| GuardedResolver::with(lookup.clone(), reach)), asked)
}

#[tokio::test]
async fn sends_what_it_is_given_and_reads_the_answer() {
    let (address, mut hear) =
        server("HTTP/1.1 201 Made\r\ncontent-length: 5\r\nx-a: 1\r\nconnection: close\r\n\r\nhello").await;
    let http = Client::new().unwrap();
    let mut outbound = request(&format!("http://{address}/token?a=b#fragment"), Reach::Any);
    outbound.method = Method::POST;
    outbound.headers = vec![(HeaderName::from_static("authorization"), HeaderValue::from_static("Bearer x"))];
    outbound.body = Secret::new("grant_type=x");
    let response = http.send(outbound).await.unwrap();
    assert_eq!((response.status, &response.body[..]), (StatusCode::CREATED, &b"hello"[..]));
    assert_eq!(response.headers["x-a"], "1");
    let heard = hear.recv().await.unwrap();
    assert!(heard.starts_with("POST /token?a=b HTTP/1.1\r\n"), "{heard}");
    assert!(
        heard.contains("authorization: Bearer x\r\n") && heard.contains(&format!("host: {address}\r\n")),
        "{heard}"
    );
    assert!(heard.contains("content-length: 12\r\n") && heard.ends_with("grant_type=x"), "{heard}");
    assert!(heard.contains("user-agent: portcullis/"), "{heard}");
}

#[tokio::test]
async fn redirects_are_answers_like_others() {
    let (address, mut hear) =
        server("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n").await;
    let response = Client::new().unwrap().send(request(&format!("http://{address}/"), Reach::Any)).await.unwrap();
    assert_eq!(response.status, StatusCode::FOUND);
    hear.recv().await.unwrap();
    assert!(hear.try_recv().is_err(), "one request, no more");
}

#[tokio::test]
async fn private_addresses_are_refused_unless_granted_before_anything_is_sent() {
    let (address, mut hear) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = address.port();
    let http = Client::new().unwrap();
    let urls = [
        format!("http://127.0.0.1:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://localhost:{port}/"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "http://[fd00:ec2::254]/latest".to_owned(),
        "http://0.0.0.0/".to_owned(),
        "http://[::]/".to_owned(),
        "https://100.100.100.200/".to_owned(),
        "https://[64:ff9b::a9fe:a9fe]/".to_owned(),
    ];
    for url in urls {
        assert!(denied(http.send(request(&url, Reach::Public)).await), "{url}");
    }
    assert!(hear.try_recv().is_err(), "nobody connected");
    assert!(
        http.send(request(&format!("http://localhost:{port}/"), Reach::Any)).await.is_ok(),
        "who may reach it does"
    );
    assert!(http.send(request(&format!("http://localhost:{port}/"), Reach::Loopback)).await.is_ok());
    assert!(denied(http.send(request("http://10.0.0.1/", Reach::Loopback)).await));
}

#[tokio::test]
async fn a_name_that_changes_its_mind_gains_nothing() {
    let (address, mut hear) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    // Each connection resolves once and connects to that very answer; when the name turns private, it is refused.
    let (http, asked) = rebinding(vec![address, SocketAddr::from(([127, 0, 0, 1], 1))]);
    let url = format!("http://rebind.example:{}/", address.port());
    assert!(http.send(request(&url, Reach::Any)).await.is_ok());
    hear.recv().await.unwrap();
    assert_eq!(asked.load(SeqCst), 1, "resolved once: what was checked is what was connected to");
    let (http, _) = rebinding(vec![address]);
    assert!(denied(http.send(request(&url, Reach::Public)).await));
    assert!(hear.try_recv().is_err(), "nobody connected");
}

#[tokio::test]
async fn a_connection_of_who_may_serves_nobody_who_may_not() {
    let (address, _hear) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (http, _) = rebinding(vec![address]);
    let url = format!("http://inside.example:{}/", address.port());
    assert!(http.send(request(&url, Reach::Any)).await.is_ok());
    assert!(denied(http.send(request(&url, Reach::Public)).await), "the idle connection is in the other pool");
}

#[tokio::test]
async fn bodies_and_times_are_bounded() {
    let http = Client::new().unwrap();
    let (announced, _h) = server("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n").await;
    let sent = http.send(request(&format!("http://{announced}/"), Reach::Any)).await;
    assert!(matches!(sent, Err(Error::TooLarge)), "{sent:?}");
    let endless =
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(), b"200\r\n".to_vec(), vec![b'x'; 512]];
    let endless = [&endless.concat()[..], b"\r\n", b"300\r\n", &[b'x'; 768][..], b"\r\n"].concat();
    let (chunked, _h) = server(endless).await;
    let sent = http.send(request(&format!("http://{chunked}/"), Reach::Any)).await;
    assert!(matches!(sent, Err(Error::TooLarge)), "{sent:?}");
    let (silent, _h) = server("").await;
    let mut slow = request(&format!("http://{silent}/"), Reach::Any);
    slow.timeout = Duration::from_millis(50);
    assert!(matches!(http.send(slow).await, Err(Error::Timeout)));
}

#[tokio::test]
async fn failures_have_their_names() {
    let http = Client::new().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(matches!(http.send(request(&format!("http://{closed}/"), Reach::Any)).await, Err(Error::Connect(_))));
    assert!(matches!(http.send(request("http://does-not-exist.invalid/", Reach::Any)).await, Err(Error::Dns)));
    let (plain, _h) = server("HTTP/1.1 200 OK\r\n\r\n").await;
    let sent = http.send(request(&format!("https://{plain}/"), Reach::Any)).await;
    assert!(matches!(sent, Err(Error::Tls(_))), "{sent:?}");
}
