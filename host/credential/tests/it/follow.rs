//! New answers ahead of the end of old ones, and after a server's refusal.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use http::HeaderMap;
use portcullis_credential::{
    Carried, ConnectionBook, CredentialPlan, PassedAudit, Rejection as Refusal, Resolve, Resolver,
};
use portcullis_model::{CallerToken, Name, Principal, Secret, Spec, TokenOrigin};
use portcullis_plugin::{
    Earlier, Guarded, Outcome, Passed, PluginError, PluginFailure, Read, Rejection, Resolution, TargetFacts,
};

use crate::{bearer, fleet, outcome, plan_of, principal, remote, resolve};

/// Gives `Bearer N`, another N each time.
struct Following {
    made: AtomicUsize,
    refreshed: AtomicUsize,
    rejections: AtomicUsize,
    life_ms: u64,
    says: fn(&Following) -> Result<Rejection, PluginFailure>,
    refreshes: bool,
    saw: Mutex<Vec<String>>,
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Following {
    fn new(life_ms: u64, refreshes: bool, says: fn(&Self) -> Result<Rejection, PluginFailure>) -> Arc<Self> {
        Arc::new(Self {
            made: AtomicUsize::new(0),
            refreshed: AtomicUsize::new(0),
            rejections: AtomicUsize::new(0),
            life_ms,
            says,
            refreshes,
            saw: Mutex::default(),
        })
    }

    fn answer(&self) -> Resolution {
        let n = self.made.fetch_add(1, Ordering::SeqCst);
        Resolution {
            headers: vec![(http::header::AUTHORIZATION, Guarded::text(format!("Bearer {n}")))],
            expires_ms: Some(now_ms() + self.life_ms),
            kept: vec![("refresh".to_owned(), Guarded::text(format!("kept {n}")))],
            reads: vec![Read::CallerToken],
            ..outcome(Outcome::Headers)
        }
    }

    fn note(&self, earlier: &Earlier) {
        let kept = earlier.kept.iter().map(|(name, value)| format!("{name}={}", text(value.value())));
        self.saw.lock().unwrap().extend(kept);
    }
}

fn text(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

impl Resolve for Following {
    fn resolve<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async { Ok(self.answer()) })
    }

    fn refreshes(&self) -> bool {
        self.refreshes
    }

    fn hears_of_rejections(&self) -> bool {
        true
    }

    fn refresh<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
        earlier: &'a Earlier,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async {
            self.note(earlier);
            self.refreshed.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(Resolution { expires_ms: Some(now_ms() + 3_600_000), ..self.answer() })
        })
    }

    fn rejected<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
        earlier: &'a Earlier,
    ) -> BoxFuture<'a, Result<Rejection, PluginFailure>> {
        Box::pin(async {
            self.note(earlier);
            self.rejections.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            (self.says)(self)
        })
    }
}

fn plan(resolver: &Arc<Following>) -> Arc<CredentialPlan> {
    let server = remote();
    let Spec::McpServer(spec) = &server.spec else { panic!("a server") };
    plan_of(spec, &server.metadata.name, None, Arc::clone(resolver) as Arc<dyn Resolve>)
}

fn resolver() -> Arc<Resolver> {
    Resolver::new(ConnectionBook::of(&fleet(Vec::new())), 100)
}

/// The server's refusal.
const UNAUTHORIZED: Refusal<'static> = Refusal { status: 401, www_authenticate: None };

fn again(following: &Following) -> Result<Rejection, PluginFailure> {
    Ok(Rejection::Retry(Box::new(following.answer())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_answer_is_there_before_the_old_one_ends() {
    let alice = principal("user:alice");
    // An answer of an hour: due four fifths in, so nobody asks now.
    let long = Following::new(3_600_000, true, again);
    let (patient, long_plan) = (resolver(), plan(&long));
    for _ in 0..100 {
        patient.resolve(&long_plan, &alice, &Arc::default()).await.unwrap();
    }
    assert_eq!((long.made.load(Ordering::SeqCst), long.refreshed.load(Ordering::SeqCst)), (1, 0));

    // One whose end is near: all calls go on under it, one of them has a new one fetched.
    let near = Following::new(400, true, again);
    let (resolver, near_plan) = (resolver(), plan(&near));
    let mut seen = std::collections::BTreeSet::new();
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while near.refreshed.load(Ordering::SeqCst) == 0 {
        assert!(std::time::Instant::now() < until, "nobody refreshed");
        let calls: Vec<_> = (0..8).map(|_| resolve(&resolver, &near_plan, "user:alice")).collect();
        for carried in futures_util::future::join_all(calls).await {
            seen.insert(bearer(&carried.unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while bearer(&resolve(&resolver, &near_plan, "user:alice").await.unwrap()) == "0" {
        assert!(std::time::Instant::now() < until, "the new one is used");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(near.refreshed.load(Ordering::SeqCst), 1, "once");
    assert_eq!(*near.saw.lock().unwrap(), ["refresh=kept 0"], "with what was kept beside the old one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_has_one_ask_for_all() {
    let following = Following::new(600_000, false, again);
    let (resolver, plan) = (resolver(), plan(&following));
    let alice = principal("user:alice");
    let headers = Arc::default();
    let first = resolve(&resolver, &plan, "user:alice").await.unwrap();
    let calls: Vec<_> = (0..50).map(|_| resolver.refused(&plan, &alice, &headers, &first, UNAUTHORIZED)).collect();
    for next in futures_util::future::join_all(calls).await {
        assert_eq!(bearer(&next.unwrap().unwrap()), "1");
    }
    assert_eq!(following.rejections.load(Ordering::SeqCst), 1);
    let second = resolve(&resolver, &plan, "user:alice").await.unwrap();
    assert_eq!(bearer(&second), "1", "later calls use the new one");
    // What is refused as well, so soon, stays refused; and the next call starts anew.
    assert!(resolver.refused(&plan, &alice, &headers, &second, UNAUTHORIZED).await.unwrap().is_none());
    assert_eq!(following.rejections.load(Ordering::SeqCst), 1);
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "2");
}

/// Names one connection, and after a refusal another.
struct Switching;

impl Switching {
    fn name(id: &str) -> Resolution {
        outcome(Outcome::Use { connection: crate::name(id) })
    }
}

impl Resolve for Switching {
    fn resolve<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
    ) -> BoxFuture<'a, Result<Resolution, PluginFailure>> {
        Box::pin(async { Ok(Self::name("one")) })
    }

    fn hears_of_rejections(&self) -> bool {
        true
    }

    fn rejected<'a>(
        &'a self,
        _: &'a Arc<Principal>,
        _: &'a Arc<HeaderMap>,
        _: &'a TargetFacts,
        _: &'a Earlier,
    ) -> BoxFuture<'a, Result<Rejection, PluginFailure>> {
        Box::pin(async { Ok(Rejection::Retry(Box::new(Self::name("two")))) })
    }
}

#[tokio::test]
async fn a_refused_call_goes_on_under_no_other_account() {
    let owner = serde_json::json!({"user": "alice"});
    let both = ["one", "two"].map(|id| crate::connection(id, owner.clone(), true, 1));
    let resolver = Resolver::new(ConnectionBook::of(&fleet(both.to_vec())), 100);
    let server = remote();
    let Spec::McpServer(spec) = &server.spec else { panic!("a server") };
    let plan = plan_of(spec, &server.metadata.name, None, Arc::new(Switching));
    let alice = principal("user:alice");
    let first = resolve(&resolver, &plan, "user:alice").await.unwrap();
    assert_eq!(bearer(&first), "one");
    // The second time the other one is known already.
    for _ in 0..2 {
        let next = resolver.refused(&plan, &alice, &Arc::default(), &first, UNAUTHORIZED).await.unwrap();
        assert!(next.is_none(), "{:?}", next.map(|next| next.connection.clone()));
    }
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "two", "it is for the next call");
}

#[tokio::test]
async fn what_a_resolver_says_of_a_refusal_is_told() {
    let alice = principal("user:alice");
    let go = async |says| {
        let following = Following::new(600_000, false, says);
        let (resolver, plan) = (resolver(), plan(&following));
        let first = resolve(&resolver, &plan, "user:alice").await.unwrap();
        resolver.refused(&plan, &alice, &Arc::default(), &first, UNAUTHORIZED).await
    };
    assert!(go(|_| Ok(Rejection::GiveUp)).await.unwrap().is_none());
    let fault = go(|_| Ok(Rejection::Reconnect("connect it again".into()))).await.unwrap_err();
    assert_eq!(fault.code, "missing-credential");
    assert!(fault.message.contains("connect it again"), "{fault}");
    let denied = |_: &Following| {
        Err(PluginFailure::Error(PluginError::Denied { code: "x".into(), message: "sign in again".into() }))
    };
    let fault = go(denied).await.unwrap_err();
    assert_eq!((fault.code, &*fault.message), ("credential-denied", "sign in again"));
}

fn with_token(who: &str, digest: u8) -> Arc<Principal> {
    let mut principal = Principal::clone(&principal(who));
    principal.bearer = Some(Arc::new(CallerToken {
        secret: Secret::new("t"),
        origin: TokenOrigin::Presented,
        issuer: "https://i".into(),
        audiences: Vec::new(),
        expires_ms: None,
        bound: false,
        token_type: None,
        digest: [digest; 32],
    }));
    Arc::new(principal)
}

#[tokio::test]
async fn an_answer_that_rests_on_a_token_is_used_for_that_token() {
    let following = Following::new(600_000, false, again);
    let (resolver, plan) = (resolver(), plan(&following));
    let headers = Arc::default();
    let go = async |who: &Arc<Principal>| bearer(&resolver.resolve(&plan, who, &headers).await.unwrap());
    let (one, two, none) = (with_token("user:alice", 1), with_token("user:alice", 2), principal("user:alice"));
    assert_eq!(go(&one).await, "0");
    assert_eq!(go(&two).await, "1");
    assert_eq!(go(&none).await, "2");
    assert_eq!((go(&one).await, go(&two).await, go(&none).await), ("0".into(), "1".into(), "2".into()));
    assert_eq!(go(&with_token("user:alice", 1)).await, "0", "the same token, presented again");
}

/// Records what is passed on, or can't.
struct Book(Mutex<Vec<String>>, bool);

impl PassedAudit for Book {
    fn passed<'a>(
        &'a self,
        tenant: &'a Name,
        caller: &'a str,
        server: &'a Name,
        exception: Option<&'a str>,
    ) -> BoxFuture<'a, bool> {
        self.0.lock().unwrap().push(format!("{tenant} {caller} {server} {exception:?}"));
        Box::pin(async { self.1 })
    }
}

#[tokio::test]
async fn a_token_that_goes_on_is_recorded_first_or_stays() {
    let go = async |audit: Option<Arc<Book>>| -> Result<Arc<Carried>, &'static str> {
        let fake = crate::Fake::new(|_, _| Resolution {
            headers: vec![(http::header::AUTHORIZATION, Guarded::text("Bearer t".into()))],
            passed: Some(Passed { exception: Some("OPS-12".into()) }),
            ..outcome(Outcome::Headers)
        });
        let plan = crate::plan_for(&remote(), None, &fake);
        let book = ConnectionBook::of(&fleet(Vec::new()));
        let resolver = match audit {
            Some(audit) => Resolver::audited(book, 10, audit),
            None => Resolver::new(book, 10),
        };
        resolve(&resolver, &plan, "user:alice").await.map_err(|fault| fault.code)
    };
    let works = Arc::new(Book(Mutex::default(), true));
    assert!(go(Some(works.clone())).await.unwrap().passed.is_some());
    let server = remote().metadata.name;
    assert_eq!(*works.0.lock().unwrap(), [format!("default user:alice {server} Some(\"OPS-12\")")]);
    assert_eq!(go(Some(Arc::new(Book(Mutex::default(), false)))).await.unwrap_err(), "audit-unavailable");
    assert_eq!(go(None).await.unwrap_err(), "audit-unavailable");
}
