//! Resources: whole sets, doors, revisions, and what a connection is bound to.

use std::{sync::Arc, time::Duration};

use portcullis_model::{Door, Kind, Name, Resource, ResourceKey, Spec};
use portcullis_store::{
    Registry, keys,
    registry::{Applied, Outcome, RegistryError},
};
use serde_json::{Value, json};

use crate::{
    house::{House, on_each_store},
    put,
};

on_each_store!(
    what_is_applied_is_served_and_survives,
    a_set_is_taken_whole_or_not_at_all,
    another_doors_edit_is_refused_saying_where,
    a_revision_makes_an_edit_conditional,
    dangling_references_are_warnings,
    what_files_no_longer_hold_is_deleted,
    moving_a_server_suspends_its_connections_until_somebody_approves,
    a_connection_stays_with_its_owner,
    files_that_are_read_again_approve_nothing,
    a_connection_that_waits_for_its_server_is_bound_when_it_comes,
    secrets_come_and_go_with_their_connection,
    what_was_sealed_for_somebody_goes_with_them,
    values_go_with_whoever_gave_them,
    what_comes_in_one_write_is_of_one_age,
    one_identity_is_one_user,
    what_another_process_writes_is_noticed,
);

fn resource(kind: &str, name: &str, spec: Value) -> Resource {
    let document =
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    serde_json::from_value(document).unwrap()
}

fn server(url: &str) -> Resource {
    let field = json!([{"name": "token", "sensitive": true, "required": true}]);
    resource("McpServer", "github", json!({"remote": {"url": url}, "fields": field}))
}

fn connection() -> Resource {
    resource("Connection", "mine", json!({"server": "github", "owner": {"user": "alice"}, "ownerOnly": true}))
}

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey { tenant: Name::default_tenant(), kind, name: name.parse().unwrap() }
}

fn file(name: &str) -> Door {
    Door::File(name.to_owned())
}

fn outcomes(applied: &[Applied]) -> Vec<Outcome> {
    applied.iter().map(|a| a.change).collect()
}

fn reasons(error: RegistryError) -> String {
    let RegistryError::Refused(refusals) = error else { panic!("{error}") };
    refusals.iter().flat_map(|r| r.problems.iter().map(move |p| format!("{}: {p}\n", r.key))).collect()
}

fn origin(registry: &Registry) -> Option<String> {
    match &registry.get(&key(Kind::Connection, "mine")).unwrap().spec {
        Spec::Connection(c) => c.origin.clone(),
        _ => None,
    }
}

async fn registry(house: &House) -> Arc<Registry> {
    Registry::open(house.open().await).await.unwrap()
}

async fn what_is_applied_is_served_and_survives(house: &House) {
    let registry = registry(house).await;
    let set = vec![server("https://a.example/mcp"), connection(), resource("User", "alice", json!({}))];
    let applied = registry.apply(set.clone(), Door::Api, true).await.unwrap();
    assert_eq!(outcomes(&applied), [Outcome::Created; 3]);
    assert!(registry.snapshot().is_empty(), "a dry run writes nothing");
    registry.apply(set.clone(), Door::Api, false).await.unwrap();
    let before = registry.store().revision();
    let again = registry.apply(set, Door::Api, false).await.unwrap();
    assert_eq!(outcomes(&again), [Outcome::Unchanged; 3]);
    assert_eq!(registry.store().revision(), before);
    let alice = registry.get(&key(Kind::User, "alice")).unwrap();
    assert_eq!(alice.metadata.door, Some(Door::Api));
    assert_eq!(alice.metadata.revision, Some(before.0));
    assert!(alice.metadata.created_ms.is_some());
    let fleet = registry.snapshot();
    assert_eq!(fleet.connections_of(&Name::default_tenant(), &"github".parse().unwrap()).count(), 1);
    assert_eq!(registry.list(None, Some(Kind::User)).len(), 1);
    // The task that follows has taken all news, and waits for the next: it lets the store go all the same.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    drop(registry);
    drop(fleet);
    let registry = Registry::open(house.open().await).await.unwrap();
    assert_eq!(registry.get(&key(Kind::User, "alice")).unwrap(), alice);
}

async fn a_set_is_taken_whole_or_not_at_all(house: &House) {
    let registry = registry(house).await;
    let both = resource("McpServer", "both", json!({}));
    let set = vec![resource("User", "alice", json!({})), both, resource("User", "alice", json!({}))];
    let refused = reasons(registry.apply(set, Door::Api, false).await.unwrap_err());
    assert!(
        refused.contains("McpServer/both: spec: say exactly one of remote, process, component and kubernetes"),
        "{refused}"
    );
    assert!(refused.contains("User/alice: metadata.name: User/alice is there twice"), "{refused}");
    assert!(registry.snapshot().is_empty());
}

async fn another_doors_edit_is_refused_saying_where(house: &House) {
    let registry = registry(house).await;
    let team = |title: &str| resource("Team", "blue", json!({"title": title}));
    registry.apply(vec![team("a")], file("/etc/teams.yaml"), false).await.unwrap();
    let refused = reasons(registry.apply(vec![team("b")], Door::Api, false).await.unwrap_err());
    assert!(refused.contains("the file /etc/teams.yaml: edit it there"), "{refused}");
    let refused = reasons(registry.delete(&key(Kind::Team, "blue"), &Door::Api).await.unwrap_err());
    assert!(refused.contains("/etc/teams.yaml"), "{refused}");
    assert!(matches!(registry.delete(&key(Kind::Team, "red"), &Door::Api).await, Err(RegistryError::NotFound(_))));
    registry.delete(&key(Kind::Team, "blue"), &file("/etc/teams.yaml")).await.unwrap();
    assert!(registry.snapshot().is_empty());
}

async fn a_revision_makes_an_edit_conditional(house: &House) {
    let registry = registry(house).await;
    let mut team = resource("Team", "blue", json!({}));
    team.metadata.revision = Some(7);
    assert!(
        reasons(registry.apply(vec![team.clone()], Door::Api, false).await.unwrap_err())
            .contains("does not exist any more")
    );
    team.metadata.revision = None;
    registry.apply(vec![team.clone()], Door::Api, false).await.unwrap();
    let got = Resource::clone(&registry.get(&team.key()).unwrap());
    let edit = |title: &str| {
        let mut edited = got.clone();
        edited.spec = resource("Team", "blue", json!({"title": title})).spec;
        edited
    };
    assert_eq!(outcomes(&registry.apply(vec![edit("one")], Door::Api, false).await.unwrap()), [Outcome::Updated]);
    let refused = reasons(registry.apply(vec![edit("two")], Door::Api, false).await.unwrap_err());
    assert!(refused.contains("was changed since"), "{refused}");
}

async fn dangling_references_are_warnings(house: &House) {
    let registry = registry(house).await;
    let gateway = json!({"servers": [{"server": "nowhere", "credential": {"mode": "static", "connection": "none"}}],
        "policies": [{"plugin": "tool-access"}, {"plugin": "mine"}]});
    let applied =
        registry.apply(vec![resource("Gateway", "g", gateway), connection()], Door::Api, false).await.unwrap();
    let warnings: Vec<_> = applied.iter().flat_map(|a| a.warnings.iter().map(ToString::to_string)).collect();
    for wanted in
        ["McpServer \"nowhere\"", "Connection \"none\"", "Plugin \"mine\"", "McpServer \"github\"", "User \"alice\""]
    {
        assert!(warnings.iter().any(|w| w.contains(wanted)), "{wanted} in {warnings:?}");
    }
    assert!(
        !warnings.iter().any(|w| w.contains("tool-access") || w.contains("\"static\"")),
        "built-ins exist: {warnings:?}"
    );
    registry.apply(vec![server("https://a.example/mcp")], Door::Api, false).await.unwrap();
    let gone = registry.delete(&key(Kind::McpServer, "github"), &Door::Api).await.unwrap();
    assert!(gone.warnings.iter().any(|w| w.message.contains("Connection/mine still names it")), "{:?}", gone.warnings);
}

async fn what_files_no_longer_hold_is_deleted(house: &House) {
    let registry = registry(house).await;
    let user = |name: &str| resource("User", name, json!({}));
    let scope = |door: &Door| matches!(door, Door::File(f) if f.starts_with("/d/"));
    registry.apply(vec![user("by-hand")], Door::Api, false).await.unwrap();
    let set = vec![(file("/d/a"), user("alice")), (file("/d/b"), user("bob")), (file("/d/b"), user("carol"))];
    registry.sync_door(&scope, set, false).await.unwrap();
    // Bob moves to another file, Carol goes; what others brought stays.
    let set = vec![(file("/d/a"), user("alice")), (file("/d/a"), user("bob"))];
    let applied = registry.sync_door(&scope, set.clone(), false).await.unwrap();
    assert_eq!(outcomes(&applied), [Outcome::Unchanged, Outcome::Updated, Outcome::Deleted]);
    let names: Vec<_> = registry.list(None, None).iter().map(|r| r.metadata.name.to_string()).collect();
    assert_eq!(names, ["alice", "bob", "by-hand"]);
    // A file that can't be read is out of scope, so that what it brought goes on serving.
    let without_a = |door: &Door| scope(door) && *door != file("/d/a");
    assert!(registry.sync_door(&without_a, vec![], false).await.unwrap().is_empty());
    let clash = reasons(registry.sync_door(&scope, vec![(file("/d/a"), user("by-hand"))], false).await.unwrap_err());
    assert!(clash.contains("`portcullis apply` or a page"), "{clash}");
}

async fn moving_a_server_suspends_its_connections_until_somebody_approves(house: &House) {
    let registry = registry(house).await;
    registry.apply(vec![server("https://a.example/mcp"), connection()], Door::Api, false).await.unwrap();
    assert_eq!(origin(&registry).as_deref(), Some("https://a.example"));
    // Another path of the same origin changes nothing; another origin does not take the connection along.
    registry.apply(vec![server("https://a.example/v2"), connection()], Door::Api, false).await.unwrap();
    registry.apply(vec![server("https://evil.example/mcp"), connection()], Door::Api, false).await.unwrap();
    assert_eq!(origin(&registry).as_deref(), Some("https://a.example"), "a set that moves the server approves nothing");
    let applied = registry.apply(vec![connection()], Door::Api, false).await.unwrap();
    assert_eq!(outcomes(&applied), [Outcome::Updated]);
    assert_eq!(origin(&registry).as_deref(), Some("https://evil.example"), "applied again by itself");
    let elsewhere =
        resource("Connection", "mine", json!({"server": "other", "owner": {"user": "alice"}, "ownerOnly": true}));
    let refused = reasons(registry.apply(vec![elsewhere], Door::Api, false).await.unwrap_err());
    assert!(refused.contains("made for github"), "{refused}");
}

async fn a_connection_stays_with_its_owner(house: &House) {
    let registry = registry(house).await;
    let sealed = keys::secret(&Name::default_tenant(), &"mine".parse().unwrap());
    let of = |owner: serde_json::Value| {
        resource("Connection", "mine", json!({"server": "github", "owner": owner, "ownerOnly": true}))
    };
    let set = vec![of(json!({"user": "alice"}))];
    registry.apply_with(set, Door::Api, false, vec![put(&sealed, "alice's")]).await.unwrap();
    for other in [json!({"user": "bob"}), json!({"team": "blue"}), json!({"organization": true})] {
        let refused = reasons(registry.apply(vec![of(other)], Door::Api, false).await.unwrap_err());
        assert!(refused.contains("spec.owner") && refused.contains("user:alice"), "{refused}");
    }
    // A file that says so is refused like anybody.
    registry.sync_door(&|_| true, vec![(file("/a"), of(json!({"user": "alice"})))], false).await.unwrap();
    let set = vec![(file("/a"), of(json!({"user": "bob"})))];
    assert!(reasons(registry.sync_door(&|_| true, set, false).await.unwrap_err()).contains("spec.owner"));
    assert!(registry.store().get(&sealed).await.unwrap().is_some(), "her secrets are where they were");
    // Deleted, it leaves nothing behind for the next of its name.
    registry.delete(&key(Kind::Connection, "mine"), &file("/a")).await.unwrap();
    registry.apply(vec![of(json!({"user": "bob"}))], Door::Api, false).await.unwrap();
    assert!(registry.store().get(&sealed).await.unwrap().is_none());
}

async fn files_that_are_read_again_approve_nothing(house: &House) {
    let registry = registry(house).await;
    let scope = |door: &Door| matches!(door, Door::File(_));
    let set = |url: &str| vec![(file("a"), server(url)), (file("b"), connection())];
    registry.sync_door(&scope, set("https://a.example/mcp"), false).await.unwrap();
    let moved = registry.sync_door(&scope, set("https://b.example/mcp"), false).await.unwrap();
    assert!(moved.iter().any(|a| a.warnings.iter().any(|w| w.message.contains("suspended"))), "{moved:?}");
    registry.sync_door(&scope, set("https://b.example/mcp"), false).await.unwrap();
    assert_eq!(origin(&registry).as_deref(), Some("https://a.example"));
    // Written down, it is approved.
    let mut approved = connection();
    if let Spec::Connection(c) = &mut approved.spec {
        c.origin = Some("https://b.example".to_owned());
    }
    let set = vec![(file("a"), server("https://b.example/mcp")), (file("b"), approved)];
    registry.sync_door(&scope, set, false).await.unwrap();
    assert_eq!(origin(&registry).as_deref(), Some("https://b.example"));
}

async fn a_connection_that_waits_for_its_server_is_bound_when_it_comes(house: &House) {
    let registry = registry(house).await;
    registry.apply(vec![connection()], Door::Api, false).await.unwrap();
    assert_eq!(origin(&registry), None);
    registry.apply(vec![server("https://a.example/mcp")], file("a"), false).await.unwrap();
    assert_eq!(origin(&registry).as_deref(), Some("https://a.example"));
}

async fn secrets_come_and_go_with_their_connection(house: &House) {
    let registry = registry(house).await;
    let at = keys::secret(&Name::default_tenant(), &"mine".parse().unwrap());
    registry.apply_with(vec![connection()], Door::Api, false, vec![put(&at, "sealed")]).await.unwrap();
    assert!(registry.store().get(&at).await.unwrap().is_some());
    registry.delete(&key(Kind::Connection, "mine"), &Door::Api).await.unwrap();
    assert!(registry.store().get(&at).await.unwrap().is_none());
    let open = resource(
        "Connection",
        "mine",
        json!({"server": "github", "owner": {"user": "alice"}, "ownerOnly": true, "values": {"token": "x"}}),
    );
    let refused =
        reasons(registry.apply(vec![server("https://a.example/mcp"), open], Door::Api, false).await.unwrap_err());
    assert!(refused.contains("spec.values.token: is a secret"), "{refused}");
}

async fn what_was_sealed_for_somebody_goes_with_them(house: &House) {
    let registry = registry(house).await;
    let tenant = Name::default_tenant();
    let beside = |connection: &str| {
        let name: Name = connection.parse().unwrap();
        [keys::secret(&tenant, &name), keys::upstream_grant(&tenant, &name), keys::uses(&tenant, &name)]
    };
    let of = |name: &str, owner: Value| {
        resource("Connection", name, json!({"server": "github", "owner": owner, "ownerOnly": true}))
    };
    let owners = [("User", "alice"), ("Team", "alice"), ("Agent", "ci"), ("User", "bob")];
    let connections =
        [json!({"user": "alice"}), json!({"team": "alice"}), json!({"agent": "ci"}), json!({"user": "bob"})];
    let names = ["a", "b", "c", "d"];
    let people: Vec<_> = owners.iter().map(|(kind, name)| resource(kind, name, json!({}))).collect();
    registry.apply(people[..3].to_vec(), Door::Api, false).await.unwrap();
    registry.sync_door(&|_| false, vec![(file("bob"), people[3].clone())], false).await.unwrap();
    let set = names.iter().zip(connections).map(|(name, owner)| of(name, owner)).collect();
    let sealed = names.iter().flat_map(|name| beside(name)).map(|key| put(&key, "x")).collect();
    registry.apply_with(set, Door::Api, false, sealed).await.unwrap();
    let left = async || {
        let mut left = String::new();
        for name in names {
            for key in beside(name) {
                if registry.store().get(&key).await.unwrap().is_some() {
                    left.push_str(name);
                }
            }
        }
        left
    };
    assert_eq!(left().await, "aaabbbcccddd");
    registry.delete(&key(Kind::User, "alice"), &Door::Api).await.unwrap();
    assert_eq!(left().await, "bbbcccddd", "the team of the same name keeps its own");
    registry.delete(&key(Kind::Agent, "ci"), &Door::Api).await.unwrap();
    registry.delete(&key(Kind::Team, "alice"), &Door::Api).await.unwrap();
    assert_eq!(left().await, "ddd");
    // A file that does not name him any more is a door as well.
    registry.sync_door(&|door| *door == file("bob"), Vec::new(), false).await.unwrap();
    assert_eq!(left().await, "");
    assert_eq!(registry.list(None, Some(Kind::Connection)).len(), names.len(), "what the manifests say stays");
}

async fn values_go_with_whoever_gave_them(house: &House) {
    let registry = registry(house).await;
    let of = |name: &str, secrets: Value| {
        let spec = json!({"server": "github", "owner": {"user": "alice"}, "ownerOnly": true,
            "values": {"site": "https://alice.example"}, "secrets": secrets});
        resource("Connection", name, spec)
    };
    let values = |name: &str| match &registry.get(&key(Kind::Connection, name)).unwrap().spec {
        Spec::Connection(spec) => spec.values.len(),
        _ => 0,
    };
    let alice = || resource("User", "alice", json!({}));
    registry.apply(vec![alice(), of("given", json!({}))], Door::Api, false).await.unwrap();
    registry.apply(vec![of("placed", json!({"token": {"env": "TOKEN"}}))], Door::Api, false).await.unwrap();
    registry.sync_door(&|door| *door == file("c"), vec![(file("c"), of("filed", json!({})))], false).await.unwrap();
    registry.delete(&key(Kind::User, "alice"), &Door::Api).await.unwrap();
    registry.apply(vec![alice()], Door::Api, false).await.unwrap();
    assert_eq!((values("given"), values("placed"), values("filed")), (0, 1, 1), "an operator's own words stay");
}

async fn what_comes_in_one_write_is_of_one_age(house: &House) {
    let registry = registry(house).await;
    let people = (0..200).map(|n| resource("User", &format!("u{n}"), json!({}))).collect();
    registry.apply(people, Door::Api, false).await.unwrap();
    let ages: std::collections::BTreeSet<_> =
        registry.list(None, None).iter().map(|user| user.metadata.created_ms.unwrap()).collect();
    assert_eq!(ages.len(), 1);
}

async fn one_identity_is_one_user(house: &House) {
    let registry = registry(house).await;
    let user =
        |name: &str| resource("User", name, json!({"identities": [{"issuer": "https://i.example", "subject": "1"}]}));
    let refused = reasons(registry.apply(vec![user("alice"), user("bob")], Door::Api, false).await.unwrap_err());
    assert!(refused.contains("User/bob: spec.identities[0]: is the user alice's already"), "{refused}");
    registry.apply(vec![user("alice")], Door::Api, false).await.unwrap();
    assert!(registry.apply(vec![user("bob")], Door::Api, false).await.is_err());
    let agent = resource("Agent", "alice", json!({"identities": [{"issuer": "https://i.example", "subject": "1"}]}));
    let refused = reasons(registry.apply(vec![agent], Door::Api, false).await.unwrap_err());
    assert!(refused.contains("Agent/alice: spec.identities[0]: is the user alice's already"), "{refused}");
}

async fn what_another_process_writes_is_noticed(house: &House) {
    let first = registry(house).await;
    let second = Registry::open(Arc::clone(first.store())).await.unwrap();
    let mut changed = second.watch();
    first.apply(vec![resource("User", "alice", json!({}))], Door::Api, false).await.unwrap();
    let seen = async {
        while second.snapshot().is_empty() {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
    // Both write the same names at once; each ends with one of the two, and none with an error.
    let write = |registry: Arc<Registry>, title: &'static str| async move {
        for i in 0..20 {
            registry
                .apply(vec![resource("Team", &format!("t{}", i % 3), json!({"title": title}))], Door::Api, false)
                .await
                .unwrap();
        }
    };
    let (a, b) = (tokio::spawn(write(Arc::clone(&first), "a")), tokio::spawn(write(Arc::clone(&second), "b")));
    a.await.unwrap();
    b.await.unwrap();
    first.apply(vec![], Door::Api, false).await.unwrap();
    assert_eq!(first.list(None, Some(Kind::Team)).len(), 3);
}
