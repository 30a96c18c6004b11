//! Who there is: users, teams, roles and agents of every tenant, compiled from the fleet and immutable.

mod tenant;

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arc_swap::{ArcSwap, Guard};
use portcullis_model::{Kind, Name, Principal, Subject};
use portcullis_store::{Fleet, Registry};

use crate::permission::Whose;
use tenant::TenantDirectory;

/// Somebody of an identity provider is claimed by several `User` or `Agent` resources, so nobody can say who it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("several users or agents claim the same identity of an identity provider")]
pub struct Ambiguous;

/// Users, teams, roles and agents at one moment.
#[derive(Debug, Default)]
pub struct Directory {
    generation: u64,
    fingerprint: u64,
    tenants: HashMap<Name, TenantDirectory>,
}

impl Directory {
    fn compile(fleet: &Fleet, generation: u64, fingerprint: u64) -> Self {
        let tenants =
            fleet.tenants().into_iter().map(|tenant| (tenant.clone(), TenantDirectory::compile(fleet, &tenant)));
        Self { generation, fingerprint, tenants: tenants.collect() }
    }

    /// Grows whenever somebody's teams or roles may have changed. Verdicts made under another generation are made again.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The principal that a subject is now, with its teams and roles; none where it does not exist (any more).
    ///
    /// [`Subject::External`] always exists here: whether its issuer is trusted was decided by who asserted it.
    pub fn principal(&self, tenant: &Name, subject: &Subject) -> Option<Principal> {
        if let Subject::External { issuer, subject } = subject {
            return self.external(tenant, issuer, subject, Vec::new()).ok();
        }
        let empty = TenantDirectory::default();
        let directory = self.tenants.get(tenant).unwrap_or(&empty);
        directory.principal(tenant, subject)
    }

    /// Who somebody of an identity provider is: the `User` that names this identity, or an external principal. Teams come
    /// from membership and from `groups` that a `Team` names for this issuer.
    ///
    /// # Errors
    /// [`Ambiguous`] where several users or agents claim the identity.
    pub fn external(
        &self,
        tenant: &Name,
        issuer: &str,
        subject: &str,
        groups: Vec<String>,
    ) -> Result<Principal, Ambiguous> {
        let empty = TenantDirectory::default();
        self.tenants.get(tenant).unwrap_or(&empty).external(tenant, issuer, subject, groups)
    }

    /// Whether a subject that can own things exists, and since when (milliseconds since 1970; 0 where nobody recorded it).
    /// What was issued to an earlier resource of the same name is not its.
    pub fn since(&self, tenant: &Name, subject: &Subject) -> Option<u64> {
        match subject {
            Subject::Organization => Some(0),
            Subject::External { .. } | Subject::Anonymous => None,
            Subject::User(name) => Some(self.tenants.get(tenant)?.users.get(name)?.created_ms),
            Subject::Team(name) => Some(self.tenants.get(tenant)?.teams.get(name)?.created_ms),
            Subject::Agent(name) => Some(self.tenants.get(tenant)?.agents.get(name)?.created_ms),
        }
    }

    /// A subject as [`crate::may`] wants it, with the team that answers for it and the roles that acting as it gives; none where it
    /// does not exist.
    pub fn whose(&self, tenant: &Name, subject: &Subject) -> Option<Whose> {
        let principal = self.principal(tenant, subject)?;
        let team = match subject {
            Subject::Team(team) => Some(team.clone()),
            Subject::Agent(_) => principal.teams.first().cloned(),
            Subject::User(_) | Subject::Organization | Subject::External { .. } | Subject::Anonymous => None,
        };
        Some(Whose { subject: subject.clone(), team, roles: principal.roles })
    }

    /// Whether what an identity provider said of somebody at `said_ms` (milliseconds since 1970) counts at `now_ms`: people still sign in
    /// by it, under this issuer, and that was not too long ago.
    pub fn counts(&self, tenant: &Name, provider: &Name, issuer: &str, said_ms: u64, now_ms: u64) -> bool {
        self.provider(tenant, provider)
            .is_some_and(|p| p.issuer == issuer && now_ms.saturating_sub(said_ms) < p.max_sign_in_age_ms)
    }

    /// Whether people sign in by this provider whom nobody here names.
    pub fn lets_in_anybody(&self, tenant: &Name, provider: &Name) -> bool {
        self.provider(tenant, provider).is_some_and(|p| p.anybody)
    }

    fn provider(&self, tenant: &Name, provider: &Name) -> Option<&tenant::Provider> {
        self.tenants.get(tenant)?.providers.get(provider)
    }

    /// The users that are members of a team, sorted; people who belong to it by a group are known only when they call.
    pub fn members(&self, tenant: &Name, team: &Name) -> &[Name] {
        self.tenants.get(tenant).and_then(|d| d.teams.get(team)).map_or(&[], |t| &t.members)
    }
}

/// The current [`Directory`]. Readers take no lock.
pub struct Directories {
    current: ArcSwap<Directory>,
    compiling: Mutex<()>,
    source: Option<Arc<Registry>>,
}

impl std::fmt::Debug for Directories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directories").field("generation", &self.load().generation()).finish_non_exhaustive()
    }
}

impl Directories {
    /// A directory of these resources, changed by [`Directories::update`] only.
    pub fn of(fleet: &Fleet) -> Arc<Self> {
        Arc::new(Self::compiled(fleet, None))
    }

    /// The directory of a registry, which it follows on the current tokio runtime until it is dropped.
    pub fn follow(registry: &Arc<Registry>) -> Arc<Self> {
        let mut changes = registry.watch();
        let directories = Arc::new(Self::compiled(&registry.snapshot(), Some(Arc::clone(registry))));
        directories.refresh();
        let weak: Weak<Self> = Arc::downgrade(&directories);
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(directories) = weak.upgrade() else { return };
                directories.refresh();
            }
        });
        directories
    }

    fn compiled(fleet: &Fleet, source: Option<Arc<Registry>>) -> Self {
        let directory = Directory::compile(fleet, 1, fingerprint(fleet));
        Self { current: ArcSwap::from_pointee(directory), compiling: Mutex::new(()), source }
    }

    /// The directory now. Not to be held across an await; see [`Directories::load_full`].
    pub fn load(&self) -> Guard<Arc<Directory>> {
        self.current.load()
    }

    /// The directory now, to keep.
    pub fn load_full(&self) -> Arc<Directory> {
        self.current.load_full()
    }

    /// Takes what the registry has now, so that whoever just applied a user finds it.
    pub fn refresh(&self) {
        if let Some(registry) = &self.source {
            self.update_from(|| registry.snapshot());
        }
    }

    /// Takes these resources. Answers whether anything about people changed; if not, the generation stays.
    pub fn update(&self, fleet: &Arc<Fleet>) -> bool {
        self.update_from(|| Arc::clone(fleet))
    }

    /// The fleet is read under the lock, so that an older one never replaces a newer one.
    fn update_from(&self, fleet: impl Fn() -> Arc<Fleet>) -> bool {
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        let fleet = fleet();
        let (now, fingerprint) = (self.current.load(), fingerprint(&fleet));
        if now.fingerprint == fingerprint {
            return false;
        }
        self.current.store(Arc::new(Directory::compile(&fleet, now.generation + 1, fingerprint)));
        true
    }
}

/// Changes when a user, team, role, agent or identity provider does; other kinds change often and concern nobody's teams.
fn fingerprint(fleet: &Fleet) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (key, resource) in fleet.iter() {
        if matches!(key.kind, Kind::User | Kind::Team | Kind::Role | Kind::Agent | Kind::IdentityProvider) {
            (key, resource.metadata.revision, resource.metadata.created_ms).hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests;
