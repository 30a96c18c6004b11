//! The seven real servers, in both eras and over both transports: each lists its tools and runs one.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_e2e::{parts, parts::Parts, servers};
use portcullis_model::spec::{Process, Traffic};
use portcullis_protocol::{Era, Version};
use portcullis_upstream::{Account, Endpoint, HttpEndpoint, LaunchSpec, ListKind, Peer, Target, TargetKey};
use serde_json::{Value, json};

use crate::kit::{House, alive, call, eventually, name, payload, send, tenant};

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn seven_real_servers_list_and_run_their_tools() {
    let folder = tempfile::tempdir().unwrap();
    servers::prepare(folder.path()).unwrap();
    let page = Page::serve();
    let inside = |file: &str| folder.path().join(file).display().to_string();
    let house = House::new();
    for server in servers::all(folder.path()) {
        let (tool, arguments, said) = match server.name {
            "everything" => ("echo", json!({"message": "gr\u{fc}\u{df} dich"}), "gr\u{fc}\u{df} dich"),
            "filesystem" => ("read_text_file", json!({"path": inside("files/public.txt")}), "for everybody"),
            "memory" => ("read_graph", json!({}), "entities"),
            "thinking" => (
                "sequentialthinking",
                json!({"thought": "hm", "nextThoughtNeeded": false, "thoughtNumber": 1, "totalThoughts": 1}),
                "thoughtNumber",
            ),
            "time" => ("get_current_time", json!({"timezone": "Europe/Vienna"}), "Europe/Vienna"),
            "git" => ("git_status", json!({"repo_path": inside("repository")}), "No commits yet"),
            "fetch" => ("fetch", json!({"url": page.url}), "a page of our own"),
            other => panic!("{other}"),
        };
        let mut process: Process =
            serde_json::from_value(json!({"command": server.command, "args": server.args})).unwrap();
        process.env.insert("MEMORY_FILE_PATH".to_owned(), inside("memory.json"));
        let spec = LaunchSpec::plain(Arc::new(process));
        let peer = house.peer(server.name, spec, Traffic::default());
        let listing = peer.list(ListKind::Tools, &[]).await.unwrap_or_else(|e| panic!("{}: {e}", server.name));
        assert_eq!(listing.items.len(), server.tools, "{}", server.name);
        assert_eq!(listing.version.as_str(), server.version, "{}", server.name);
        assert!(listing.items.iter().any(|t| t.key == tool), "{}: {tool}", server.name);
        let result = call(&peer, tool, arguments).await.unwrap_or_else(|e| panic!("{}: {e}", server.name));
        assert!(result["isError"] != json!(true) && text(&result).contains(said), "{}: {result}", server.name);
    }
    assert_eq!(house.orchestrator.running(), 7);
    let dir = house.dir.path().to_owned();
    house.close().await;
    eventually("nothing is left of them", || alive(&dir).is_empty()).await;
}

/// The same server over streamable HTTP, which answers in events, asks for roots, and forgets sessions with 400.
#[tokio::test]
async fn a_real_server_over_http_that_forgets_its_sessions() {
    let house = House::new();
    let mut server = Everything::start(free_port()).await;
    let peer = server.peer(&house);
    let listing = peer.list(ListKind::Tools, &[]).await.unwrap();
    assert_eq!((listing.items.len(), listing.version), (13, Version::V2025_11_25));
    assert_eq!(peer.era(), Some(Era::Legacy));
    for n in 0..3 {
        let result = call(&peer, "echo", json!({"message": format!("call {n}")})).await.unwrap();
        assert!(text(&result).contains(&format!("call {n}")), "{result}");
    }
    // A server that was restarted knows no session, and says so with 400 instead of 404.
    server = server.restart().await;
    let result = call(&peer, "echo", json!({"message": "again"})).await.unwrap();
    assert!(text(&result).contains("again"), "{result}");
    // A wrong argument is the server's answer, not ours.
    let message = match send(&peer, "echo", json!({}), Duration::from_secs(10)).await.unwrap() {
        portcullis_upstream::Incoming::Json { message, .. } => message,
        portcullis_upstream::Incoming::Stream { mut stream, .. } => stream.answer().await.unwrap(),
    };
    assert!(message.is_error || payload(&message)["code"].is_i64(), "{}", message.payload_text());
    drop(server);
    house.close().await;
}

/// `server-everything` over HTTP, on loopback only.
pub struct Everything {
    child: Child,
    pub port: u16,
}

impl Everything {
    async fn start(port: u16) -> Self {
        Self::start_as("streamableHttp", port).await
    }

    /// With one of its HTTP transports.
    pub async fn start_as(transport: &str, port: u16) -> Self {
        let parts = Parts::get();
        let child = Command::new(&parts.node_bin)
            .arg("--require")
            .arg(parts::root().join("tests/fixtures/node/loopback.cjs"))
            .args([&parts.script("server-everything"), transport])
            .env("PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, port };
        eventually("it listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()).await;
        server
    }

    async fn restart(self) -> Self {
        let port = self.port;
        drop(self);
        Self::start(port).await
    }

    fn peer(&self, house: &House) -> Arc<Peer> {
        let key = TargetKey {
            tenant: tenant(),
            server: name("http"),
            generation: 1,
            account: Account::None,
            conversation: None,
            era: None,
        };
        let url = format!("http://127.0.0.1:{}/mcp", self.port).parse().unwrap();
        let endpoint = HttpEndpoint { url, headers: Vec::new(), allow_private: false };
        let traffic = Arc::new(Traffic::default());
        house.pool.peer(&Target { key, endpoint: Endpoint::Http(Arc::new(endpoint)), traffic }).unwrap()
    }
}

impl Drop for Everything {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A page for the server that fetches pages.
struct Page {
    url: String,
}

impl Page {
    fn serve() -> Self {
        use std::io::{BufRead, BufReader, Write};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/page", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let until = Instant::now() + Duration::from_secs(5);
                let mut reader = BufReader::new(&stream);
                let mut line = String::new();
                while Instant::now() < until && reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    line.clear();
                }
                let body = "<html><body><p>a page of our own</p></body></html>";
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
            }
        });
        Self { url }
    }
}
