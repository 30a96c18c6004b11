//! Requests of guests, end to end: grants, places of secrets, what is hidden, tokens that nobody reads; and `reveal`.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use portcullis_model::{Name, Secret};
use portcullis_plugin::{
    Decision, GrantedSecret, Host, LoadError, LoadPlan, Outcome, Plugin, PluginError, PluginFailure, RevealAudit,
    Services,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use crate::{
    built::guest,
    guests::{call, host, plan, principal, request},
    unruly::target,
};

/// Answers each request with the same JSON and an echo of its `Authorization`, or never where `silent`.
pub(crate) async fn server(body: &'static str, silent: bool) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hear) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 8192];
                let read = socket.read(&mut bytes).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let echo = asked.lines().find_map(|l| l.strip_prefix("authorization: ")).unwrap_or("-").to_owned();
                let _ = heard.send(asked).await;
                if silent {
                    std::future::pending::<()>().await;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-echo: {echo}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, hear)
}

struct Trial {
    origins: Vec<String>,
    secret_origins: Vec<String>,
    private: bool,
    config: String,
}

impl Trial {
    fn new(address: SocketAddr, config: &str) -> Self {
        let origins = vec![format!("http://{address}")];
        let config = config.replace("URL", &format!("http://{address}/token"));
        Self { origins: origins.clone(), secret_origins: origins, private: true, config }
    }

    fn plan(&self, component: Arc<portcullis_plugin::Component>) -> LoadPlan {
        let mut plan = plan(component);
        plan.config.clone_from(&self.config);
        plan.grants.http.clone_from(&self.origins);
        plan.grants.http_private = self.private;
        let key = GrantedSecret { value: Secret::new("k&y"), origins: self.secret_origins.clone() };
        plan.secrets.insert("key".into(), key);
        plan.services = Services { http: Some(portcullis_outbound::Client::new().unwrap()), ..Services::default() };
        plan
    }

    async fn load(&self, host: &Arc<Host>) -> Arc<Plugin> {
        let component = host.compile(guest("courier")).await.unwrap();
        assert!(component.suspends());
        host.load(self.plan(component)).await.unwrap()
    }

    /// What the guest reports of its request.
    async fn report(&self) -> String {
        let plugin = self.load(&host()).await;
        report(&plugin).await
    }
}

async fn report(plugin: &Plugin) -> String {
    match plugin.decide(&principal(), &request(), &call()).await {
        Ok(Decision::Deny { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_granted_origin_is_reached_and_its_answer_read() {
    let (address, mut hear) = server(r#"{"number": 7}"#, false).await;
    let said = Trial::new(address, r#"{"url": "URL"}"#).report().await;
    assert_eq!(said, r#"200 body={"number": 7} echo=Some("-") number=Some(7.0)"#);
    assert!(hear.recv().await.unwrap().starts_with("GET /token HTTP/1.1\r\n"));
}

#[tokio::test]
async fn what_was_sent_with_a_secret_comes_back_hidden() {
    let (address, mut hear) = server(r#"{"echo": "k&y", "number": 7}"#, false).await;
    let said = Trial::new(address, r#"{"url": "URL", "with_secret": true}"#).report().await;
    assert_eq!(said, "200 body= echo=None number=Some(7.0)");
    assert!(hear.recv().await.unwrap().contains("authorization: Bearer k&y\r\n"), "the server got it");
}

#[tokio::test]
async fn a_secret_goes_to_its_origins_only_and_a_plugin_to_its_own() {
    let (address, mut hear) = server("{}", false).await;
    let with_secret = r#"{"url": "URL", "with_secret": true}"#;
    let elsewhere = vec!["https://idp.example".to_owned()];
    let secret_elsewhere = Trial { secret_origins: elsewhere.clone(), ..Trial::new(address, with_secret) };
    assert_eq!(secret_elsewhere.report().await, "not granted: the secret key may not go there");
    let plugin_elsewhere = Trial { origins: elsewhere, ..Trial::new(address, r#"{"url": "URL"}"#) };
    assert_eq!(plugin_elsewhere.report().await, "not granted: the origin is not granted");
    let public_only = Trial { private: false, ..Trial::new(address, r#"{"url": "URL"}"#) };
    assert!(public_only.report().await.starts_with("not granted: the address is not of the public internet"));
    assert!(hear.try_recv().is_err(), "nothing was sent");
}

#[tokio::test]
async fn without_the_grant_or_the_service_it_is_no_plugin() {
    let host = host();
    let component = host.compile(guest("courier")).await.unwrap();
    let trial = Trial::new(SocketAddr::from(([127, 0, 0, 1], 1)), r#"{"url": "URL"}"#);
    let mut ungranted = trial.plan(component.clone());
    ungranted.grants.http.clear();
    assert!(matches!(host.load(ungranted).await, Err(LoadError::Ungranted { grant: "http: [..]", .. })));
    let mut unavailable = trial.plan(component);
    unavailable.services.http = None;
    assert!(matches!(host.load(unavailable).await, Err(LoadError::Unavailable(_))));
}

#[tokio::test]
async fn a_token_is_fetched_and_placed_without_being_read() {
    let (address, mut hear) = server(r#"{"access_token": "fresh", "expires_in": 3600}"#, false).await;
    let plugin = Trial::new(address, r#"{"url": "URL"}"#).load(&host()).await;
    let resolution = plugin.resolve(&principal(), &request(), &target()).await.unwrap();
    assert_eq!((&resolution.outcome, resolution.expires_ms), (&Outcome::Headers, Some(3600)));
    let (name, value) = &resolution.headers[0];
    assert_eq!((name.as_str(), value.value().expose()), ("authorization", &b"Bearer fresh"[..]));
    assert!(value.is_secret() && !format!("{resolution:?}").contains("fresh"));
    let asked = hear.recv().await.unwrap();
    assert!(asked.starts_with("POST /token ") && asked.ends_with("client_secret=k%26y"), "{asked}");
}

#[tokio::test]
async fn an_answer_without_a_token_is_an_error_in_words() {
    let (address, _hear) = server(r#"{"access_token": 7}"#, false).await;
    let plugin = Trial::new(address, r#"{"url": "URL"}"#).load(&host()).await;
    let failure = plugin.resolve(&principal(), &request(), &target()).await.unwrap_err();
    assert_eq!(failure, PluginFailure::Error(PluginError::Other("no token".into())));
}

#[tokio::test]
async fn slow_servers_time_out_and_dropped_calls_leave_nothing() {
    let (address, mut hear) = server("{}", true).await;
    let host = host();
    let hasty = Trial::new(address, r#"{"url": "URL", "timeout_ms": 50}"#).load(&host).await;
    assert_eq!(report(&hasty).await, "timed out");
    let patient = Trial::new(address, r#"{"url": "URL"}"#).load(&host).await;
    hear.recv().await.unwrap();
    let call_under_way = tokio::spawn(async move { patient.decide(&principal(), &request(), &call()).await });
    // The server has it, so the guest waits.
    let arrived = tokio::time::timeout(Duration::from_secs(10), hear.recv()).await.expect("the request arrives");
    assert!(arrived.is_some());
    assert_eq!(host.free_instances(), 63);
    call_under_way.abort();
    assert!(call_under_way.await.unwrap_err().is_cancelled());
    assert_eq!(host.free_instances(), 64, "the dropped call took its instance along");
}

struct Notebook {
    seen: Mutex<Vec<String>>,
    works: AtomicBool,
}

impl RevealAudit for Notebook {
    fn revealed(&self, tenant: &Name, plugin: &str, what: &str) -> bool {
        self.seen.lock().unwrap().push(format!("{tenant} {plugin} {what}"));
        self.works.load(SeqCst)
    }
}

#[tokio::test]
async fn a_reveal_is_recorded_first_or_refused() {
    let host = host();
    let notebook = Arc::new(Notebook { seen: Mutex::default(), works: AtomicBool::new(true) });
    let mut plan = plan(host.compile(guest("revealer")).await.unwrap());
    plan.grants.reveal = true;
    plan.secrets.insert("key".into(), GrantedSecret { value: Secret::new("k&y"), origins: Vec::new() });
    plan.services = Services { audit: Some(notebook.clone()), ..Services::default() };
    let plugin = host.load(plan).await.unwrap();
    assert_eq!(report(&plugin).await, "ayZ5", "base64 of the secret");
    assert_eq!(*notebook.seen.lock().unwrap(), ["default guest key"], "by name, never by value");
    notebook.works.store(false, SeqCst);
    let failure = plugin.decide(&principal(), &request(), &call()).await.unwrap_err();
    assert!(matches!(failure, PluginFailure::Error(PluginError::Unavailable(_))), "{failure}");
}
