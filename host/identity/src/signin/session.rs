//! Sessions of people at the pages: opened by a sign-in, found by the browser's cookie, ended by anybody who may.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::{Name, Principal, Secret, Subject};
use portcullis_store::StoreError;
use serde::{Deserialize, Serialize};

use super::{MAX_SESSIONS, SESSION_LIFE, SignIn, digest, digest_bytes, random_text};
use crate::{
    clock::{millis, now_ms},
    shelf::ShelfError,
};

const LABEL: &str = "portcullis session 1";

/// A session's public name: shown in lists, of no use to whoever wants to be somebody.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The `User` resource of this name, by a one-time code.
    User(Name),
    /// Somebody of an identity provider. Which user that is, if any, is asked anew each time.
    Identity {
        /// The issuer, exactly as in its tokens.
        issuer: String,
        /// Its `sub`.
        subject: String,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Identity { issuer, subject } => write!(f, "external:{issuer}#{subject}"),
        }
    }
}

/// What the store keeps of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    id: SessionId,
    tenant: Name,
    who: Who,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<Name>,
    #[serde(default)]
    anybody: bool,
    created_ms: u64,
}

/// A sign-in that has just succeeded.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// The tenant.
    pub tenant: Name,
    /// Who.
    pub who: Who,
    /// Groups as the identity provider asserted them.
    pub groups: Vec<String>,
    /// How it may be shown.
    pub display_name: Option<String>,
    /// The identity provider, where one was asked.
    pub provider: Option<Name>,
    /// Whether that lets in people whom nobody here names.
    pub anybody: bool,
}

/// A session that was just opened.
#[derive(Debug)]
pub struct NewSession {
    /// What the browser keeps.
    pub cookie: Secret,
    /// Its public name.
    pub id: SessionId,
    /// When it ends, in milliseconds since 1970.
    pub until_ms: u64,
}

/// A session that is open.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its public name.
    pub id: SessionId,
    /// Who it is now, with today's teams and roles.
    pub principal: Principal,
    /// Who signed in.
    pub who: Who,
    /// The identity provider that was asked, if one was.
    pub provider: Option<Name>,
    /// When it was opened, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ends.
    pub until_ms: u64,
    /// For forms: known to the session's own pages only.
    pub csrf: String,
    /// What a flow that leaves and comes back is bound to.
    pub binding: [u8; 32],
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Who signed in is nobody here.
    #[error("{0} is nobody here")]
    Nobody(String),
    /// The operating system has no randomness to give.
    #[error("the operating system has no randomness to give")]
    NoRandomness,
    /// It was not kept.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        Self::Shelf(error.into())
    }
}

impl SignIn {
    /// Opens a session. A person who has too many loses the oldest.
    ///
    /// # Errors
    /// [`SessionError`].
    pub async fn open_session(&self, signed_in: SignedIn) -> Result<NewSession, SessionError> {
        let SignedIn { tenant, who, groups, display_name, provider, anybody } = signed_in;
        let person = person(&tenant, &who);
        let secret = random_text::<32>().map_err(|_| SessionError::NoRandomness)?;
        let mut cookie = zeroize::Zeroizing::new(Vec::with_capacity(80));
        cookie.extend_from_slice(person.as_bytes());
        cookie.push(b'.');
        cookie.extend_from_slice(secret.expose());
        let cookie = Secret::new(cookie.as_slice());
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|_| SessionError::NoRandomness)?;
        let id = SessionId(format!("{:016x}", u64::from_be_bytes(random)));
        let now = now_ms();
        let record = Record { id: id.clone(), tenant, who, groups, display_name, provider, anybody, created_ms: now };
        if self.principal(&record).is_none() {
            return Err(SessionError::Nobody(record.who.to_string()));
        }
        let mut others = self.sessions.list(&format!("{person}/")).await?;
        others.sort_by_key(|(_, found)| found.value.created_ms);
        let over = (others.len() + 1).saturating_sub(MAX_SESSIONS);
        for (key, _) in others.iter().take(over) {
            self.sessions.remove(key).await?;
        }
        let until_ms = now.saturating_add(millis(SESSION_LIFE));
        let key = format!("{person}/{}", digest(LABEL, cookie.expose()));
        self.sessions.put(&key, until_ms, &record).await?;
        Ok(NewSession { cookie, id, until_ms })
    }

    /// The session that a browser's cookie opens; none where it has ended or never was, or who it was is nobody any more.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn session(&self, cookie: &str) -> Result<Option<Session>, StoreError> {
        let Some(key) = key(cookie) else { return Ok(None) };
        let Some(found) = self.sessions.get(&key).await? else { return Ok(None) };
        let Some(principal) = self.principal(&found.value) else { return Ok(None) };
        let record = found.value;
        Ok(Some(Session {
            id: record.id,
            principal,
            who: record.who,
            provider: record.provider,
            created_ms: record.created_ms,
            until_ms: found.until_ms,
            csrf: csrf(cookie),
            binding: digest_bytes("portcullis session binding 1", cookie.as_bytes()),
        }))
    }

    /// Ends the session that a cookie opens.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_session(&self, cookie: &str) -> Result<(), StoreError> {
        match key(cookie) {
            Some(key) => self.sessions.remove(&key).await,
            None => Ok(()),
        }
    }

    /// Ends all sessions of a person, and answers how many there were.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_sessions(&self, tenant: &Name, who: &Who) -> Result<usize, StoreError> {
        let all = self.sessions.list(&format!("{}/", person(tenant, who))).await?;
        for (key, _) in &all {
            self.sessions.remove(key).await?;
        }
        Ok(all.len())
    }

    /// Ends the sessions of a person that follow from a sign-in by this provider, and answers how many there were.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn end_sessions_by(&self, tenant: &Name, who: &Who, provider: &Name) -> Result<usize, StoreError> {
        let mut all = self.sessions.list(&format!("{}/", person(tenant, who))).await?;
        all.retain(|(_, found)| found.value.provider.as_ref() == Some(provider));
        for (key, _) in &all {
            self.sessions.remove(key).await?;
        }
        Ok(all.len())
    }

    /// The groups that a provider named when a person signed in, and when that was, of the newest session that is open.
    pub(crate) async fn said(&self, tenant: &Name, who: &Who) -> Result<Option<(Vec<String>, u64)>, StoreError> {
        let all = self.sessions.list(&format!("{}/", person(tenant, who))).await?;
        let open = all.into_iter().map(|(_, found)| found.value).filter(|record| self.principal(record).is_some());
        Ok(open.max_by_key(|record| record.created_ms).map(|record| (record.groups, record.created_ms)))
    }

    /// Whether somebody of a provider is anybody here: a `User`, a member of a `Team` by a group, or whoever the provider knows
    /// where that is enough.
    pub(crate) fn is_somebody(&self, signed_in: &SignedIn) -> bool {
        let directory = self.directories.load();
        match &signed_in.who {
            Who::User(name) => directory.since(&signed_in.tenant, &Subject::User(name.clone())).is_some(),
            Who::Identity { issuer, subject } => directory
                .external(&signed_in.tenant, issuer, subject, signed_in.groups.clone())
                .is_ok_and(|p| is_person(&p) && (signed_in.anybody || is_known(&p))),
        }
    }

    fn principal(&self, record: &Record) -> Option<Principal> {
        let directory = self.directories.load();
        let mut principal = match &record.who {
            Who::User(name) => {
                let subject = Subject::User(name.clone());
                // A session of an earlier user of this name is nobody's.
                directory.since(&record.tenant, &subject).filter(|since| record.created_ms >= *since)?;
                directory.principal(&record.tenant, &subject)?
            }
            Who::Identity { issuer, subject } => {
                let (tenant, provider) = (&record.tenant, record.provider.as_ref()?);
                // What it said then, for as long as that counts, and whom it lets in today.
                directory.counts(tenant, provider, issuer, record.created_ms, now_ms()).then_some(())?;
                let anybody = record.anybody && directory.lets_in_anybody(tenant, provider);
                let principal = directory.external(tenant, issuer, subject, record.groups.clone()).ok()?;
                (is_person(&principal) && (anybody || is_known(&principal))).then_some(principal)?
            }
        };
        if principal.display_name.is_none() {
            principal.display_name.clone_from(&record.display_name);
        }
        Some(principal)
    }
}

/// Agents don't sign in to pages, also where a provider knows them.
fn is_person(principal: &Principal) -> bool {
    !matches!(principal.subject, Subject::Agent(_))
}

/// Whether somebody here said who this is.
pub(crate) fn is_known(principal: &Principal) -> bool {
    !matches!(principal.subject, Subject::External { .. }) || !principal.teams.is_empty()
}

/// What a form of this browser has to send with it. Also for browsers that nobody has signed in with yet, by a cookie of
/// their own.
pub fn csrf(cookie: &str) -> String {
    digest("portcullis form 1", cookie.as_bytes())
}

/// A cookie for a browser that nobody has signed in with yet.
///
/// # Errors
/// The operating system has no randomness to give.
pub fn browser_cookie() -> Result<String, SessionError> {
    let mut random = [0_u8; 18];
    getrandom::fill(&mut random).map_err(|_| SessionError::NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(random))
}

/// Where a person's sessions stand, so that they can be counted without reading everybody's.
fn person(tenant: &Name, who: &Who) -> String {
    digest("portcullis person 1", format!("{tenant}/{who}").as_bytes()).chars().take(22).collect()
}

fn key(cookie: &str) -> Option<String> {
    let (person, secret) = cookie.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    (person.len() == 22 && secret.len() == 43 && plain(person) && plain(secret))
        .then(|| format!("{person}/{}", digest(LABEL, cookie.as_bytes())))
}
