//! The life of a plugin: versions that come, are tried beside the active one, and are gone back from.

use std::{path::Path, sync::Arc, time::Duration};

use portcullis_plugin::{
    Decision, Placed, Plugin, PluginFailure,
    manager::{Manager, Place, Resource, State},
};
use serde_json::{Value, json};

use crate::{
    built::guest,
    grants,
    guests::{ALLOW, DENY, Guest, call, request, tenant, user},
    manager::{manager, manager_with, place, reconcile, resource},
    released,
};

struct House {
    dir: tempfile::TempDir,
    manager: Manager,
    place: Place,
}

impl House {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), manager: manager(), place: place("guard", None) }
    }

    fn write(&self, name: &str, decide: &str, more: u32) -> &Path {
        let core = format!("(global $version i32 (i32.const {more}))");
        std::fs::write(self.dir.path().join(name), Guest { decide, core: &core, ..Guest::default() }.wasm()).unwrap();
        self.dir.path()
    }

    fn resource(&self, spec: Value) -> Resource {
        resource("guard", self.dir.path(), spec)
    }

    async fn apply(&self, spec: Value) -> Result<Placed, String> {
        reconcile(&self.manager, &[self.resource(spec)], &[&self.place]).await;
        self.manager.get(&self.place)
    }

    fn standing(&self) -> portcullis_plugin::manager::Standing {
        self.manager.standing(&tenant(), &"guard".parse().unwrap()).unwrap()
    }
}

fn file(name: &str) -> Value {
    json!({"source": {"file": {"path": name}}})
}

fn tried(share: u8) -> Value {
    json!({"source": {"file": {"path": "one.wasm"}}, "candidate": {"source": {"file": {"path": "two.wasm"}}, "share": share}})
}

async fn by(placed: &Placed, who: &str) -> Result<Decision, PluginFailure> {
    placed.decide(&user(who), &request(), &call()).await
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(tokio::time::Instant::now() < until, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_is_told_what_serves_and_what_should() {
    let house = House::new();
    assert!(house.apply(file("one.wasm")).await.is_err());
    assert_eq!((house.standing().state, house.standing().active), (State::Refused, None));
    house.write("one.wasm", ALLOW, 1);
    house.apply(file("one.wasm")).await.unwrap();
    let good = house.standing();
    assert_eq!((good.state, &good.problem), (State::Active, &None));
    assert_eq!(good.hooks.names(), ["policy/tool-call"]);
    assert!(good.active.is_some() && good.active == good.desired);

    // Half of a new version, as a copy that is under way leaves it.
    let whole = Guest { decide: DENY, ..Guest::default() }.wasm();
    std::fs::write(house.dir.path().join("one.wasm"), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(by(&house.apply(file("one.wasm")).await.unwrap(), "ann").await, Ok(Decision::Allow));
    let bad = house.standing();
    assert_eq!((bad.state, &bad.active), (State::Previous, &good.active));
    assert!(bad.problem.is_some() && bad.desired != bad.active);
    std::fs::write(house.dir.path().join("one.wasm"), &whole).unwrap();
    assert!(matches!(by(&house.apply(file("one.wasm")).await.unwrap(), "ann").await, Ok(Decision::Deny { .. })));
    assert_eq!(house.standing().previous, [good.active.unwrap()]);
}

#[tokio::test]
async fn an_operator_goes_back_and_forward_again() {
    let house = House::new();
    house.write("guard.wasm", ALLOW, 1);
    let first = house.apply(file("guard.wasm")).await.unwrap();
    assert!(house.manager.roll_back(&house.resource(file("guard.wasm"))).await.is_err(), "there is no earlier one");
    house.write("guard.wasm", DENY, 2);
    let second = house.apply(file("guard.wasm")).await.unwrap();
    assert!(matches!(by(&second, "ann").await, Ok(Decision::Deny { .. })));

    let digest = house.manager.roll_back(&house.resource(file("guard.wasm"))).await.unwrap();
    assert_eq!(digest, first.plugin.digest());
    let back = house.apply(file("guard.wasm")).await.unwrap();
    assert_eq!(by(&back, "ann").await, Ok(Decision::Allow));
    assert_eq!(back.identity, first.identity, "what was remembered of it holds again");
    let standing = house.standing();
    assert_eq!((standing.state, standing.active.as_deref()), (State::RolledBack, Some(&*digest)));
    assert_eq!(standing.desired.as_deref(), Some(second.plugin.digest()));

    // A new file is no new word of the operator's.
    house.write("guard.wasm", DENY, 3);
    assert_eq!(by(&house.apply(file("guard.wasm")).await.unwrap(), "ann").await, Ok(Decision::Allow));
    assert!(house.manager.resume(&tenant(), &"guard".parse().unwrap()).await);
    let third = house.apply(file("guard.wasm")).await.unwrap();
    assert!(matches!(by(&third, "ann").await, Ok(Decision::Deny { .. })));
    assert_eq!(house.standing().state, State::Active);

    // Another source ends a rollback by itself.
    house.manager.roll_back(&house.resource(file("guard.wasm"))).await.unwrap();
    assert_eq!(by(&house.apply(file("guard.wasm")).await.unwrap(), "ann").await, Ok(Decision::Allow));
    house.write("new.wasm", DENY, 4);
    assert!(matches!(by(&house.apply(file("new.wasm")).await.unwrap(), "ann").await, Ok(Decision::Deny { .. })));
    assert_eq!(house.standing().state, State::Active);
}

#[tokio::test]
async fn an_earlier_configuration_comes_back_too_and_todays_grants_stay() {
    let (dir, manager, place) = (tempfile::tempdir().unwrap(), manager(), place("rules", None));
    let spec = |default: &str| json!({"source": {"builtIn": "tool-access"}, "config": {"default": default}});
    let rules = |spec: Value| [resource("rules", dir.path(), spec)];
    for default in ["allow", "deny"] {
        assert!(reconcile(&manager, &rules(spec(default)), &[&place]).await.is_empty());
    }
    let mut today = spec("deny");
    today["isolation"] = json!("tenant");
    manager.roll_back(&rules(today.clone())[0]).await.unwrap();
    assert!(reconcile(&manager, &rules(today), &[&place]).await.is_empty());
    let back = manager.get(&place).unwrap();
    assert_eq!(by(&back, "ann").await, Ok(Decision::Allow));
    assert_eq!(manager.standing(&tenant(), &"rules".parse().unwrap()).unwrap().state, State::RolledBack);
}

#[tokio::test]
async fn a_candidate_is_compared_and_decides_nothing() {
    let house = House::new();
    house.write("one.wasm", ALLOW, 1);
    house.write("two.wasm", DENY, 2);
    let placed = house.apply(tried(0)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(by(&placed, "ann").await, Ok(Decision::Allow));
    }
    let differences = || house.standing().candidate.unwrap().differences();
    eventually("three differences", || differences().len() == 3).await;
    let one = differences().remove(0);
    assert_eq!((one.kind.as_str(), one.hook.as_str(), one.caller.as_str()), ("decision", "tool-call", "user:ann"));
    assert_eq!((one.active.as_str(), one.candidate.as_str()), ("allow", "deny"));
    assert_eq!((one.server.as_deref(), one.name.as_deref()), (Some("github"), Some("create_issue")));
    assert!(!serde_json::to_string(&one).unwrap().contains("title"), "no arguments");

    // Broken, it is told and nothing else happens; the same again is not tried again.
    std::fs::write(house.dir.path().join("two.wasm"), "nothing").unwrap();
    let placed = house.apply(tried(0)).await.unwrap();
    assert_eq!(by(&placed, "ann").await, Ok(Decision::Allow));
    let candidate = house.standing().candidate.unwrap();
    assert!(!candidate.asked && candidate.problem.is_some_and(|p| p.contains("does not begin as one")));
    assert_eq!(house.standing().state, State::Active);
}

#[tokio::test]
async fn a_share_of_callers_gets_the_candidate_and_always_the_same_ones() {
    let house = House::new();
    house.write("one.wasm", ALLOW, 1);
    house.write("two.wasm", DENY, 2);
    let mut before: Vec<String> = Vec::new();
    for share in [10, 50] {
        let placed = house.apply(tried(share)).await.unwrap();
        let mut chosen = Vec::new();
        for who in (0..200).map(|n| format!("u{n}")) {
            let first = by(&placed, &who).await.unwrap();
            assert_eq!(by(&placed, &who).await.unwrap(), first);
            if first != Decision::Allow {
                chosen.push(who);
            }
        }
        let most = usize::from(share) * 2;
        assert!((most / 2..most * 2).contains(&chosen.len()), "{} of 200 for {share} per cent", chosen.len());
        assert!(before.iter().all(|who| chosen.contains(who)), "who had it keeps it");
        before = chosen;
    }
}

#[tokio::test]
async fn what_sends_is_not_run_beside() {
    let house = House { manager: manager_with(released::services()), ..House::new() };
    house.write("one.wasm", ALLOW, 1);
    let (contract, _) = grants::contract();
    for (interface, sends) in [
        ("host/http", true),
        ("host/token-request", true),
        ("auth/jwt", true),
        ("host/signing", false),
        ("host/state", false),
        ("host/metrics", false),
    ] {
        std::fs::write(house.dir.path().join("two.wasm"), grants::importing(&contract, interface)).unwrap();
        let mut spec = tried(0);
        spec["grants"] = serde_json::to_value(grants::everything()).unwrap();
        house.apply(spec.clone()).await.unwrap();
        let candidate = house.standing().candidate.unwrap();
        assert_eq!(candidate.asked, !sends, "{interface}: {:?}", candidate.problem);
        assert_eq!(candidate.problem.is_some_and(|why| why.contains("sends requests")), sends, "{interface}");
        spec["candidate"]["share"] = json!(50);
        house.apply(spec).await.unwrap();
        assert!(house.standing().candidate.unwrap().asked, "{interface}: callers of its own send once");
    }
}

#[tokio::test]
async fn a_candidate_remembers_apart_from_the_active_version() {
    let house = House { manager: manager_with(released::services()), ..House::new() };
    let wasm = guest("keeper");
    for name in ["one.wasm", "two.wasm"] {
        std::fs::write(house.dir.path().join(name), &wasm).unwrap();
    }
    let mut spec = tried(50);
    spec["config"] = json!({"act": "count"});
    spec["grants"] = json!({"state": "64KiB", "sign": true, "issuers": ["https://idp.example"]});
    let placed = house.apply(spec).await.unwrap();
    let candidate = placed.candidate.as_ref().unwrap();
    let told = async |plugin: &Plugin| match plugin.decide(&user("ann"), &request(), &call()).await {
        Ok(Decision::Deny { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!((told(&placed.plugin).await, told(&placed.plugin).await), ("1".into(), "2".into()));
    assert_eq!(told(&candidate.plugin).await, "1");
    assert_eq!(told(&placed.plugin).await, "3");
}

#[tokio::test]
async fn a_candidate_has_to_serve_what_the_active_version_serves() {
    let house = House::new();
    std::fs::write(house.dir.path().join("one.wasm"), guest("unruly")).unwrap();
    house.write("two.wasm", ALLOW, 2);
    let mut spec = tried(50);
    spec["config"] = json!({"act": "nothing"});
    let placed = house.apply(spec).await.unwrap();
    assert!(placed.candidate.is_none());
    let why = house.standing().candidate.unwrap().problem.unwrap();
    assert!(why.contains("lacks the hook"), "{why}");
}

#[tokio::test]
async fn several_places_of_one_component_have_it_once() {
    let house = House::new();
    house.write("one.wasm", ALLOW, 1);
    let other = place("guard", Some(r#"{"other":1}"#));
    let resources = [house.resource(file("one.wasm"))];
    assert!(reconcile(&house.manager, &resources, &[&house.place, &other]).await.is_empty());
    let (one, two) = (house.manager.get(&house.place).unwrap(), house.manager.get(&other).unwrap());
    assert!(!Arc::ptr_eq(&one.plugin, &two.plugin) && one.plugin.digest() == two.plugin.digest());
    let placed = [&one, &two];
    for placed in placed {
        assert_eq!(by(placed, "ann").await, Ok(Decision::Allow));
    }
}
