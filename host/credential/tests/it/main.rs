//! Whose credential a call carries, through the real book and the real resolver.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod caching;
mod eligibility;
mod follow;
mod placing;
mod sealed;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use portcullis_credential::{Carried, ConnectionBook, CredentialPlan, PlanParts, Resolve, Resolver};
use portcullis_model::{
    Fault, Name, Principal, Resource, Spec, Subject,
    spec::{CredentialMode, McpServer},
};
use portcullis_plugin::{Connections, Outcome, PluginFailure, Resolution, TargetFacts};
use portcullis_store::Fleet;
use serde_json::{Value, json};

fn resource(kind: &str, name: &str, spec: Value) -> Resource {
    let document =
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(document).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

const URL: &str = "https://api.example.com/mcp";
const ORIGIN: &str = "https://api.example.com";

/// A remote server that wants a token in `Authorization`.
fn remote() -> Resource {
    let field = json!([{"name": "token", "sensitive": true, "required": true}]);
    let place = json!({"place": [{"field": "token", "header": "Authorization", "prefix": "Bearer "}]});
    resource("McpServer", "github", json!({"remote": {"url": URL}, "fields": field, "credential": place}))
}

/// A file that holds this text, in the build's own scratch directory. One for each text, so that runs leave no more behind.
fn secret_file(text: &str) -> String {
    let digest = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = dir.join(format!("credential-{digest:x}"));
    if !path.exists() {
        let draft = tempfile::NamedTempFile::new_in(dir).unwrap();
        std::fs::write(draft.path(), text).unwrap();
        draft.persist(&path).unwrap();
    }
    path.display().to_string()
}

/// A connection to `github` whose token is its name.
fn connection(id: &str, owner: Value, owner_only: bool, created_ms: u64) -> Resource {
    let spec = json!({"server": "github", "owner": owner, "ownerOnly": owner_only, "origin": ORIGIN,
        "secrets": {"token": {"file": secret_file(&format!("{id}\n"))}}});
    let mut resource = resource("Connection", id, spec);
    resource.metadata.created_ms = Some(created_ms);
    resource
}

/// Alice and Bob are of team blue, Carol of team red; the agent `ci` belongs to blue.
fn people() -> Vec<Resource> {
    vec![
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("User", "carol", json!({})),
        resource("Team", "blue", json!({"members": ["alice", "bob"]})),
        resource("Team", "red", json!({"members": ["carol"]})),
        resource("Agent", "ci", json!({"team": "blue"})),
        resource("Agent", "lone", json!({})),
    ]
}

/// A principal by its text; users come with the teams that [`people`] gives them.
fn principal(text: &str) -> Arc<Principal> {
    let mut principal = Principal::new(Name::default_tenant(), text.parse().unwrap());
    principal.teams = match &principal.subject {
        Subject::User(user) if matches!(user.as_str(), "alice" | "bob") => vec![name("blue")],
        Subject::User(user) if user.as_str() == "carol" => vec![name("red")],
        Subject::Team(team) => vec![team.clone()],
        Subject::External { subject, .. } if subject == "blue-person" => vec![name("blue")],
        _ => Vec::new(),
    };
    Arc::new(principal)
}

type Answer = Box<dyn Fn(&Principal, &TargetFacts) -> Resolution + Send + Sync>;

/// A resolver of the test's own, counting how often it is asked.
struct Fake {
    asked: AtomicUsize,
    answer: Answer,
    /// Held by a test to keep an answer back.
    gate: tokio::sync::Semaphore,
    seen: Mutex<Vec<String>>,
}

impl Fake {
    fn new(answer: impl Fn(&Principal, &TargetFacts) -> Resolution + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            asked: AtomicUsize::new(0),
            answer: Box::new(answer),
            gate: tokio::sync::Semaphore::new(1 << 20),
            seen: Mutex::default(),
        })
    }

    /// Takes the first candidate, as the built-in `call-time` and `static` do.
    fn first(book: &Arc<ConnectionBook>) -> Arc<Self> {
        let book = Arc::clone(book);
        Self::new(move |principal, target| {
            let candidates = book.candidates(principal, &target.server, target.connection.as_ref());
            let wanted =
                |c: &&portcullis_plugin::ConnectionFacts| target.connection.as_ref().is_none_or(|n| *n == c.id);
            match candidates.iter().find(wanted) {
                Some(found) => outcome(Outcome::Use { connection: found.id.clone() }),
                None => outcome(Outcome::Missing(String::new())),
            }
        })
    }

    /// Insists on one connection, whoever asks.
    fn insisting(id: &str) -> Arc<Self> {
        let connection = name(id);
        Self::new(move |_, _| outcome(Outcome::Use { connection: connection.clone() }))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for Fake {
    fn resolve<'a>(
        &'a self,
        principal: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        target: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.seen.lock().unwrap().push(principal.subject.to_string());
            let _pass = self.gate.acquire().await.unwrap();
            tokio::task::yield_now().await;
            Ok((self.answer)(principal, target))
        })
    }
}

fn outcome(outcome: Outcome) -> Resolution {
    Resolution {
        outcome,
        headers: Vec::new(),
        expires_ms: None,
        vary: Vec::new(),
        reads: Vec::new(),
        passed: None,
        kept: Vec::new(),
    }
}

fn plan_for(server: &Resource, named: Option<&str>, resolver: &Arc<Fake>) -> Arc<CredentialPlan> {
    let Spec::McpServer(spec) = &server.spec else { panic!("a server") };
    plan_of(spec, &server.metadata.name, named, Arc::clone(resolver) as Arc<dyn Resolve>)
}

fn plan_of(spec: &McpServer, server: &Name, named: Option<&str>, resolver: Arc<dyn Resolve>) -> Arc<CredentialPlan> {
    let mode = CredentialMode {
        mode: if named.is_some() { "static" } else { "call-time" }.to_owned(),
        connection: named.map(name),
        settings: std::collections::BTreeMap::new(),
    };
    CredentialPlan::new(PlanParts {
        tenant: Name::default_tenant(),
        server: server.clone(),
        spec,
        mode: &mode,
        resolver,
        resolver_identity: "test".to_owned(),
    })
}

/// A fleet of people, the server and these connections.
fn fleet(connections: Vec<Resource>) -> Fleet {
    Fleet::of(people().into_iter().chain([remote()]).chain(connections))
}

async fn resolve(resolver: &Arc<Resolver>, plan: &Arc<CredentialPlan>, who: &str) -> Result<Arc<Carried>, Fault> {
    resolver.resolve(plan, &principal(who), &Arc::default()).await
}

/// What stands in `Authorization`.
fn bearer(carried: &Carried) -> String {
    let (_, value) = carried.headers.iter().find(|(name, _)| name == "authorization").expect("a token");
    assert!(value.is_sensitive(), "a secret's header prints itself");
    value.to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
}
