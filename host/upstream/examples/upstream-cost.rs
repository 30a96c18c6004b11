//! Prints what one relayed call costs here, in CPU time of the calling thread, against the bare HTTP client: a 64-byte tool
//! result from a minimal server that runs in another thread. `cargo run --release -p portcullis-upstream --example
//! upstream-cost [CALLS]`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use portcullis_protocol::{ParseLimits, parse};
use portcullis_upstream::{
    Account, Endpoint, HttpEndpoint, Incoming, Options, Outgoing, Spliced, Target, TargetKey, Upstreams,
    launch::NoLauncher,
};

/// What a client sends, with the `_meta` of the modern era.
const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello world"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}}}"#;

const ROUNDS: u32 = 10;

fn main() {
    let calls: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(30_000);
    let address = serve();
    let url = format!("http://{address}/mcp");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for connections in [1, 8] {
            // In turns, and the best of them: whatever else runs on the machine only ever adds.
            let (mut floor, mut ours) = (f64::MAX, f64::MAX);
            for _ in 0..ROUNDS {
                floor = floor.min(bare(&url, calls / ROUNDS, connections).await);
                ours = ours.min(relayed(&url, calls / ROUNDS, connections).await);
            }
            let own = ours - floor;
            println!(
                "{connections} in flight: bare client {floor:.1} us a call, relayed {ours:.1} us, own cost {own:.1} us"
            );
        }
        println!("splice alone {:.2} us, reading the answer alone {:.2} us", splice(calls), read(calls));
    });
}

/// CPU time of this thread, where the client runs.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn per_call(spent: Duration, calls: u32) -> f64 {
    spent.as_secs_f64() * 1e6 / f64::from(calls)
}

/// The least that a relay by this client can cost: the same request and answer, unread.
async fn bare(url: &str, calls: u32, connections: u32) -> f64 {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let one = || async {
        let mut request = Request::new(Full::new(Bytes::from_static(CALL)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().unwrap();
        for (name, value) in headers().into_iter().chain([
            (HeaderName::from_static("content-type"), HeaderValue::from_static("application/json")),
            (HeaderName::from_static("accept"), HeaderValue::from_static("application/json, text/event-stream")),
            (HeaderName::from_static("mcp-protocol-version"), HeaderValue::from_static("2026-07-28")),
            (HeaderName::from_static("mcp-method"), HeaderValue::from_static("tools/call")),
            (HeaderName::from_static("mcp-name"), HeaderValue::from_static("echo")),
        ]) {
            request.headers_mut().insert(name, value);
        }
        let response = client.request(request).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes().len()
    };
    measure(calls, connections, one).await
}

async fn relayed(url: &str, calls: u32, connections: u32) -> f64 {
    let pool = Upstreams::new(Options::new(Arc::new(NoLauncher))).unwrap();
    let key = TargetKey {
        tenant: "default".parse().unwrap(),
        server: "bench".parse().unwrap(),
        generation: 1,
        account: Account::None,
        conversation: None,
        era: None,
    };
    let endpoint = HttpEndpoint { url: url.parse().unwrap(), headers: Vec::new(), allow_private: false };
    let target = Target { key, endpoint: Endpoint::Http(Arc::new(endpoint)), traffic: Arc::default() };
    let peer = pool.peer(&target).unwrap();
    let message = parse(CALL, &ParseLimits::default()).unwrap();
    let headers = headers();
    let one = || async {
        let body = Spliced { message: &message, edit: Default::default() };
        let deadline = Instant::now() + Duration::from_secs(30);
        let outgoing =
            Outgoing { name: Some("echo"), headers: &headers, ..Outgoing::new("tools/call", &body, deadline) };
        match peer.send(outgoing).await.unwrap() {
            Incoming::Json { message, .. } => message.with_id("7").len(),
            Incoming::Stream { .. } => panic!("a stream"),
        }
    };
    measure(calls, connections, one).await
}

/// Runs the calls, after as many for warming up as make the pool whole.
async fn measure<F: Future<Output = usize>>(calls: u32, connections: u32, one: impl Fn() -> F) -> f64 {
    let one = &one;
    let round = |calls: u32| {
        let lanes = (0..connections).map(move |_| async move {
            for _ in 0..calls / connections {
                assert!(one().await > 0);
            }
        });
        futures_util::future::join_all(lanes)
    };
    round(500).await;
    let before = cpu();
    round(calls).await;
    per_call(cpu() - before, calls / connections * connections)
}

fn headers() -> Vec<(HeaderName, HeaderValue)> {
    vec![(
        HeaderName::from_static("authorization"),
        HeaderValue::from_static("Bearer 0123456789abcdef0123456789abcdef"),
    )]
}

fn splice(calls: u32) -> f64 {
    use portcullis_upstream::Body;
    let message = parse(CALL, &ParseLimits::default()).unwrap();
    let body = Spliced { message: &message, edit: Default::default() };
    let before = cpu();
    for id in 0..u64::from(calls) {
        std::hint::black_box(body.build(&wire(id)));
    }
    per_call(cpu() - before, calls)
}

fn wire(id: u64) -> portcullis_upstream::Wire<'static> {
    portcullis_upstream::Wire {
        id,
        version: portcullis_upstream::Version::LATEST,
        progress: None,
        capabilities: portcullis_upstream::NO_CAPABILITIES,
        log_level: None,
    }
}

fn read(calls: u32) -> f64 {
    let answer = Bytes::from(answer("123456").into_bytes());
    let before = cpu();
    for _ in 0..calls {
        std::hint::black_box(portcullis_upstream::Message::parse(answer.clone()).unwrap());
    }
    per_call(cpu() - before, calls)
}

fn answer(id: &str) -> String {
    let text = "x".repeat(64);
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"{text}"}}],"resultType":"complete","supportedVersions":["2026-07-28"]}}}}"#
    )
}

/// A server that answers every POST, a thread for each connection.
fn serve() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || talk(&stream));
        }
    });
    address
}

fn talk(stream: &TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        head.clear();
        let mut byte = [0u8];
        while !head.ends_with(b"\r\n\r\n") {
            reader.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = text.split_once("content-length:")?.1.split("\r\n").next()?.trim().parse().ok()?;
        let mut body = vec![0u8; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let id = body.split_once(r#""id":"#)?.1.split(',').next()?;
        let answer = answer(id);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        let mut out = stream;
        out.write_all(format!("{head}{answer}").as_bytes()).ok()?;
    }
}
