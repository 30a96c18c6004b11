//! Grants behind the real book and resolver: what calls carry, and what that costs. The way to an authorization server is
//! tested end to end, against a real one.

use std::{sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use portcullis_model::{
    Door, Name, Principal, Resource, Secret, Spec,
    spec::{CredentialMode, McpServer},
};
use portcullis_plugin::{Outcome, PluginFailure, Resolution, TargetFacts};
use portcullis_store::{Record, Registry, Revision, SledOptions, SledStore, Store, StoreError, Watch, Write};
use portcullis_telemetry::{Audit, Metrics};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{
    GrantState, Grants,
    record::{Held, tests::held},
};
use crate::{
    Carried, ConnectionBook, CredentialPlan, KeySource, PlanParts, Rejection, Resolve, Resolver, SecretSources,
    Secrets, Vault, resolver::now_ms,
};

/// Names the one connection, and counts how often it is asked.
#[derive(Default)]
struct Naming(std::sync::atomic::AtomicUsize);

impl Resolve for Naming {
    fn resolve<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let outcome = Outcome::Use { connection: name("x-alice") };
        let answer = Resolution {
            outcome,
            headers: Vec::new(),
            expires_ms: None,
            vary: Vec::new(),
            reads: Vec::new(),
            passed: None,
            kept: Vec::new(),
        };
        Box::pin(async move { Ok(answer) })
    }
}

/// A store whose reads and writes are counted.
struct Counting {
    inner: Arc<dyn Store>,
    asked: std::sync::atomic::AtomicUsize,
}

impl Counting {
    fn count(&self) -> &dyn Store {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        &*self.inner
    }
}

impl Store for Counting {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        self.count().get(key)
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        self.count().scan(prefix, after, limit)
    }

    fn write(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.count().write(batch)
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.count().watch(prefix, from)
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}

struct House {
    _dir: tempfile::TempDir,
    asked: Arc<Counting>,
    store: Arc<dyn Store>,
    grants: Arc<Grants>,
    resolver: Arc<Resolver>,
    naming: Arc<Naming>,
    plan: Arc<CredentialPlan>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn resource(kind: &str, name: &str, spec: Value) -> Resource {
    let document =
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(document).unwrap()
}

impl House {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Store> = SledStore::open(dir.path(), SledOptions::default()).unwrap();
        let asked = Arc::new(Counting { inner, asked: std::sync::atomic::AtomicUsize::new(0) });
        let store: Arc<dyn Store> = Arc::clone(&asked) as _;
        let registry = Registry::open(Arc::clone(&store)).await.unwrap();
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let vault = Vault::open(&KeySource::Text(Secret::new(key))).unwrap();
        let secrets = Secrets::new(Arc::clone(&store), Arc::new(vault));
        let server = resource(
            "McpServer",
            "x",
            json!({"remote": {"url": "https://x.example/mcp"}, "credential": {"oauth": {}}}),
        );
        let Spec::McpServer(spec) = server.spec.clone() else { panic!("a server") };
        let connection =
            json!({"server": "x", "owner": {"user": "alice"}, "ownerOnly": true, "origin": "https://x.example"});
        let all = vec![resource("User", "alice", json!({})), server, resource("Connection", "x-alice", connection)];
        registry.apply(all, Door::Api, false).await.unwrap();
        let sources = SecretSources::local();
        let book = ConnectionBook::open(Arc::clone(&registry), secrets.clone(), Arc::clone(&sources)).await.unwrap();
        let client = portcullis_outbound::Client::new().unwrap();
        let grants =
            Grants::open(registry, secrets, sources, client, (Metrics::new(), Audit::discard())).await.unwrap();
        book.keep_grants(Arc::clone(&grants));
        let naming = Arc::new(Naming::default());
        let plan = plan(&spec, Arc::clone(&naming));
        Self { _dir: dir, asked, store, grants, resolver: Resolver::new(book, 100), naming, plan }
    }

    /// Writes a grant down, as another replica would.
    async fn granted(&self, held: Held) {
        let (tenant, connection) = (Name::default_tenant(), name("x-alice"));
        let write = self.grants.sealing(&tenant, &connection, &held, portcullis_store::Expect::Any).unwrap();
        let revision = self.store.write(vec![write]).await.unwrap();
        let seen = || self.grants.get(&tenant, &connection).is_some_and(|g| g.held().revision >= revision);
        let until = Instant::now() + std::time::Duration::from_secs(10);
        while !seen() {
            assert!(Instant::now() < until, "the grant is not followed");
            tokio::task::yield_now().await;
        }
    }

    async fn resolve(&self) -> Result<Arc<Carried>, portcullis_model::Fault> {
        let principal = Arc::new(Principal::new(Name::default_tenant(), "user:alice".parse().unwrap()));
        self.resolver.resolve(&self.plan, &principal, &Arc::new(HeaderMap::new())).await
    }
}

fn plan(spec: &McpServer, naming: Arc<Naming>) -> Arc<CredentialPlan> {
    CredentialPlan::new(PlanParts {
        tenant: Name::default_tenant(),
        server: name("x"),
        spec,
        mode: &CredentialMode::default(),
        resolver: naming,
        resolver_identity: String::new(),
    })
}

fn token(carried: &Carried) -> &str {
    carried.headers[0].1.to_str().unwrap()
}

#[tokio::test]
async fn calls_carry_the_token_that_is_held_now() {
    let house = House::open().await;
    let fault = house.resolve().await.unwrap_err();
    assert_eq!(fault.code, "missing-credential", "{fault}");
    house.granted(held(now_ms(), Some(3_600_000))).await;
    let first = house.resolve().await.unwrap();
    assert_eq!(token(&first), "Bearer access");
    assert!(first.headers[0].1.is_sensitive());
    let asked = house.naming.0.load(std::sync::atomic::Ordering::SeqCst);
    for _ in 0..10 {
        assert!(Arc::ptr_eq(&first, &house.resolve().await.unwrap()));
    }
    assert_eq!(house.naming.0.load(std::sync::atomic::Ordering::SeqCst), asked, "warm");

    // Renewed by somebody else: the next call carries the new one, in the same sessions.
    let renewed = held(now_ms(), Some(3_600_000)).with(|next| next.access = Secret::new("second"));
    house.granted(renewed).await;
    let second = house.resolve().await.unwrap();
    assert_eq!(token(&second), "Bearer second");
    assert_eq!(first.connection_revision, second.connection_revision);
    // Connected again, perhaps as somebody else: other sessions.
    house.granted(held(now_ms(), None).with(|next| next.grant = "other".into())).await;
    assert_ne!(house.resolve().await.unwrap().connection_revision, first.connection_revision);
}

#[tokio::test]
async fn what_cannot_be_renewed_asks_its_owner() {
    let house = House::open().await;
    let ended = |refresh| held(now_ms() - 10_000, Some(5_000)).with(|next| next.refresh = refresh);
    house.granted(ended(None)).await;
    let fault = house.resolve().await.unwrap_err();
    assert_eq!(fault.code, "missing-credential");
    assert!(fault.message.contains("connected again"), "{fault}");
    let status = house.grants.status(&Name::default_tenant(), &name("x-alice")).unwrap();
    assert_eq!(status.state, GrantState::Reconnect);

    house.granted(held(now_ms(), None).with(|next| next.broken = Some("it was refused (invalid_grant)".into()))).await;
    let fault = house.resolve().await.unwrap_err();
    assert!(fault.message.contains("invalid_grant"), "{fault}");
}

#[tokio::test]
async fn only_a_typed_refusal_is_one() {
    let house = House::open().await;
    house.granted(held(now_ms(), None).with(|next| next.refresh = None)).await;
    let carried = house.resolve().await.unwrap();
    let principal = Arc::new(Principal::new(Name::default_tenant(), "user:alice".parse().unwrap()));
    let headers = Arc::new(HeaderMap::new());
    let refused = |status, www_authenticate| {
        let rejection = Rejection { status, www_authenticate };
        house.resolver.refused(&house.plan, &principal, &headers, &carried, rejection)
    };
    assert!(refused(403, None).await.unwrap().is_none());
    assert!(refused(500, Some("Bearer error=\"insufficient_scope\", scope=\"w\"")).await.unwrap().is_none());
    let more = refused(403, Some("Bearer error=\"insufficient_scope\", scope=\"w\"")).await.unwrap_err();
    assert!(more.message.contains("wants more") && more.message.contains('w'), "{more}");
    // What was asked for at the last sign-in would not be granted at the next one either.
    assert!(refused(403, Some("Bearer error=\"insufficient_scope\", scope=\"a\"")).await.unwrap().is_none());
    let fault = refused(401, None).await.unwrap_err();
    assert!(fault.message.contains("does not accept"), "{fault}");
    // The next call tries again: a server's mistake does not outlive it.
    assert_eq!(token(&house.resolve().await.unwrap()), "Bearer access");
}

/// The processor time that this thread has used.
fn used() -> std::time::Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    std::time::Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// A warm resolution asks neither the plugin nor the store, and costs less than 5 µs, in a debug build too; it prints how much
/// (`--nocapture`; docs/benchmark.md).
#[tokio::test]
#[allow(clippy::print_stdout, reason = "a figure for whoever asks")]
async fn a_warm_resolution_reads_no_store_and_is_cheap() {
    let house = House::open().await;
    house.granted(held(now_ms(), Some(3_600_000))).await;
    let principal = Arc::new(Principal::new(Name::default_tenant(), "user:alice".parse().unwrap()));
    let headers = Arc::new(HeaderMap::new());
    house.resolve().await.unwrap();
    let asked = || house.asked.asked.load(std::sync::atomic::Ordering::SeqCst);
    let before = asked();
    assert!(before > 0, "the store is counted");
    const TIMES: u32 = 20_000;
    // The best of several rounds, in processor time: the machine has other things to do.
    let mut best = std::time::Duration::MAX;
    for _ in 0..10 {
        let began = used();
        for _ in 0..TIMES {
            house.resolver.resolve(&house.plan, &principal, &headers).await.unwrap();
        }
        best = best.min((used() - began) / TIMES);
    }
    println!("a warm resolution with OAuth: {} ns of processor time", best.as_nanos());
    assert_eq!((asked(), house.naming.0.load(std::sync::atomic::Ordering::SeqCst)), (before, 1));
    assert!(best < std::time::Duration::from_micros(5), "{best:?}");
}

#[tokio::test]
async fn what_an_earlier_owner_signed_in_for_is_not_the_next_ones() {
    let house = House::open().await;
    // From before alice was there, however often it was renewed since.
    house.granted(held(now_ms(), Some(3_600_000)).with(|old| old.given_ms = Some(1))).await;
    let fault = house.resolve().await.unwrap_err();
    assert!(fault.message.contains("has no account signed in"), "{fault}");
    let hers = held(now_ms(), Some(3_600_000)).with(|new| (new.grant, new.given_ms) = ("other".into(), Some(now_ms())));
    house.granted(hers).await;
    assert_eq!(token(&house.resolve().await.unwrap()), "Bearer access");
}

/// Names a connection that is not the one of [`Naming`].
struct NamingOther;

impl Resolve for NamingOther {
    fn resolve<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async {
            Ok(Resolution {
                outcome: Outcome::Use { connection: name("x-other") },
                headers: Vec::new(),
                expires_ms: None,
                vary: Vec::new(),
                reads: Vec::new(),
                passed: None,
                kept: Vec::new(),
            })
        })
    }
}

#[tokio::test]
async fn a_refused_call_goes_on_under_no_other_account() {
    let house = House::open().await;
    let (tenant, other) = (Name::default_tenant(), name("x-other"));
    let spec = json!({"server": "x", "owner": {"user": "alice"}, "ownerOnly": true, "origin": "https://x.example"});
    let registry = &house.grants.registry;
    registry.apply(vec![resource("Connection", "x-other", spec)], Door::Api, false).await.unwrap();
    house.resolver.book().refresh().await.unwrap();
    house.grants.install(&tenant, &other, held(now_ms(), None));
    house.granted(held(now_ms(), Some(3_600_000))).await;
    let carried = house.resolve().await.unwrap();
    // Renewed by somebody else's call, so that there is another token; but now another connection is named.
    house.granted(held(now_ms(), Some(3_600_000)).with(|next| next.access = Secret::new("second"))).await;
    let server = registry.snapshot().server(&tenant, &name("x")).map(|s| s.spec.clone()).unwrap();
    let plan_other = CredentialPlan::new(PlanParts {
        tenant: tenant.clone(),
        server: name("x"),
        spec: &server,
        mode: &CredentialMode::default(),
        resolver: Arc::new(NamingOther),
        resolver_identity: "other".to_owned(),
    });
    let principal = Arc::new(Principal::new(tenant, "user:alice".parse().unwrap()));
    let headers = Arc::new(HeaderMap::new());
    let refused = async |plan: &Arc<CredentialPlan>| {
        let rejection = Rejection { status: 401, www_authenticate: None };
        house.resolver.refused(plan, &principal, &headers, &carried, rejection).await.unwrap()
    };
    assert!(refused(&plan_other).await.is_none());
    assert_eq!(token(&refused(&house.plan).await.unwrap()), "Bearer second", "under its own it goes on");
}
