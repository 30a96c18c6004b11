//! security.md 20 as a table: kinds of callers by what exists, through book and resolver.

use portcullis_credential::{CACHE_ENTRIES, ConnectionBook, Orphaned, Resolver};
use portcullis_model::Resource;
use portcullis_plugin::Connections;
use serde_json::{Value, json};

use crate::{Fake, connection, fleet, name, plan_for, principal, remote, resolve, resource};

fn user(n: &str) -> Value {
    json!({"user": n})
}
fn team(n: &str) -> Value {
    json!({"team": n})
}
fn agent(n: &str) -> Value {
    json!({"agent": n})
}
fn organization() -> Value {
    json!({"organization": true})
}

/// `id` with a `!` behind it is owner-only; the order is the age, the oldest first.
fn existing(ids: &[&str]) -> Vec<Resource> {
    ids.iter()
        .zip(1..)
        .map(|(id, age)| {
            let owner = match id.trim_end_matches('!').trim_end_matches(|c: char| c.is_ascii_digit()) {
                "org" => organization(),
                t @ ("blue" | "red") => team(t),
                a @ ("ci" | "lone") => agent(a),
                u => user(u),
            };
            connection(id.trim_end_matches('!'), owner, id.ends_with('!'), age)
        })
        .collect()
}

const EVERYTHING: &[&str] = &["org", "red", "blue", "carol", "bob", "alice", "ci", "lone"];
const ALL_OWNER_ONLY: &[&str] = &["org!", "red!", "blue!", "carol!", "bob!", "alice!", "ci!", "lone!"];

#[tokio::test]
async fn whose_account() {
    // (who asks, what exists, all that they may run under, in order)
    let table: &[(&str, &[&str], &[&str])] = &[
        ("user:alice", EVERYTHING, &["alice", "blue", "org"]),
        ("user:alice", ALL_OWNER_ONLY, &["alice", "blue", "org"]),
        ("user:alice", &["bob", "carol", "ci"], &[]),
        ("user:alice", &["bob", "red"], &[]),
        ("user:alice", &["alice2", "alice1"], &["alice2", "alice1"]),
        ("user:nobody", EVERYTHING, &["org"]),
        ("team:blue", EVERYTHING, &["blue", "bob", "alice"]),
        ("team:blue", ALL_OWNER_ONLY, &["blue"]),
        ("team:blue", &["bob!", "alice"], &["alice"]),
        ("team:blue", &["carol", "red", "org", "ci"], &[]),
        ("team:gone", EVERYTHING, &[]),
        ("organization", EVERYTHING, &["org", "red", "blue", "carol", "bob", "alice"]),
        ("organization", ALL_OWNER_ONLY, &["org"]),
        ("organization", &["carol!", "bob", "blue!"], &["bob"]),
        ("organization", &["ci", "lone"], &[]),
        ("agent:ci", EVERYTHING, &["ci", "blue"]),
        ("agent:ci", ALL_OWNER_ONLY, &["ci"]),
        ("agent:ci", &["alice", "org", "red", "lone"], &[]),
        ("agent:lone", EVERYTHING, &["lone"]),
        ("agent:gone", &["blue", "ci", "org"], &[]),
        ("external:https://i.example#blue-person", EVERYTHING, &["blue", "org"]),
        ("external:https://i.example#alice", EVERYTHING, &["org"]),
        ("external:https://i.example#alice", &["alice", "blue"], &[]),
        ("anonymous", EVERYTHING, &[]),
    ];
    for (who, exist, expected) in table {
        let book = ConnectionBook::of(&fleet(existing(exist)));
        let found: Vec<_> =
            book.candidates(&principal(who), &name("github"), None).iter().map(|c| c.id.to_string()).collect();
        assert_eq!(found, *expected, "{who} among {exist:?}");

        let resolver = Resolver::new(book.clone(), CACHE_ENTRIES);
        let plan = plan_for(&remote(), None, &Fake::first(&book));
        match (resolve(&resolver, &plan, who).await, expected.first()) {
            (Ok(carried), Some(best)) => {
                assert_eq!(crate::bearer(&carried), **best, "{who} among {exist:?}");
                assert_eq!(carried.connection.as_ref().unwrap().as_str(), *best);
                let own = who.split_once(':').is_some_and(|(_, n)| n == best.trim_end_matches(char::is_numeric))
                    || (*who == "organization" && *best == "org");
                assert_eq!(carried.by_another, !own, "{who} under {best}");
            }
            (Err(fault), None) => assert_eq!(fault.code, "missing-credential", "{who}: {fault}"),
            (got, wanted) => panic!("{who} among {exist:?}: {got:?}, not {wanted:?}"),
        }
        // A plugin that insists on any other connection gets nothing.
        for id in exist.iter().map(|id| id.trim_end_matches('!')).filter(|id| !expected.contains(id)) {
            let plan = plan_for(&remote(), None, &Fake::insisting(id));
            let resolver = Resolver::new(book.clone(), CACHE_ENTRIES);
            let fault = resolve(&resolver, &plan, who).await.expect_err("never somebody else's");
            assert_eq!(fault.code, "connection-not-yours", "{who} under {id}");
        }
    }
}

#[tokio::test]
async fn a_named_connection_serves_whom_its_owner_lets() {
    let table: &[(&str, &str, bool)] = &[
        ("user:carol", "org", true),
        ("agent:lone", "org", true),
        ("anonymous", "org", true),
        ("user:carol", "blue", true),
        ("user:carol", "blue!", false),
        ("user:alice", "blue!", true),
        ("agent:ci", "blue!", false),
        ("anonymous", "blue", true),
        ("user:alice", "alice!", true),
        ("user:bob", "alice", false),
        ("team:blue", "alice", true),
        ("team:blue", "alice!", false),
        ("organization", "alice", true),
        ("agent:ci", "alice", false),
        ("anonymous", "alice", false),
        ("user:alice", "ci", false),
        ("agent:ci", "ci!", true),
    ];
    for (who, id, allowed) in table {
        let book = ConnectionBook::of(&fleet(existing(&[id])));
        let resolver = Resolver::new(book.clone(), CACHE_ENTRIES);
        let id = id.trim_end_matches('!');
        let honest = resolve(&resolver, &plan_for(&remote(), Some(id), &Fake::first(&book)), who).await;
        assert_eq!(honest.is_ok(), *allowed, "{who} under {id}: {honest:?}");
        let resolver = Resolver::new(book, CACHE_ENTRIES);
        let insisting = resolve(&resolver, &plan_for(&remote(), Some(id), &Fake::insisting(id)), who).await;
        assert_eq!(insisting.is_ok(), *allowed, "{who} under {id}");
        if !allowed {
            assert_eq!(insisting.unwrap_err().code, "connection-not-yours");
        }
    }
}

#[tokio::test]
async fn the_operators_rule_makes_every_connection_owner_only() {
    let mut ruled = remote();
    if let portcullis_model::Spec::McpServer(server) = &mut ruled.spec {
        server.credential.as_mut().unwrap().owner_only = true;
    }
    let fleet = portcullis_store::Fleet::of(crate::people().into_iter().chain([ruled]).chain(existing(EVERYTHING)));
    let book = ConnectionBook::of(&fleet);
    let ids = |who: &str| {
        let found = book.candidates(&principal(who), &name("github"), None);
        found.iter().map(|c| c.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids("team:blue"), ["blue"]);
    assert_eq!(ids("organization"), ["org"]);
    assert_eq!(ids("agent:ci"), ["ci"]);
    assert_eq!(ids("user:alice"), ["alice", "blue", "org"]);
}

#[tokio::test]
async fn membership_is_read_at_each_call() {
    // The team token's rights follow the team, not the token.
    let mut all = existing(&["alice"]);
    all.extend([remote(), resource("User", "alice", json!({}))]);
    all.push(resource("Team", "blue", json!({"members": ["bob"]})));
    let book = ConnectionBook::of(&portcullis_store::Fleet::of(all));
    assert!(book.candidates(&principal("team:blue"), &name("github"), None).is_empty(), "alice left the team");
    // A team that is gone owns nothing any more, whatever a principal still says of itself.
    let mut all = existing(&["blue"]);
    all.push(remote());
    let book = ConnectionBook::of(&portcullis_store::Fleet::of(all));
    assert!(book.candidates(&principal("user:alice"), &name("github"), None).is_empty());
}

#[tokio::test]
async fn nobodys_connection_serves_nobody() {
    let owners = ["alice", "blue", "ci"];
    let without = |gone: &str| {
        let people = crate::people().into_iter().filter(|p| p.metadata.name.as_str() != gone);
        ConnectionBook::of(&portcullis_store::Fleet::of(people.chain([remote()]).chain(existing(&owners))))
    };
    for (who, gone) in [
        ("user:alice", "alice"),
        ("team:blue", "alice"),
        ("organization", "alice"),
        ("team:blue", "blue"),
        ("organization", "blue"),
        ("agent:ci", "ci"),
    ] {
        let book = without(gone);
        let serves = |book: &ConnectionBook| {
            let found = book.candidates(&principal(who), &name("github"), Some(&name(gone)));
            found.iter().any(|c| c.id.as_str() == gone)
        };
        assert!(serves(&without("nobody")), "{who} under {gone}");
        assert!(!serves(&book), "{who} under {gone}, who is gone");
        let tenant = portcullis_model::Name::default_tenant();
        assert_eq!(book.orphaned(&tenant, &name(gone)), Some(Orphaned::NoOwner));
        assert!(book.status(&tenant, &name(gone)).is_none());
    }
}

#[tokio::test]
async fn what_the_operator_names_serves_whoever_bears_the_name() {
    // Written down a while before alice, as by files that are applied one after another.
    let people = crate::people().into_iter().map(|mut person| {
        person.metadata.created_ms = Some(1_000);
        person
    });
    let all = people.chain([remote()]).chain(existing(&["alice", "blue"]));
    let book = ConnectionBook::of(&portcullis_store::Fleet::of(all));
    let found = book.candidates(&principal("user:alice"), &name("github"), None);
    assert_eq!(found.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["alice", "blue"]);
}

#[tokio::test]
async fn another_tenants_connections_are_out_of_reach() {
    let book = ConnectionBook::of(&fleet(existing(EVERYTHING)));
    let mut stranger = portcullis_model::Principal::new(name("other"), "user:alice".parse().unwrap());
    stranger.teams = vec![name("blue")];
    assert!(book.candidates(&stranger, &name("github"), Some(&name("org"))).is_empty());
    let plan = plan_for(&remote(), None, &Fake::insisting("alice"));
    let fault = Resolver::new(book, 10).resolve(&plan, &stranger.into(), &Default::default()).await.unwrap_err();
    assert_eq!(fault.code, "wrong-tenant");
}

#[tokio::test]
async fn what_is_missing_is_said_with_the_command() {
    let book = ConnectionBook::of(&fleet(Vec::new()));
    let resolver = Resolver::new(book.clone(), 100);
    let plan = plan_for(&remote(), None, &Fake::first(&book));
    for (who, owner) in [
        ("user:alice", "user:alice"),
        ("team:blue", "team:blue"),
        ("agent:ci", "agent:ci"),
        ("organization", "organization"),
        ("external:https://i.example#blue-person", "team:blue"),
    ] {
        let fault = resolve(&resolver, &plan, who).await.unwrap_err();
        assert_eq!(fault.code, "missing-credential");
        assert!(fault.message.contains("github") && fault.message.contains(who), "{fault}");
        let next = fault.next.unwrap();
        assert_eq!(next, format!("Run `portcullis connect github --owner {owner}`, then retry"));
    }
}
