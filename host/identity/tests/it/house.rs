//! A store, people and tokens to test with.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_identity::{Created, Directories, NewToken, TokenOptions, TokenService};
use portcullis_model::{Metadata, Name, Resource, Spec, Subject};
use portcullis_store::{Fleet, SledOptions, SledStore, Store};

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

/// A resource of this kind; `spec` is JSON.
pub(crate) fn resource(tenant: &str, kind: &str, resource: &str, spec: &str) -> Resource {
    let spec: Spec = serde_json::from_str(&format!(r#"{{"kind":"{kind}","spec":{spec}}}"#)).unwrap();
    let mut metadata = Metadata::new(name(tenant), name(resource));
    metadata.created_ms = Some(1);
    // As in a store, no two writes share a revision.
    static REVISION: AtomicU64 = AtomicU64::new(1);
    metadata.revision = Some(REVISION.fetch_add(1, Ordering::Relaxed));
    Resource::new(metadata, spec)
}

pub(crate) fn people() -> Vec<Resource> {
    vec![
        resource("default", "User", "alice", r#"{"identities":[{"issuer":"https://i","subject":"1"}]}"#),
        resource("default", "User", "bob", "{}"),
        resource(
            "default",
            "Team",
            "blue",
            r#"{"members":["alice"],"groups":[{"issuer":"https://i","group":"blues"}]}"#,
        ),
        resource("default", "Agent", "ci", r#"{"team":"blue"}"#),
        resource("default", "Role", "admin", r#"{"users":["alice"]}"#),
        resource("default", "IdentityProvider", "corp", r#"{"issuer":"https://i","clientId":"c"}"#),
        resource("other", "User", "alice", "{}"),
    ]
}

pub(crate) struct House {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) directories: Arc<Directories>,
    pub(crate) tokens: Arc<TokenService>,
    pub(crate) directory: tempfile::TempDir,
}

impl House {
    pub(crate) async fn new() -> Self {
        Self::with(TokenOptions::default()).await
    }

    pub(crate) async fn with(options: TokenOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = SledStore::open(directory.path(), sled()).unwrap();
        let directories = Directories::of(&Fleet::of(people()));
        let tokens = TokenService::open(Arc::clone(&store), Arc::clone(&directories), options).await.unwrap();
        Self { store, directories, tokens, directory }
    }

    pub(crate) fn set_people(&self, people: Vec<Resource>) {
        self.directories.update(&Arc::new(Fleet::of(people)));
    }

    pub(crate) async fn token(&self, owner: &str) -> Created {
        self.tokens.create(wanted(owner)).await.unwrap()
    }
}

pub(crate) fn sled() -> SledOptions {
    SledOptions { min_free: 0, ..SledOptions::default() }
}

pub(crate) fn wanted(owner: &str) -> NewToken {
    NewToken {
        tenant: name("default"),
        owner: subject(owner),
        name: None,
        gateways: Vec::new(),
        admin: false,
        lifetime: None,
        on_behalf: None,
    }
}

/// Waits until something holds, for ten seconds at most.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
