//! What is remembered, for whom, and what ends it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use portcullis_credential::{ConnectionBook, Resolver};
use portcullis_model::Spec;
use portcullis_plugin::{Guarded, Outcome, PluginFailure, Read, Resolution};
use serde_json::json;

use crate::{Fake, bearer, connection, fleet, outcome, plan_for, principal, remote, resolve};

fn headers(pairs: &[(&'static str, &'static str)]) -> Arc<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse().unwrap());
    }
    Arc::new(map)
}

fn book() -> Arc<ConnectionBook> {
    let users = ["alice", "bob", "carol"];
    ConnectionBook::of(&fleet(users.iter().map(|u| connection(u, json!({"user": u}), true, 1)).collect()))
}

#[tokio::test]
async fn a_known_answer_asks_nobody() {
    let book = book();
    let resolver = Resolver::new(book.clone(), 100);
    let fake = Fake::first(&book);
    let plan = plan_for(&remote(), None, &fake);
    let first = resolve(&resolver, &plan, "user:alice").await.unwrap();
    let alice = principal("user:alice");
    let none = Arc::default();
    let rounds = 20_000_u32;
    let start = Instant::now();
    for _ in 0..rounds {
        let again = resolver.resolve(&plan, &alice, &none).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
    }
    let each = start.elapsed() / rounds;
    println!("a warm resolve takes {each:?} in this build");
    assert!(each < Duration::from_micros(100), "{each:?}");
    assert_eq!(fake.asked(), 1);
    // An equal plan, compiled again, shares the answer; another resolver or assignment does not.
    assert!(Arc::ptr_eq(&first, &resolve(&resolver, &plan_for(&remote(), None, &fake), "user:alice").await.unwrap()));
    resolve(&resolver, &plan_for(&remote(), Some("alice"), &fake), "user:alice").await.unwrap();
    assert_eq!(fake.asked(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_never_get_each_others() {
    let book = book();
    let resolver = Resolver::new(book.clone(), 8);
    let fake = Fake::first(&book);
    let plan = plan_for(&remote(), None, &fake);
    let tasks: Vec<_> = (0..48)
        .map(|i| {
            let (resolver, plan) = (Arc::clone(&resolver), Arc::clone(&plan));
            let who = ["alice", "bob", "carol"][i % 3];
            tokio::spawn(async move {
                for _ in 0..200 {
                    let carried = resolve(&resolver, &plan, &format!("user:{who}")).await.unwrap();
                    assert_eq!(bearer(&carried), who);
                    assert_eq!(*carried.executed_as, *format!("connection {who} of user:{who}"));
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn one_asks_and_the_others_wait() {
    let book = book();
    let resolver = Resolver::new(book.clone(), 100);
    let fake = Fake::first(&book);
    let plan = plan_for(&remote(), None, &fake);
    let held = fake.gate.acquire_many(1 << 20).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (resolver, plan) = (Arc::clone(&resolver), Arc::clone(&plan));
            tokio::spawn(async move { resolve(&resolver, &plan, "user:alice").await })
        })
        .collect();
    while fake.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // Whoever goes away while asking holds up nobody: another one asks.
    tasks[0].abort();
    drop(held);
    let mut done = 0;
    for task in tasks {
        if let Ok(result) = task.await {
            assert_eq!(bearer(&result.unwrap()), "alice");
            done += 1;
        }
    }
    assert!(done >= 19);
    assert!(fake.asked() <= 2, "asked {} times", fake.asked());
}

#[tokio::test]
async fn what_the_plugin_read_belongs_to_the_key() {
    let resolver = Resolver::new(book(), 100);
    let fake = Fake::new(|_, _| Resolution {
        reads: vec![Read::Header("x-project".into()), Read::Groups],
        vary: vec!["X-Stage".into()],
        ..outcome(Outcome::Use { connection: crate::name("alice") })
    });
    let plan = plan_for(&remote(), None, &fake);
    let alice = principal("user:alice");
    let mut grouped = portcullis_model::Principal::clone(&alice);
    grouped.groups = vec!["staff".into()];
    let grouped = Arc::new(grouped);
    let asks = [
        (&alice, headers(&[]), 1),
        (&alice, headers(&[]), 1),
        (&alice, headers(&[("x-other", "1")]), 1),
        (&alice, headers(&[("x-project", "a")]), 2),
        (&alice, headers(&[("x-project", "a"), ("x-project", "b")]), 3),
        (&alice, headers(&[("x-stage", "1")]), 4),
        (&grouped, headers(&[]), 5),
        (&alice, headers(&[("x-project", "a")]), 5),
        (&alice, headers(&[]), 5),
    ];
    for (i, (who, headers, asked)) in asks.iter().enumerate() {
        resolver.resolve(&plan, who, headers).await.unwrap();
        assert_eq!(fake.asked(), *asked, "row {i}");
    }
}

#[tokio::test]
async fn answers_end_when_they_say() {
    let resolver = Resolver::new(book(), 100);
    let fake = Fake::new(|_, _| Resolution {
        expires_ms: Some(1),
        ..outcome(Outcome::Use { connection: crate::name("alice") })
    });
    let plan = plan_for(&remote(), None, &fake);
    for asked in 1..4 {
        resolve(&resolver, &plan, "user:alice").await.unwrap();
        assert_eq!(fake.asked(), asked, "an answer of the past is not kept");
    }
    let fake = Fake::new(|_, _| Resolution { expires_ms: Some(u64::MAX), ..outcome(Outcome::None) });
    let carried = resolve(&resolver, &plan_for(&remote(), None, &fake), "user:alice").await.unwrap();
    let in_an_hour =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap() + Duration::from_secs(3601);
    assert!(u128::from(carried.expires_ms.unwrap()) < in_an_hour.as_millis(), "an hour is the most");
}

#[tokio::test]
async fn a_refused_credential_gives_way_to_a_healthy_one_of_its_rank() {
    let both = vec![
        connection("older", json!({"user": "alice"}), true, 1),
        connection("newer", json!({"user": "alice"}), true, 2),
        connection("blue", json!({"team": "blue"}), true, 0),
    ];
    let book = ConnectionBook::of(&fleet(both));
    let resolver = Resolver::new(book.clone(), 100);
    let plan = plan_for(&remote(), None, &Fake::first(&book));
    let first = resolve(&resolver, &plan, "user:alice").await.unwrap();
    assert_eq!(bearer(&first), "older");
    resolver.rejected(&first);
    let second = resolve(&resolver, &plan, "user:alice").await.unwrap();
    assert_eq!(bearer(&second), "newer", "the next call sees it");
    resolver.rejected(&second);
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "older", "the rank goes before health");
    resolver.accepted(&second);
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "newer");
    assert!(!book.status(&portcullis_model::Name::default_tenant(), &crate::name("older")).unwrap().healthy);
}

#[tokio::test]
async fn a_failing_resolver_denies_in_words() {
    struct Failing;
    impl portcullis_credential::Resolve for Failing {
        fn resolve<'a>(
            &'a self,
            _: &'a Arc<portcullis_model::Principal>,
            _: &'a Arc<HeaderMap>,
            _: &'a portcullis_plugin::TargetFacts,
        ) -> futures_util::future::BoxFuture<'a, Result<Resolution, PluginFailure>> {
            Box::pin(async { Err(PluginFailure::Trap("at secret-of-the-guest".into())) })
        }
    }
    let server = remote();
    let Spec::McpServer(spec) = &server.spec else { panic!("a server") };
    let plan = crate::plan_of(spec, &server.metadata.name, None, Arc::new(Failing));
    let fault = resolve(&Resolver::new(book(), 10), &plan, "user:alice").await.unwrap_err();
    assert_eq!(fault.code, "credential-resolver-failed");
    assert!(!fault.to_string().contains("secret-of-the-guest"), "what a guest prints is for the log: {fault}");
}

#[tokio::test]
async fn headers_of_a_resolver_are_checked() {
    let header = |name: &'static str, value: &str| {
        let value = value.to_owned();
        Fake::new(move |_, _| Resolution {
            headers: vec![(http::HeaderName::from_static(name), Guarded::text(value.clone()))],
            ..outcome(Outcome::Headers)
        })
    };
    let resolver = Resolver::new(book(), 100);
    let go = async |fake| resolve(&resolver, &plan_for(&remote(), None, &fake), "user:alice").await;
    let carried = go(header("x-api-key", "abc")).await.unwrap();
    assert_eq!((carried.headers.len(), &*carried.executed_as), (1, "user:alice"));
    assert!(carried.headers[0].1.is_sensitive());
    for (name, value) in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("host", "evil.example"),
        ("content-length", "0"),
        ("mcp-session-id", "x"),
        ("keep-alive", "1"),
        ("x-bad", "a\r\nx: y"),
    ] {
        // Plans differ by what they are made of, not by the fake: each needs its own resolver.
        let fault =
            resolve(&Resolver::new(book(), 10), &plan_for(&remote(), None, &header(name, value)), "user:alice").await;
        assert_eq!(fault.unwrap_err().code, "credential-invalid", "{name}");
    }
    let elsewhere = portcullis_plugin::Allowed::granted(&["https://other.example".into()]).unwrap();
    let fake = Fake::new(move |_, _| Resolution {
        headers: vec![(
            http::HeaderName::from_static("x-api-key"),
            Guarded::secret(portcullis_model::Secret::new("s3cret"), elsewhere.clone(), "other"),
        )],
        ..outcome(Outcome::Headers)
    });
    let fault = resolve(&Resolver::new(book(), 10), &plan_for(&remote(), None, &fake), "user:alice").await.unwrap_err();
    assert!(fault.message.contains("not granted") && !fault.message.contains("s3cret"), "{fault}");
}
