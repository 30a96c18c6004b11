//! Secrets in a store: sealed, followed, rotated.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis_credential::{
    ConnectionBook, KeySource, Orphaned, Resolver, SecretSources, Secrets, SecretsError, Vault, VaultError,
};
use portcullis_model::{Door, Name, Secret};
use portcullis_store::{Registry, SledOptions, SledStore, Store, keys};
use serde_json::json;

use crate::{Fake, bearer, name, people, plan_for, remote, resolve, resource};

fn vault(keys: &[u8]) -> Arc<Vault> {
    let text: Vec<_> = keys.iter().map(|k| STANDARD.encode([*k; 32])).collect();
    Arc::new(Vault::open(&KeySource::Text(Secret::new(text.join(",")))).unwrap())
}

fn open(dir: &Path) -> Arc<dyn Store> {
    SledStore::open(dir, SledOptions { min_free: 0, ..SledOptions::default() }).unwrap()
}

fn token(text: &str) -> BTreeMap<String, Secret> {
    BTreeMap::from([("token".to_owned(), Secret::new(text))])
}

#[tokio::test]
async fn what_somebody_connects_is_carried_by_the_next_call() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let registry = Registry::open(Arc::clone(&store)).await.unwrap();
    let secrets = Secrets::new(Arc::clone(&store), vault(&[1]));
    let book = ConnectionBook::open(Arc::clone(&registry), secrets.clone(), SecretSources::local()).await.unwrap();
    let resolver = Resolver::new(book.clone(), 100);
    let fake = Fake::first(&book);
    let plan = plan_for(&remote(), None, &fake);
    registry.apply([people(), vec![remote()]].concat(), Door::Api, false).await.unwrap();
    book.refresh().await.unwrap();
    assert_eq!(resolve(&resolver, &plan, "user:alice").await.unwrap_err().code, "missing-credential");

    let tenant = Name::default_tenant();
    let own =
        resource("Connection", "alice", json!({"server": "github", "owner": {"user": "alice"}, "ownerOnly": true}));
    let write = secrets.sealing(&tenant, &name("alice"), &token("hunter2")).unwrap();
    registry.apply_with(vec![own], Door::Api, false, vec![write]).await.unwrap();
    book.refresh().await.unwrap();
    let first = resolve(&resolver, &plan, "user:alice").await.unwrap();
    assert_eq!(bearer(&first), "hunter2");

    // On disk there is nothing of it.
    let record = store.get(&keys::secret(&tenant, &name("alice"))).await.unwrap().unwrap();
    assert!(!record.value.windows(7).any(|w| w == b"hunter2"));

    // Another secret for the same connection is noticed without anybody calling `refresh`.
    secrets.put(&tenant, &name("alice"), &token("hunter3")).await.unwrap();
    let changed = async {
        loop {
            let carried = resolve(&resolver, &plan, "user:alice").await.unwrap();
            if bearer(&carried) == "hunter3" {
                return carried;
            }
            tokio::task::yield_now().await;
        }
    };
    let second = tokio::time::timeout(Duration::from_secs(10), changed).await.unwrap();
    assert_ne!(first.connection_revision, second.connection_revision);

    let key = portcullis_model::ResourceKey { tenant, kind: portcullis_model::Kind::Connection, name: name("alice") };
    registry.delete(&key, &Door::Api).await.unwrap();
    book.refresh().await.unwrap();
    assert_eq!(resolve(&resolver, &plan, "user:alice").await.unwrap_err().code, "missing-credential");
}

#[tokio::test]
async fn records_are_bound_to_their_connection() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let secrets = Secrets::new(Arc::clone(&store), vault(&[1]));
    let tenant = Name::default_tenant();
    let registry = Registry::open(Arc::clone(&store)).await.unwrap();
    registry.apply([people(), vec![remote()]].concat(), Door::Api, false).await.unwrap();
    secrets.put(&tenant, &name("alice"), &token("hunter2")).await.unwrap();
    // Somebody who can write to the store copies Alice's record over to Bob's connection.
    let stolen = store.get(&keys::secret(&tenant, &name("alice"))).await.unwrap().unwrap();
    let key = keys::secret(&tenant, &name("bob"));
    store
        .write(vec![portcullis_store::Write::Put { key, value: stolen.value, expect: portcullis_store::Expect::Any }])
        .await
        .unwrap();
    let own = |n: &str| resource("Connection", n, json!({"server": "github", "owner": {"user": n}, "ownerOnly": true}));
    registry.apply(vec![own("alice"), own("bob")], Door::Api, false).await.unwrap();
    let book = ConnectionBook::open(registry, secrets, SecretSources::local()).await.unwrap();
    let resolver = Resolver::new(book.clone(), 100);
    let plan = plan_for(&remote(), None, &Fake::first(&book));
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "hunter2");
    let fault = resolve(&resolver, &plan, "user:bob").await.unwrap_err();
    assert!(fault.message.contains("lacks token"), "{fault}");
}

#[tokio::test]
async fn a_later_owner_of_the_same_name_gets_nothing_of_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let registry = Registry::open(Arc::clone(&store)).await.unwrap();
    let secrets = Secrets::new(Arc::clone(&store), vault(&[1]));
    let book = ConnectionBook::open(Arc::clone(&registry), secrets.clone(), SecretSources::local()).await.unwrap();
    let resolver = Resolver::new(book.clone(), 100);
    let plan = plan_for(&remote(), None, &Fake::first(&book));
    let (tenant, mine) = (Name::default_tenant(), name("alice"));
    let of = |kind| portcullis_model::ResourceKey { tenant: tenant.clone(), kind, name: mine.clone() };
    registry.apply([people(), vec![remote()]].concat(), Door::Api, false).await.unwrap();
    let own =
        resource("Connection", "alice", json!({"server": "github", "owner": {"user": "alice"}, "ownerOnly": false}));
    let write = secrets.sealing(&tenant, &mine, &token("hunter2")).unwrap();
    registry.apply_with(vec![own], Door::Api, false, vec![write]).await.unwrap();
    book.refresh().await.unwrap();
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "hunter2");
    assert_eq!(bearer(&resolve(&resolver, &plan, "team:blue").await.unwrap()), "hunter2");

    registry.delete(&of(portcullis_model::Kind::User), &Door::Api).await.unwrap();
    book.refresh().await.unwrap();
    for who in ["user:alice", "team:blue", "organization"] {
        assert_eq!(resolve(&resolver, &plan, who).await.unwrap_err().code, "missing-credential", "{who}");
    }
    assert_eq!(book.orphaned(&tenant, &mine), Some(Orphaned::NoOwner));
    assert!(store.get(&keys::secret(&tenant, &mine)).await.unwrap().is_none());

    // A sign-in that was under way when she was deleted ends afterwards, and still it is not the next alice's.
    secrets.put(&tenant, &mine, &token("hunter2")).await.unwrap();
    tick().await;
    registry.apply(vec![resource("User", "alice", json!({}))], Door::Api, false).await.unwrap();
    book.refresh().await.unwrap();
    assert_eq!(book.orphaned(&tenant, &mine), Some(Orphaned::EarlierOwner));
    for who in ["user:alice", "team:blue", "organization"] {
        assert_eq!(resolve(&resolver, &plan, who).await.unwrap_err().code, "missing-credential", "{who}");
    }
    // Sealed again with another key it is as old as it was.
    Secrets::new(Arc::clone(&store), vault(&[2, 1])).reseal().await.unwrap();
    let again = Secrets::new(Arc::clone(&store), vault(&[2]));
    let other = ConnectionBook::open(Arc::clone(&registry), again, SecretSources::local()).await.unwrap();
    assert_eq!(other.orphaned(&tenant, &mine), Some(Orphaned::EarlierOwner));

    // What she connects herself is hers, under the same name.
    secrets.put(&tenant, &mine, &token("hers")).await.unwrap();
    book.refresh().await.unwrap();
    assert_eq!(book.orphaned(&tenant, &mine), None);
    assert_eq!(bearer(&resolve(&resolver, &plan, "user:alice").await.unwrap()), "hers");
}

/// Waits for another millisecond.
async fn tick() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let before = now();
    while now() <= before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn keys_are_rotated_and_lost_ones_refuse_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tenant = Name::default_tenant();
    let old = Secrets::new(Arc::clone(&store), vault(&[1]));
    for n in ["a", "b", "c"] {
        old.put(&tenant, &name(n), &token(n)).await.unwrap();
    }
    old.verify().await.unwrap();
    let lost = Secrets::new(Arc::clone(&store), vault(&[2]));
    let error = lost.verify().await.unwrap_err();
    assert!(matches!(&error, SecretsError::Vault { source: VaultError::UnknownKey(_), .. }), "{error}");
    assert!(error.to_string().contains("s/default/a") && error.to_string().contains(&vault(&[1]).key_id()), "{error}");
    let both = Secrets::new(Arc::clone(&store), vault(&[2, 1]));
    both.verify().await.unwrap();
    let done = both.reseal().await.unwrap();
    assert_eq!((done.records, &done.unneeded[..]), (3, &[vault(&[1]).key_id()][..]));
    assert_eq!(done.key, vault(&[2]).key_id());
    assert_eq!(both.reseal().await.unwrap().records, 0);
    lost.verify().await.unwrap();
    assert!(old.verify().await.is_err(), "the old key opens nothing any more");
}

#[tokio::test]
async fn a_key_that_is_taken_away_too_early_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (open(&dir.path().join("store")), dir.path().join("key"));
    let write = |keys: &[u8]| {
        let text: Vec<_> = keys.iter().map(|k| STANDARD.encode([*k; 32])).collect();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::write(&file, text.join("\n")).unwrap();
        std::fs::set_permissions(&file, mode).unwrap();
    };
    write(&[1]);
    let source = KeySource::File { path: file.clone(), create: false };
    let secrets = Secrets::new(Arc::clone(&store), Arc::new(Vault::open(&source).unwrap()));
    let tenant = Name::default_tenant();
    secrets.put(&tenant, &name("a"), &token("a")).await.unwrap();

    write(&[2]);
    let error = secrets.reseal().await.unwrap_err();
    assert!(matches!(&error, SecretsError::Vault { source: VaultError::UnknownKey(_), .. }), "{error}");
    secrets.verify().await.unwrap();
    secrets.put(&tenant, &name("b"), &token("b")).await.unwrap();

    write(&[2, 1]);
    let done = secrets.reseal().await.unwrap();
    assert_eq!((done.records, done.key), (2, vault(&[2]).key_id()));
    write(&[2]);
    let done = secrets.reseal().await.unwrap();
    assert_eq!((done.records, done.unneeded.len()), (0, 0));
    Secrets::new(store, vault(&[2])).verify().await.unwrap();
}

#[test]
fn limits_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let secrets = Secrets::new(open(dir.path()), vault(&[1]));
    let seal = |fields: &BTreeMap<String, Secret>| secrets.sealing(&Name::default_tenant(), &name("c"), fields);
    assert!(matches!(seal(&token(&"x".repeat(65 << 10))), Err(SecretsError::TooLarge)));
    let many = (0..65).map(|i| (format!("f{i}"), Secret::new("x"))).collect();
    assert!(matches!(seal(&many), Err(SecretsError::TooLarge)));
}
