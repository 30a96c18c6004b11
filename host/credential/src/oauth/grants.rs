//! All connections' tokens: opened once, then kept in step with the store.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
};

use portcullis_model::{Name, Secret, spec::SecretSource};
use portcullis_outbound::Client;
use portcullis_store::{Change, Expect, Leases, Record, Registry, Revision, StoreError, Write, keys, scan_all};
use portcullis_telemetry::{Audit, Metrics};
use tokio::runtime::Handle;

use super::{
    account::Account,
    error::OAuthError,
    grant::{Grant, Renewal},
    key::ClientKey,
    pending::random,
    record::Held,
    revoke::TakingBack,
    web::Web,
};
use crate::{SecretSources, Secrets, SecretsError, resolver::now_ms};

/// How a connection's access to its server's authorization server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantState {
    /// Its token works or will be renewed.
    Ok,
    /// The last renewal failed; it is tried again.
    Failing,
    /// Its owner has to connect it again.
    Reconnect,
}

/// What is known of a connection's tokens, for people. Holds no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantStatus {
    /// How it is.
    pub state: GrantState,
    /// Why, where it is not well.
    pub why: Option<String>,
    /// Whose account it is.
    pub account: Account,
    /// The scopes that were granted.
    pub scopes: Vec<String>,
    /// Scopes that the server asked for beyond those.
    pub wanted: Vec<String>,
    /// When the access token ends, milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// Whether it is renewed then.
    pub renews: bool,
}

/// Every connection's tokens. As many as there are connections with OAuth.
pub struct Grants {
    pub(super) registry: Arc<Registry>,
    pub(super) secrets: Secrets,
    pub(super) sources: Arc<SecretSources>,
    pub(super) web: Web,
    pub(super) key: Arc<ClientKey>,
    metrics: Arc<Metrics>,
    pub(super) audit: Arc<Audit>,
    pub(super) taking_back: TakingBack,
    /// Where other gateways share the store: one of them renews a connection's tokens at a time.
    pub(super) leases: Option<Leases>,
    runtime: Handle,
    all: RwLock<HashMap<(Name, Name), Arc<Grant>>>,
    pub(super) me: Weak<Self>,
}

impl Grants {
    /// Opens them, and keeps them up to date, on the current tokio runtime, for as long as they live.
    ///
    /// # Errors
    /// Those of the store and the vault.
    pub async fn open(
        registry: Arc<Registry>,
        secrets: Secrets,
        sources: Arc<SecretSources>,
        client: Arc<Client>,
        (metrics, audit): (Arc<Metrics>, Arc<Audit>),
    ) -> Result<Arc<Self>, OAuthError> {
        let key = ClientKey::open(&secrets).await?;
        let from = secrets.store().revision();
        let store = secrets.store();
        let leases = if store.is_shared() { Some(Leases::new(Arc::clone(store), &random()?)) } else { None };
        let grants = Arc::new_cyclic(|me| Self {
            registry,
            secrets: secrets.clone(),
            sources,
            web: Web::new(client),
            key,
            metrics,
            audit,
            taking_back: TakingBack::default(),
            leases,
            runtime: Handle::current(),
            all: RwLock::default(),
            me: me.clone(),
        });
        grants.read_all().await.map_err(SecretsError::from)?;
        tokio::spawn(follow(Arc::downgrade(&grants), secrets, from));
        Ok(grants)
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn count(&self, renewal: &Renewal) {
        let outcome = match renewal {
            Renewal::Renewed => "renewed",
            Renewal::Refused(_) => "refused",
            Renewal::Failed { .. } => "failed",
            Renewal::TooSoon | Renewal::Gone => "gone",
        };
        self.metrics.oauth_renewal(outcome);
    }

    pub(super) fn count_revocation(&self, outcome: &'static str) {
        self.metrics.oauth_revocation(outcome);
    }

    /// A secret that lies elsewhere. The error names where, and never what is in it.
    pub(super) async fn read(&self, tenant: &Name, source: SecretSource) -> Result<Secret, String> {
        let (sources, tenant) = (Arc::clone(&self.sources), tenant.clone());
        let read = tokio::task::spawn_blocking(move || sources.read(&tenant, &source)).await;
        read.map_err(|_| "the client's secret was not read".to_owned())?.map_err(|why| why.to_string())
    }

    /// How many sign-ins are under way.
    pub(super) fn under_way(&self, count: usize) {
        self.metrics.oauth_pending.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A connection's tokens.
    pub(crate) fn get(&self, tenant: &Name, connection: &Name) -> Option<Arc<Grant>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&(tenant.clone(), connection.clone())).cloned()
    }

    /// What is known of a connection's tokens.
    pub fn status(&self, tenant: &Name, connection: &Name) -> Option<GrantStatus> {
        let grant = self.get(tenant, connection)?;
        let held = grant.held();
        let ended = held.refresh.is_none() && held.is_over(now_ms());
        let failing = grant.failing();
        let (state, why) = match (&held.broken, ended, failing) {
            (Some(why), ..) => (GrantState::Reconnect, Some(why.clone())),
            (None, true, _) => (GrantState::Reconnect, Some("its access has ended and can't be renewed".to_owned())),
            (None, false, Some(why)) => (GrantState::Failing, Some(why)),
            (None, false, None) => (GrantState::Ok, None),
        };
        Some(GrantStatus {
            state,
            why,
            account: held.account.clone(),
            scopes: held.scopes.clone(),
            wanted: grant.wanted(),
            expires_ms: held.expires_ms,
            renews: held.refresh.is_some(),
        })
    }

    /// The write that keeps a connection's tokens.
    pub(super) fn sealing(
        &self,
        tenant: &Name,
        connection: &Name,
        held: &Held,
        expect: Expect,
    ) -> Result<Write, OAuthError> {
        let key = keys::upstream_grant(tenant, connection);
        let plain = held.write().ok_or(OAuthError::Internal("the tokens can't be written down"))?;
        let value = self.secrets.seal(&key, &plain)?;
        Ok(Write::Put { key, value, expect })
    }

    /// The record of a connection as it is in the store.
    pub(super) async fn stored(&self, grant: &Grant) -> Result<Option<Held>, SecretsError> {
        let key = keys::upstream_grant(&grant.tenant, &grant.connection);
        match self.secrets.store().get(&key).await? {
            Some(record) => Ok(self.opened(&record)),
            None => Ok(None),
        }
    }

    /// Takes over what was written.
    pub(super) fn install(&self, tenant: &Name, connection: &Name, held: Held) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        match all.get(&(tenant.clone(), connection.clone())) {
            Some(grant) => grant.install(held),
            None => {
                let grant = Grant::new(tenant.clone(), connection.clone(), held, self.me.clone());
                all.insert((tenant.clone(), connection.clone()), grant);
            }
        }
        self.metrics.oauth_grants.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
    }

    /// Its record is gone: nobody is lent its tokens any more, and they are taken back.
    fn remove(&self, tenant: &Name, connection: &Name) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let gone = all.remove(&(tenant.clone(), connection.clone()));
        self.metrics.oauth_grants.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
        drop(all);
        if let Some(gone) = gone {
            self.take_back(tenant, connection, gone.held());
        }
    }

    /// One that does not open is left out and logged: its connection has to be connected again, the others work.
    fn opened(&self, record: &Record) -> Option<Held> {
        let plain = self.secrets.unseal(&record.key, &record.value);
        let plain =
            plain.map_err(|error| tracing::error!(record = &*record.key, %error, "tokens can't be opened")).ok()?;
        let held = Held::read(&plain, record.revision);
        if held.is_none() {
            tracing::error!(record = &*record.key, "tokens are not in a form that this version knows");
        }
        held
    }

    async fn read_all(&self) -> Result<(), StoreError> {
        let records = scan_all(&**self.secrets.store(), keys::UPSTREAM_GRANTS).await?;
        let mut there = std::collections::HashSet::new();
        for record in &records {
            let Some((tenant, connection)) = keys::parse_upstream_grant(&record.key) else { continue };
            if let Some(held) = self.opened(record) {
                self.install(&tenant, &connection, held);
                there.insert((tenant, connection));
            }
        }
        let known: Vec<_> = self.all.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for (tenant, connection) in known.iter().filter(|key| !there.contains(*key)) {
            self.remove(tenant, connection);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Grants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Grants").field("all", &all.len()).finish_non_exhaustive()
    }
}

/// Follows what other writers do with the records: another replica, a rotation of the sealing key, a deletion.
async fn follow(grants: Weak<Grants>, secrets: Secrets, mut from: Revision) {
    let store = Arc::clone(secrets.store());
    drop(secrets);
    loop {
        let mut changes = match store.watch(keys::UPSTREAM_GRANTS, from) {
            Ok(changes) => changes,
            Err(StoreError::TooOld) => {
                from = store.revision();
                let Some(grants) = grants.upgrade() else { return };
                if let Err(error) = grants.read_all().await {
                    tracing::error!(%error, "tokens could not be read again; those that were known go on serving");
                }
                continue;
            }
            Err(_) => return,
        };
        loop {
            let change = match changes.next().await {
                Ok(change) => change,
                Err(StoreError::TooOld) => break,
                Err(_) => return,
            };
            from = change.revision();
            let Some(grants) = grants.upgrade() else { return };
            let Some((tenant, connection)) = keys::parse_upstream_grant(change.key()) else { continue };
            match change {
                Change::Put(record) => {
                    let known = grants.get(&tenant, &connection).map(|g| g.held().revision);
                    if known.is_none_or(|known| known < record.revision)
                        && let Some(held) = grants.opened(&record)
                    {
                        grants.install(&tenant, &connection, held);
                    }
                }
                Change::Deleted { .. } => grants.remove(&tenant, &connection),
            }
        }
    }
}
