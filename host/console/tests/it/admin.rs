//! The admin API: a real socket, a real store, the typed client.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use portcullis_console::{
    Admin, AdminSocket, Client, ClientError, View,
    api::{Condition, ConnectRequest, Finding, GatewayStatus, Grade, PluginItem, TokenRequest},
    documents, server,
};
use portcullis_credential::{ConnectionBook, KeySource, Secrets, Vault};
use portcullis_identity::{Directories, SignIn, TokenOptions, TokenService};
use portcullis_model::{Kind, Name, Resource, ResourceKey, Secret, Subject};
use portcullis_orchestrator::{Options, Orchestrator};
use portcullis_plugin::Tokens as _;
use portcullis_store::{BoxFuture, Registry, keys};
use portcullis_telemetry::{Audit, Metrics, audit::AuditOptions};
use tokio::sync::oneshot;

struct Still;

impl View for Still {
    fn status(&self) -> GatewayStatus {
        GatewayStatus { url: "http://127.0.0.1:7777".to_owned(), ..GatewayStatus::default() }
    }
    fn conditions(&self, _: &ResourceKey) -> Vec<Condition> {
        Vec::new()
    }
    fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }
    fn connect_link(&self, _: &Name, server: &Name, _: &Subject, _: Option<&Name>) -> Option<String> {
        Some(format!("http://127.0.0.1:7777/connect/{server}"))
    }
    fn explain(&self, _: server::Explain) -> BoxFuture<'_, Option<portcullis_model::explain::Explanation>> {
        Box::pin(async { None })
    }
    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn plugin(&self, _: &Name, _: &Name) -> Option<PluginItem> {
        None
    }
    fn roll_back<'a>(&'a self, _: &'a Name, _: &'a Name) -> BoxFuture<'a, Result<PluginItem, String>> {
        Box::pin(async { Err("no earlier version is kept".to_owned()) })
    }
    fn resume<'a>(&'a self, _: &'a Name, _: &'a Name) -> BoxFuture<'a, Result<PluginItem, String>> {
        Box::pin(async { Err("nothing was rolled back".to_owned()) })
    }
}

struct House {
    dir: tempfile::TempDir,
    registry: Arc<Registry>,
    tokens: Arc<TokenService>,
    client: Client,
    stream: Arc<Audit>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl House {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = crate::support::registry(&dir.path().join("store")).await;
        let directories = Directories::follow(&registry);
        let tokens =
            TokenService::open(Arc::clone(registry.store()), Arc::clone(&directories), TokenOptions::default())
                .await
                .unwrap();
        let vault = Vault::open(&KeySource::File { path: dir.path().join("key"), create: true }).unwrap();
        let secrets = Secrets::new(Arc::clone(registry.store()), Arc::new(vault));
        let book =
            ConnectionBook::open(Arc::clone(&registry), secrets.clone(), portcullis_credential::SecretSources::local())
                .await
                .unwrap();
        let metrics = Metrics::new();
        let stream = Audit::open(AuditOptions::new(dir.path()), Arc::clone(&metrics)).unwrap();
        let admin = Admin {
            authorization: None,
            registry: Arc::clone(&registry),
            tokens: Arc::clone(&tokens),
            signin: SignIn::open(Arc::clone(registry.store()), Arc::clone(&directories), Arc::clone(&metrics))
                .await
                .unwrap(),
            directories,
            secrets,
            book,
            oauth: None,
            orchestrator: Orchestrator::new(Options::new(dir.path().join("run"))).unwrap(),
            workloads: None,
            files: None,
            audit: Arc::clone(&stream),
            metrics,
            view: Arc::new(Still),
        };
        let socket = AdminSocket::bind(&dir.path().join("run/admin.sock")).unwrap();
        let client = Client::new(socket.path(), Name::default_tenant());
        let (stop, until) = oneshot::channel::<()>();
        let served = tokio::spawn(server::serve(socket, admin, async move {
            let _ = until.await;
        }));
        Self { dir, registry, tokens, client, stream, stop, served }
    }

    fn audit(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap()
    }
}

fn resources(text: &str) -> Vec<Resource> {
    documents::read("-", text.as_bytes()).unwrap().into_iter().map(|d| d.resource).collect()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

const PEOPLE: &str = "\
apiVersion: portcullis.dev/v1alpha1
kind: User
metadata: {name: alice}
spec: {}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: github}
spec:
  remote: {url: 'https://mcp.example.com/mcp'}
  fields: [{name: token, sensitive: true, required: true}, {name: site}]
  credential: {place: [{field: token, header: Authorization, prefix: 'Bearer '}]}
";

fn refused(error: ClientError) -> portcullis_console::api::ApiError {
    match error {
        ClientError::Api(error) => error,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn resources_are_applied_listed_described_and_deleted() {
    let house = House::open().await;
    let dry = house.client.apply(resources(PEOPLE), true).await.unwrap();
    assert_eq!((dry.items[0].change.as_str(), dry.dry_run), ("created", true));
    assert!(house.registry.snapshot().is_empty(), "a dry run changes nothing");

    let done = house.client.apply(resources(PEOPLE), false).await.unwrap();
    assert_eq!(done.items.iter().map(|i| i.resource.as_str()).collect::<Vec<_>>(), ["User/alice", "McpServer/github"]);
    let again = house.client.apply(resources(PEOPLE), false).await.unwrap();
    assert!(again.items.iter().all(|i| i.change == "unchanged"));
    assert_eq!(house.client.list(None).await.unwrap().len(), 2);
    assert_eq!(house.client.list(Some(Kind::User)).await.unwrap().len(), 1);
    let page = house.client.list_page(None, Some("User/alice")).await.unwrap();
    assert!(page.items.len() < 2, "a page begins after what it was told");

    let got = house.client.resource(Kind::McpServer, &name("github")).await.unwrap();
    let round = resources(&documents::write(&[got]).unwrap());
    assert_eq!(house.client.apply(round, false).await.unwrap().items[0].change, "unchanged");

    let described = house.client.describe(Kind::User, &name("alice")).await.unwrap();
    assert_eq!(described.status.facts["tokens"], "0 active");
    house.client.delete(Kind::User, &name("alice")).await.unwrap();
    let gone = refused(house.client.resource(Kind::User, &name("alice")).await.unwrap_err());
    assert_eq!((gone.code.as_str(), gone.side.as_str()), ("not-found", "caller"));
    let audit = house.audit();
    for verb in ["\"apply\"", "\"delete\""] {
        assert!(audit.contains(verb), "{audit}");
    }
}

#[tokio::test]
async fn a_set_is_taken_whole_or_not_at_all() {
    let house = House::open().await;
    let mut set = resources(PEOPLE);
    set[1].metadata.revision = Some(7);
    let error = refused(house.client.apply(set, false).await.unwrap_err());
    assert_eq!(error.code, "refused");
    assert_eq!((error.problems[0].position, error.problems[0].path.as_str()), (1, "metadata.revision"));
    assert!(house.registry.snapshot().is_empty());
    assert!(house.audit().contains("refused"));
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let house = House::open().await;
    let many: String = (0..1203)
        .map(|i| {
            format!("---\napiVersion: portcullis.dev/v1alpha1\nkind: User\nmetadata: {{name: u{i}}}\nspec: {{}}\n")
        })
        .collect();
    house.client.apply(resources(&many), false).await.unwrap();
    let first = house.client.list_page(None, None).await.unwrap();
    assert_eq!(first.items.len(), 500);
    assert!(first.next.is_some());
    let mut all: Vec<String> =
        house.client.list(None).await.unwrap().iter().map(|r| r.metadata.name.to_string()).collect();
    assert_eq!(all.len(), 1203);
    all.dedup();
    assert_eq!(all.len(), 1203);
}

#[tokio::test]
async fn tokens_are_made_for_who_exists_and_revoked_at_once() {
    let house = House::open().await;
    let request = |owner: &str| TokenRequest {
        owner: owner.to_owned(),
        name: Some("laptop".to_owned()),
        gateways: Vec::new(),
        admin: false,
        expires_in_s: Some(3600),
    };
    let nobody = refused(house.client.create_token(&request("user:alice")).await.unwrap_err());
    assert_eq!(nobody.code, "not-found");
    house.client.apply(resources(PEOPLE), false).await.unwrap();
    let token = house.client.create_token(&request("user:alice")).await.unwrap();
    assert!(token.token.starts_with("pcl_"));
    let secret = Secret::new(token.token.clone());
    let valid = || house.tokens.lookup(&Name::default_tenant(), &name("main"), &secret).is_ok();
    assert!(valid());
    let listed = house.client.tokens(Some("user:alice")).await.unwrap();
    assert_eq!((listed.len(), listed[0].state.as_str()), (1, "active"));
    house.client.revoke_token(&token.item.id).await.unwrap();
    assert!(!valid());
    assert_eq!(refused(house.client.revoke_token("no such/id").await.unwrap_err()).code, "not-found");
    assert_eq!(house.client.revoke_tokens("user:alice").await.unwrap().revoked, 0, "that one is revoked already");
    for _ in 0..2 {
        house.client.create_token(&request("user:alice")).await.unwrap();
    }
    assert_eq!(house.client.revoke_tokens("user:alice").await.unwrap().revoked, 2);
    assert!(house.client.tokens(None).await.unwrap().iter().all(|t| t.state == "revoked"));
    assert_eq!(refused(house.client.revoke_tokens("alice").await.unwrap_err()).code, "invalid-owner");
    assert!(!house.audit().contains(&token.token), "no token in the audit stream");
}

#[tokio::test]
async fn what_can_not_be_recorded_is_not_done() {
    let house = House::open().await;
    house.client.apply(resources(PEOPLE), false).await.unwrap();
    let request = TokenRequest {
        owner: "user:alice".to_owned(),
        name: None,
        gateways: Vec::new(),
        admin: false,
        expires_in_s: Some(3600),
    };
    let token = house.client.create_token(&request).await.unwrap();
    house.client.connect(&connect("hunter2")).await.unwrap();
    let audit = house.audit();
    let of = |outcome: &str| {
        let wanted = format!("\"outcome\":\"{outcome}\"");
        audit.lines().filter(|line| line.contains("token.create")).position(|line| line.contains(&wanted))
    };
    assert!(of("begun") < of("done") && of("begun").is_some(), "{audit}");

    house.stream.close();
    let before = house.registry.store().revision();
    let failed = |error: ClientError| assert_eq!(refused(error).code, "audit-failed");
    failed(house.client.create_token(&request).await.unwrap_err());
    failed(house.client.apply(resources(&PEOPLE.replace("alice", "bob")), false).await.unwrap_err());
    failed(house.client.delete(Kind::User, &name("alice")).await.unwrap_err());
    failed(house.client.connect(&connect("other")).await.unwrap_err());
    let valid = house.tokens.lookup(&Name::default_tenant(), &name("main"), &Secret::new(token.token.clone()));
    assert!(valid.is_ok(), "{valid:?}");
    assert_eq!(house.registry.store().revision(), before, "nothing was written");
    assert!(house.client.apply(resources(PEOPLE), true).await.is_ok(), "what changes nothing needs no record");
    // A stolen token can be taken back all the same, and whoever does hears that nobody wrote it down.
    failed(house.client.revoke_token(&token.item.id).await.unwrap_err());
    let valid = house.tokens.lookup(&Name::default_tenant(), &name("main"), &Secret::new(token.token.clone()));
    assert!(valid.is_err(), "{valid:?}");
    failed(house.client.revoke_tokens("user:alice").await.unwrap_err());
}

fn connect(secret: &str) -> ConnectRequest {
    ConnectRequest {
        server: name("github"),
        owner: "user:alice".to_owned(),
        name: None,
        values: BTreeMap::new(),
        secrets: BTreeMap::from([("token".to_owned(), secret.to_owned())]),
        owner_only: true,
    }
}

#[tokio::test]
async fn a_connection_comes_with_its_sealed_secret() {
    let house = House::open().await;
    house.client.apply(resources(PEOPLE), false).await.unwrap();
    let done = house.client.connect(&connect("hunter2-hunter2")).await.unwrap();
    assert_eq!((done.connection.as_str(), done.change.as_str()), ("github-alice", "created"));
    assert_eq!(done.origin, "https://mcp.example.com");
    let key = keys::secret(&Name::default_tenant(), &name("github-alice"));
    let sealed = house.registry.store().get(&key).await.unwrap().unwrap();
    assert!(!sealed.value.windows(7).any(|w| w == b"hunter2"), "sealed");
    let resource = house.client.resource(Kind::Connection, &name("github-alice")).await.unwrap();
    assert!(!serde_json::to_string(&resource).unwrap().contains("hunter2"));
    assert!(!house.audit().contains("hunter2"));
    let described = house.client.describe(Kind::Connection, &name("github-alice")).await.unwrap();
    assert!(described.status.conditions.iter().all(|c| c.status), "{described:?}");

    assert_eq!(house.client.connect(&connect("other")).await.unwrap().change, "updated");
    // The server moves: what was connected is suspended until somebody approves.
    let moved = PEOPLE.replace("mcp.example.com", "evil.example.com");
    house.client.apply(resources(&moved), false).await.unwrap();
    let findings = house.client.doctor().await.unwrap();
    let found = findings
        .iter()
        .any(|f| f.grade == Grade::Error && f.subject == "Connection/github-alice" && f.message.contains("Suspended"));
    assert!(found, "{findings:?}");
}

#[tokio::test]
async fn a_connection_without_its_owner_is_said_to_serve_nobody() {
    let house = House::open().await;
    house.client.apply(resources(PEOPLE), false).await.unwrap();
    house.client.connect(&connect("hunter2")).await.unwrap();
    house.client.delete(Kind::User, &name("alice")).await.unwrap();
    let end = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let described = house.client.describe(Kind::Connection, &name("github-alice")).await.unwrap();
        if described.status.conditions.iter().any(|c| !c.status && c.reason == "NoOwner") {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{described:?}");
        tokio::task::yield_now().await;
    }
    let findings = house.client.doctor().await.unwrap();
    let told = |f: &Finding| f.subject == "Connection/github-alice" && f.message.contains("its owner does not exist");
    assert!(findings.iter().any(|f| f.grade == Grade::Error && told(f)), "{findings:?}");
    let key = keys::secret(&Name::default_tenant(), &name("github-alice"));
    assert!(house.registry.store().get(&key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_doctor_says_where_a_secret_lies_that_can_not_be_read_and_what_to_do_there() {
    let house = House::open().await;
    let more = "\
---
apiVersion: portcullis.dev/v1alpha1
kind: IdentityProvider
metadata: {name: corp}
spec: {issuer: 'https://login.example.com', clientId: portcullis, clientSecret: {env: PORTCULLIS_TEST_NEVER_SET}}
---
apiVersion: portcullis.dev/v1alpha1
kind: Connection
metadata: {name: filed}
spec: {server: github, owner: {user: alice}, ownerOnly: true, secrets: {token: {file: /nowhere/at/all}}}
";
    house.client.apply(resources(&format!("{PEOPLE}{more}")), false).await.unwrap();
    let findings = house.client.doctor().await.unwrap();
    let told = |subject: &str, message: &str, next: &str| {
        findings.iter().any(|f| {
            f.subject == subject && f.message.contains(message) && f.next.as_deref().is_some_and(|n| n.contains(next))
        })
    };
    assert!(told("IdentityProvider/corp", "PORTCULLIS_TEST_NEVER_SET is not set", "restart"), "{findings:?}");
    assert!(told("Connection/filed", "/nowhere/at/all", "Put the file there"), "{findings:?}");
    // What the resource takes from elsewhere is not sealed here for nothing.
    let mut wanted = connect("hunter2");
    wanted.name = Some(name("filed"));
    assert_eq!(refused(house.client.connect(&wanted).await.unwrap_err()).code, "kept-elsewhere");
}

#[tokio::test]
async fn a_doctor_says_everything_once_and_what_to_do() {
    let house = House::open().await;
    let more = "\
---
apiVersion: portcullis.dev/v1alpha1
kind: Connection
metadata: {name: lost}
spec: {server: nowhere, owner: {user: alice}, ownerOnly: true}
---
apiVersion: portcullis.dev/v1alpha1
kind: Gateway
metadata: {name: main}
spec:
  policies:
    - plugin: tool-access
      config:
        rules:
          - {effect: deny, principals: ['user:alice', 'user:alise', 'team:*', 'role:admin', 'role:ops'], servers: [github, gitlab, 'g*']}
    - {plugin: of-a-stranger, config: {rules: [{principals: ['user:nobody']}]}}
  servers: [{server: github}]
";
    house.client.apply(resources(&format!("{PEOPLE}{more}")), false).await.unwrap();
    let findings = house.client.doctor().await.unwrap();
    let bad: Vec<_> = findings.iter().filter(|f| f.grade != Grade::Ok).collect();
    assert!(bad.iter().all(|f| f.next.as_ref().is_some_and(|n| !n.is_empty())), "each has its next step: {bad:?}");
    let said: Vec<String> = bad.iter().map(|f| format!("{} {}", f.subject, f.message)).collect();
    for (subject, words) in [
        ("Gateway/main", "rules[0].principals[1]: there is no User named \"alise\""),
        ("Gateway/main", "rules[0].principals[4]: there is no Role named \"ops\""),
        ("Gateway/main", "rules[0].servers[1]: there is no McpServer named \"gitlab\""),
        ("Connection/lost", "there is no McpServer \"nowhere\""),
    ] {
        let times = said.iter().filter(|s| s.starts_with(subject) && s.contains(words)).count();
        assert_eq!(times, 1, "{subject} {words}: {said:#?}");
    }
    let innocent = ["\"alice\"", "\"admin\"", "\"github\"", "\"g*\"", "\"nobody\""];
    assert!(said.iter().all(|s| innocent.iter().all(|i| !s.contains(i))), "{said:#?}");
}

#[tokio::test]
async fn a_server_that_asks_for_nothing_is_not_connected() {
    let house = House::open().await;
    let open = PEOPLE.lines().filter(|l| !l.contains("fields:") && !l.contains("credential:")).collect::<Vec<_>>();
    house.client.apply(resources(&open.join("\n")), false).await.unwrap();
    let error = refused(house.client.connect(&connect("x")).await.unwrap_err());
    assert_eq!(error.code, "nothing-to-connect");
    assert!(error.next.unwrap().contains("fields"));
}

#[tokio::test]
async fn what_is_connected_has_to_be_asked_for() {
    let house = House::open().await;
    house.client.apply(resources(PEOPLE), false).await.unwrap();
    let code = async |request: ConnectRequest| {
        let error = refused(house.client.connect(&request).await.unwrap_err());
        let problems: Vec<String> = error.problems.iter().map(|p| format!("{} {}", p.path, p.message)).collect();
        format!("{}: {}", error.code, problems.join("; "))
    };
    let mut missing = connect("x");
    missing.secrets.clear();
    assert_eq!(code(missing).await, "invalid-request: token is missing");
    let mut open = connect("x");
    open.values.insert("token".to_owned(), "x".to_owned());
    assert!(code(open).await.contains("token is a secret"));
    let mut unknown = connect("x");
    unknown.values.insert("colour".to_owned(), "x".to_owned());
    assert_eq!(
        code(unknown).await,
        "invalid-request: colour the server asks for no such field; it asks for: token, site"
    );
    let mut nobody = connect("x");
    nobody.owner = "user:bob".to_owned();
    assert_eq!(code(nobody).await, "not-found: ");
    house.client.connect(&connect("x")).await.unwrap();
    let mut taken = connect("x");
    taken.owner = "organization".to_owned();
    taken.name = Some(name("github-alice"));
    assert_eq!(code(taken).await, "conflict: ");
}

#[tokio::test]
async fn the_socket_is_its_owners() {
    let house = House::open().await;
    let path: PathBuf = house.client.socket().unwrap().to_owned();
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert!(matches!(AdminSocket::bind(&path), Err(server::SocketError::InUse(_))), "a second gateway is refused");
    let nowhere = Client::new(house.dir.path().join("no.sock"), Name::default_tenant());
    assert!(matches!(nowhere.status().await, Err(ClientError::Unreachable { .. })));

    // What this process starts runs as the same user, as servers do, and is not let in.
    let ask = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\ns.settimeout(20)\n\
               try:\n s.sendall(b'GET /v1/status HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n')\n print(len(s.recv(100)))\n\
               except OSError:\n print(0)\n";
    let socket = path.clone();
    let asked = tokio::task::spawn_blocking(move || {
        std::process::Command::new("python3").args(["-c", ask]).arg(&socket).output().unwrap()
    });
    let asked = asked.await.unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), "0", "{asked:?}");
    house.client.status().await.expect("this process itself is");

    // A socket that nobody answers at is left over from a gateway that was killed.
    let stale = house.dir.path().join("run/stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    AdminSocket::bind(&stale).unwrap();
    let plain = house.dir.path().join("run/plain");
    std::fs::write(&plain, "").unwrap();
    assert!(matches!(AdminSocket::bind(&plain), Err(server::SocketError::NotASocket(_))));
}

#[tokio::test]
async fn only_processes_have_logs_and_restarts() {
    let house = House::open().await;
    let process = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: p}\nspec: {process: {command: 'true'}}\n";
    house.client.apply(resources(&format!("{PEOPLE}---\n{process}")), false).await.unwrap();
    house.client.restart(&name("p"), None).await.unwrap();
    let mut lines = 0;
    house
        .client
        .logs(&name("p"), (10, false, false), |_| {
            lines += 1;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(lines, 0);
    let error = refused(house.client.restart(&name("github"), None).await.unwrap_err());
    assert_eq!(error.code, "not-a-process");
    assert_eq!(refused(house.client.restart(&name("nothing"), None).await.unwrap_err()).code, "not-found");
}

#[tokio::test]
async fn whoever_follows_a_log_does_not_keep_it_from_stopping() {
    let house = House::open().await;
    let process = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: p}\nspec: {process: {command: 'true'}}\n";
    house.client.apply(resources(process), false).await.unwrap();
    let follower = house.client.clone();
    let following = tokio::spawn(async move { follower.logs(&name("p"), (1, true, false), |_| Ok(())).await });
    // Connected once another request that came later is answered.
    house.client.status().await.unwrap();
    let socket = house.client.socket().unwrap().to_owned();
    house.stop.send(()).unwrap();
    tokio::time::timeout(crate::support::PATIENCE, house.served).await.unwrap().unwrap().unwrap();
    assert!(!socket.exists());
    following.abort();
}

#[tokio::test]
async fn values_are_checked_before_anything_is_stored() {
    let house = House::open().await;
    let fields = "fields: [{name: token, sensitive: true, pattern: 'gh_[a-z]+'}, {name: site, type: url}, {name: zone, options: [eu, us]}, {name: note}]";
    let place = "place: [{field: token, header: Authorization, prefix: 'Bearer '}, {field: note, header: X-Note}]";
    let strict: Vec<String> = PEOPLE
        .lines()
        .map(|l| match l.trim_start() {
            t if t.starts_with("fields:") => format!("  {fields}"),
            t if t.starts_with("credential:") => format!("  credential: {{{place}}}"),
            _ => l.to_owned(),
        })
        .collect();
    house.client.apply(resources(&strict.join("\n")), false).await.unwrap();
    let with = |token: &str, values: &[(&str, &str)]| {
        let mut request = connect(token);
        request.values = values.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect();
        request
    };
    let wrong = with("GH_SECRET", &[("site", "ftp://x"), ("zone", "moon"), ("note", "a\nX-Evil: 1")]);
    let error = refused(house.client.connect(&wrong).await.unwrap_err());
    let paths: Vec<&str> = error.problems.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(paths, ["token", "site", "zone", "note"]);
    let said = serde_json::to_string(&error).unwrap();
    assert!(!said.contains("GH_SECRET") && !said.contains("moon"), "values are not quoted: {said}");
    assert!(house.client.list(Some(Kind::Connection)).await.unwrap().is_empty());
    let key = keys::secret(&Name::default_tenant(), &name("github-alice"));
    assert!(house.registry.store().get(&key).await.unwrap().is_none(), "nothing was stored");
    let right = with("gh_secret", &[("site", "https://x.example"), ("zone", "eu"), ("note", "tab\there")]);
    house.client.connect(&right).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_another_owners_gets_a_number() {
    let house = House::open().await;
    let more = "---\napiVersion: portcullis.dev/v1alpha1\nkind: User\nmetadata: {name: team-blue}\nspec: {}\n---\napiVersion: portcullis.dev/v1alpha1\nkind: Team\nmetadata: {name: blue}\nspec: {}\n";
    house.client.apply(resources(&format!("{PEOPLE}{more}")), false).await.unwrap();
    let of = |owner: &str| {
        let mut request = connect("x");
        request.owner = owner.to_owned();
        request
    };
    let (user, team) = (of("user:team-blue"), of("team:blue"));
    let (one, two) = tokio::join!(house.client.connect(&user), house.client.connect(&team));
    let mut names = [one.unwrap().connection, two.unwrap().connection];
    names.sort();
    assert_eq!(names.each_ref().map(Name::as_str), ["github-team-blue", "github-team-blue-2"]);
    assert_eq!(house.client.connect(&team).await.unwrap().change, "updated", "each finds its own again");
}
