//! A registry that says what a test tells it to, and remembers what it was asked.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis_model::{
    Span,
    oci::{Digest, Reference},
    spec::Oci,
};
use portcullis_outbound::Client;
use portcullis_package::{
    KeySetting, Need, PackageSettings, Packages, PrivateKey, Signed,
    layout::{Artifact, Descriptor, Manifest},
};
use portcullis_telemetry::Metrics;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const REPOSITORY: &str = "team/plugin";

#[derive(Clone)]
pub enum Route {
    /// A status, headers and a body.
    Says(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Nothing, for ever.
    Silent,
    /// Bytes, for ever.
    Endless,
    /// The body where the header holds this, and a challenge otherwise.
    Guarded(String, String, Vec<u8>),
}

#[derive(Default)]
struct State {
    routes: HashMap<String, Route>,
    asked: Vec<(String, Option<String>)>,
}

pub struct Fake {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, serving }
    }

    pub fn route(&self, path: &str, route: Route) {
        self.state.lock().unwrap().routes.insert(path.to_owned(), route);
    }

    pub fn body(&self, path: &str, body: &[u8]) {
        self.route(path, Route::Says(200, Vec::new(), body.to_vec()));
    }

    pub fn copy(&self, from: &str, to: &str) {
        let mut state = self.state.lock().unwrap();
        let route = state.routes[from].clone();
        state.routes.insert(to.to_owned(), route);
    }

    /// What was asked, with the `Authorization` that came along.
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        self.state.lock().unwrap().asked.clone()
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/v2/{REPOSITORY}/{rest}")
    }

    pub fn reference(&self, digest: &Digest) -> Reference {
        Reference::parse(&format!("{}/{REPOSITORY}@{digest}", self.address)).unwrap()
    }

    /// Offers a component; gives its digest.
    pub fn offer(&self, component: &[u8]) -> (Digest, Artifact) {
        let artifact = Artifact::of(component, Default::default()).unwrap();
        let layer = portcullis_package::layout::component(&artifact.manifest).unwrap();
        self.body(&self.path(&format!("manifests/{}", artifact.digest())), &artifact.manifest);
        self.body(&self.path(&format!("blobs/{}", layer.digest)), component);
        (artifact.digest(), artifact)
    }

    /// Offers a signature of it, as cosign lays it down.
    pub fn sign(&self, digest: &Digest, key: &PrivateKey) {
        let signed = Signed::new(&self.reference(digest), digest, key).unwrap();
        let (payload, signature) = signed.as_simple().unwrap();
        let mut layer = Descriptor::of("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
        layer.annotations.insert("dev.cosignproject.cosign/signature".into(), signature.into());
        self.body(&self.path(&format!("blobs/{}", layer.digest)), &payload);
        let manifest = Manifest {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            config: Descriptor::of("application/vnd.oci.image.config.v1+json", b"{}"),
            layers: vec![layer],
            annotations: Default::default(),
        };
        let manifest = serde_json::to_vec(&manifest).unwrap();
        self.body(&self.path(&format!("manifests/sha256-{}.sig", digest.hex())), &manifest);
    }

    pub fn oci(&self, digest: &Digest) -> Oci {
        Oci { reference: self.reference(digest).to_string(), login: None }
    }
}

/// A gateway's side that trusts one key, or wants no signature.
pub fn packages(dir: &Path, key: Option<&PrivateKey>, metrics: &Arc<Metrics>) -> Arc<Packages> {
    let mut settings =
        PackageSettings { signatures: Need::None, wait: Span::seconds(60), ..PackageSettings::default() };
    if let Some(key) = key {
        let file = dir.join("key.pub");
        std::fs::write(&file, key.public().unwrap().to_pem()).unwrap();
        settings.signatures = Need::Registries;
        settings.keys = vec![KeySetting { name: "platform".into(), file, repositories: Vec::new(), files: None }];
    }
    with(dir, &settings, metrics)
}

pub fn with(dir: &Path, settings: &PackageSettings, metrics: &Arc<Metrics>) -> Arc<Packages> {
    let client = Client::new().unwrap();
    Packages::open(settings, &dir.join("components"), client, Arc::clone(metrics)).unwrap()
}

async fn serve(stream: tokio::net::TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut authorization, mut length) = (String::new(), None, 0);
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if stream.read_line(&mut header).await.unwrap_or(0) == 0 {
                return;
            }
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => authorization = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().unwrap(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let route = {
            let mut state = state.lock().unwrap();
            state.asked.push((path.clone(), authorization.clone()));
            let bare = path.split('?').next().unwrap().to_owned();
            state.routes.get(&bare).cloned()
        };
        let (status, headers, body) = match route {
            None => (404, Vec::new(), Vec::new()),
            Some(Route::Says(status, headers, body)) => (status, headers, body),
            Some(Route::Guarded(wanted, challenge, body)) => {
                let good = authorization.as_deref() == Some(&*wanted);
                let headers = if good { Vec::new() } else { vec![("WWW-Authenticate", challenge)] };
                (if good { 200 } else { 401 }, headers, body)
            }
            Some(Route::Silent) => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                return;
            }
            Some(Route::Endless) => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
                while stream.write_all(&chunk).await.is_ok() {}
                return;
            }
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let _ = stream.write_all(format!("{head}\r\n").as_bytes()).await;
        let _ = stream.write_all(&body).await;
    }
}
