//! Verdicts that are remembered, and what they depend on.
//!
//! The key of a verdict is everything that its providers could have seen: tenant, gateway, the providers themselves, the
//! credential, and each header or fact that one of them read (security 8). What was read is learned: the first look-up,
//! by everything but that, finds the list of what else belongs into the key.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use http::{
    HeaderMap, HeaderName,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use portcullis_model::{CallerToken, Principal};
use portcullis_plugin::{AssertedPrincipal, Read};
use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest, Sha256};

use super::{AuthRefusal, Presented, Provider};
use crate::token::Live;

/// The most facts that one verdict may depend on; with more it is not remembered.
const MAX_DEPENDENCES: usize = 16;

/// Headers that can carry a credential. A session id is none: it is sealed and checked elsewhere, and no plugin sees it.
const CREDENTIALS: [HeaderName; 7] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("client-cert-chain"),
];

/// SHA-256, so that nobody can make two requests that share a verdict.
pub(super) type Key = [u8; 32];

/// Whether a request carries anything that its client could mean as a credential. Cookies alone are none: browsers send them everywhere.
/// Nor is what proxies say of certificates, which is believed of nobody: a mesh says it of every request, also of those that ask
/// where to sign in, and they must not count as failures.
pub(super) fn presents_credential(headers: &HeaderMap) -> bool {
    [AUTHORIZATION, PROXY_AUTHORIZATION, HeaderName::from_static("x-api-key")]
        .iter()
        .any(|name| headers.contains_key(name))
}

struct Hasher(Sha256);

impl Hasher {
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// All values of a header, so that none and an empty one differ.
    fn add_header(&mut self, headers: &HeaderMap, name: &HeaderName) {
        let mut count = 0_u64;
        for value in headers.get_all(name) {
            count += 1;
            self.add(value.as_bytes());
        }
        self.0.update(count.to_be_bytes());
    }
}

/// Of everything that is known before anybody is asked.
pub(super) fn base_key(providers: &[Arc<Provider>], presented: &Presented<'_>) -> Key {
    let mut hasher = Hasher(Sha256::new());
    hasher.add(presented.tenant.as_str().as_bytes());
    hasher.add(presented.gateway.as_str().as_bytes());
    hasher.0.update((providers.len() as u64).to_be_bytes());
    for provider in providers {
        hasher.add(provider.identity.as_bytes());
    }
    for (index, name) in CREDENTIALS.iter().enumerate() {
        if presented.headers.contains_key(name) {
            hasher.0.update([u8::try_from(index).unwrap_or(u8::MAX)]);
            hasher.add_header(presented.headers, name);
        }
    }
    if let Some(certificate) = presented.certificate {
        hasher.0.update([u8::MAX]);
        hasher.add(&certificate.fingerprint);
    }
    hasher.0.finalize().into()
}

/// What a verdict depends on beside its base key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dependences {
    facts: BTreeSet<Read>,
    /// Somebody read what can't be told, or too much: the verdict can't be remembered.
    unknown: bool,
}

impl Dependences {
    pub(super) fn add(&mut self, reads: Option<&[Read]>) {
        let Some(reads) = reads else {
            self.unknown = true;
            return;
        };
        for read in reads {
            match read {
                Read::Header(name) if CREDENTIALS.iter().any(|known| known == name.as_str()) => {}
                Read::Header(name) if HeaderName::try_from(name.as_str()).is_err() => self.unknown = true,
                Read::Header(_) | Read::Peer | Read::Method | Read::Path => {
                    self.facts.insert(read.clone());
                }
                // A provider sees no principal and no call, so these mean nothing here.
                Read::Claim(_)
                | Read::Attribute(_)
                | Read::Teams
                | Read::Roles
                | Read::Groups
                | Read::Connections
                | Read::CallerToken => {
                    self.unknown = true;
                }
            }
        }
        self.unknown |= self.facts.len() > MAX_DEPENDENCES;
    }

    fn key(&self, base: &Key, presented: &Presented<'_>) -> Key {
        let mut hasher = Hasher(Sha256::new());
        hasher.0.update(base);
        for fact in &self.facts {
            match fact {
                Read::Header(name) => {
                    hasher.add(name.as_bytes());
                    if let Ok(name) = HeaderName::try_from(name.as_str()) {
                        hasher.add_header(presented.headers, &name);
                    }
                }
                Read::Peer => hasher.add(presented.address.to_string().as_bytes()),
                Read::Method => hasher.add(presented.method.as_bytes()),
                Read::Path => hasher.add(presented.path.as_bytes()),
                _ => {}
            }
        }
        hasher.0.finalize().into()
    }
}

/// What a verdict rests on.
#[derive(Debug)]
pub(super) enum Basis {
    /// A token of ours, looked at each time.
    Token(Arc<Live>),
    /// Somebody of an identity provider.
    External {
        /// The issuer.
        issuer: String,
        /// Its subject.
        subject: String,
        /// The token that this rests on, which can act for the caller elsewhere.
        token: Option<Arc<CallerToken>>,
    },
}

/// The generations of people and of kept sign-ins that a principal was made under.
pub(super) type Stamp = (u64, u64);

/// A remembered verdict.
pub(super) struct Entry {
    pub(super) basis: Basis,
    pub(super) asserted: AssertedPrincipal,
    pub(super) expires_ms: u64,
    size: u64,
    current: ArcSwap<(Stamp, Arc<Principal>)>,
}

impl Entry {
    pub(super) fn new(
        basis: Basis,
        asserted: AssertedPrincipal,
        expires_ms: u64,
        stamp: Stamp,
        principal: Arc<Principal>,
    ) -> Self {
        let texts: usize = asserted.groups.iter().map(|g| g.len() + 24).sum::<usize>()
            + asserted.claims.iter().map(|(name, value)| name.len() + value.to_string().len() + 64).sum::<usize>();
        let token = match &basis {
            Basis::External { token: Some(token), .. } => token.secret.len() + 256,
            _ => 0,
        };
        // The principal holds copies of what was asserted.
        let size = u64::try_from(texts * 3 + token + 1024).unwrap_or(u64::MAX);
        Self { basis, asserted, expires_ms, size, current: ArcSwap::from_pointee((stamp, principal)) }
    }

    /// The principal, if it was made under these.
    pub(super) fn principal(&self, stamp: Stamp) -> Option<Arc<Principal>> {
        let current = self.current.load();
        (current.0 == stamp).then(|| Arc::clone(&current.1))
    }

    /// Takes a principal that was made under newer ones.
    pub(super) fn renew(&self, stamp: Stamp, principal: Arc<Principal>) -> Arc<Principal> {
        self.current.store(Arc::new((stamp, Arc::clone(&principal))));
        principal
    }
}

#[derive(Clone)]
enum Slot {
    Entry(Arc<Entry>),
    /// Verdicts of this base depend on more.
    Depends(Arc<Dependences>),
}

#[derive(Clone)]
struct BySize;

impl Weighter<Key, Slot> for BySize {
    fn weight(&self, _key: &Key, slot: &Slot) -> u64 {
        match slot {
            Slot::Entry(entry) => entry.size,
            Slot::Depends(on) => 256 + 64 * on.facts.len() as u64,
        }
    }
}

struct Refused {
    refusal: AuthRefusal,
    generation: u64,
    until_ms: u64,
}

/// All remembered verdicts. Refusals are kept apart, so that whoever is refused pushes nobody out.
pub(super) struct Verdicts {
    good: Cache<Key, Slot, BySize>,
    bad: Cache<Key, Arc<Refused>>,
    /// Who learns a new dependence takes turns; who looks up does not.
    learning: Mutex<()>,
}

impl Verdicts {
    pub(super) fn new(bytes: u64, refusals: usize) -> Self {
        let entries = usize::try_from(bytes / 2048).unwrap_or(usize::MAX).max(1);
        Self {
            good: Cache::with_weighter(entries, bytes, BySize),
            bad: Cache::new(refusals.max(1)),
            learning: Mutex::new(()),
        }
    }

    pub(super) fn get(&self, base: &Key, presented: &Presented<'_>) -> Option<Arc<Entry>> {
        match self.good.get(base)? {
            Slot::Entry(entry) => Some(entry),
            Slot::Depends(on) => match self.good.get(&on.key(base, presented))? {
                Slot::Entry(entry) => Some(entry),
                Slot::Depends(_) => None,
            },
        }
    }

    pub(super) fn put(&self, base: &Key, presented: &Presented<'_>, on: &Dependences, entry: Arc<Entry>) {
        if on.unknown {
            return;
        }
        let _turn = self.learning.lock().unwrap_or_else(PoisonError::into_inner);
        let known = match self.good.get(base) {
            Some(Slot::Depends(known)) => known,
            Some(Slot::Entry(_)) | None => Arc::default(),
        };
        let mut all = Dependences::clone(&known);
        all.facts.extend(on.facts.iter().cloned());
        if all.facts.is_empty() {
            self.good.insert(*base, Slot::Entry(entry));
            return;
        }
        if all.facts.len() > MAX_DEPENDENCES {
            return;
        }
        // Entries under a shorter list stay unreachable until they are pushed out: their keys are not asked for again.
        self.good.insert(all.key(base, presented), Slot::Entry(entry));
        if all != *known {
            self.good.insert(*base, Slot::Depends(Arc::new(all)));
        }
    }

    pub(super) fn refused(&self, base: &Key, generation: u64, now_ms: u64) -> Option<AuthRefusal> {
        let refused = self.bad.get(base)?;
        (refused.generation == generation && now_ms < refused.until_ms).then(|| refused.refusal.clone())
    }

    pub(super) fn refuse(&self, base: Key, refusal: AuthRefusal, generation: u64, until_ms: u64) {
        self.bad.insert(base, Arc::new(Refused { refusal, generation, until_ms }));
    }

    #[cfg(test)]
    pub(super) fn refusals(&self) -> usize {
        self.bad.len()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_model::Name;
    use portcullis_plugin::Asserted;

    use super::*;

    fn entry(claim: &str) -> Arc<Entry> {
        let asserted = AssertedPrincipal {
            who: Asserted::External { issuer: "i".into(), subject: "s".into() },
            display_name: None,
            groups: Vec::new(),
            roles: Vec::new(),
            claims: vec![("c".into(), claim.into())],
            token: None,
        };
        let basis = Basis::External { issuer: "i".into(), subject: "s".into(), token: None };
        let principal = Arc::new(Principal::anonymous(Name::default_tenant()));
        Arc::new(Entry::new(basis, asserted, u64::MAX, (1, 0), principal))
    }

    fn key(n: u32) -> Key {
        Sha256::digest(n.to_be_bytes()).into()
    }

    fn with<T>(headers: &[(&'static str, &str)], then: impl FnOnce(&Presented<'_>) -> T) -> T {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let tenant = Name::default_tenant();
        let address = "192.0.2.1".parse().unwrap();
        let presented = Presented {
            tenant: &tenant,
            gateway: &tenant,
            method: "POST",
            path: "/",
            address,
            headers: &map,
            certificate: None,
            request: "r-1",
        };
        then(&presented)
    }

    #[test]
    fn both_tables_are_bounded() {
        let verdicts = Verdicts::new(1 << 18, 128);
        let claim = "x".repeat(2000);
        with(&[], |presented| {
            for n in 0..1000 {
                verdicts.refuse(key(n), AuthRefusal::nobody(), 1, u64::MAX);
                verdicts.put(&key(n), presented, &Dependences::default(), entry(&claim));
            }
        });
        assert!(verdicts.refusals() <= 128 * 2, "{}", verdicts.refusals());
        assert!(verdicts.good.weight() <= 1 << 18, "{}", verdicts.good.weight());
        assert!(verdicts.good.len() > 10, "{}", verdicts.good.len());
    }

    #[test]
    fn refusals_end_with_their_time_and_with_a_change_of_people() {
        let verdicts = Verdicts::new(1 << 20, 16);
        verdicts.refuse(key(1), AuthRefusal::nobody(), 1, 1000);
        assert!(verdicts.refused(&key(1), 1, 999).is_some());
        assert!(verdicts.refused(&key(1), 1, 1000).is_none());
        assert!(verdicts.refused(&key(1), 2, 999).is_none());
        assert!(verdicts.refused(&key(2), 1, 999).is_none());
    }

    #[test]
    fn credentials_are_part_of_the_key_and_can_not_be_shifted_into_each_other() {
        let base = |headers: &[(&'static str, &str)]| with(headers, |presented| base_key(&[], presented));
        let keys = [
            base(&[]),
            base(&[("authorization", "")]),
            base(&[("authorization", "ab")]),
            base(&[("authorization", "a"), ("authorization", "b")]),
            base(&[("authorization", "a"), ("cookie", "b")]),
            base(&[("cookie", "ab")]),
            base(&[("x-api-key", "ab")]),
            base(&[("proxy-authorization", "ab")]),
        ];
        let different: BTreeSet<Key> = keys.into_iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(base(&[("x-other", "1")]), base(&[]), "no credential");
    }

    #[test]
    fn too_many_dependences_are_not_remembered() {
        let verdicts = Verdicts::new(1 << 20, 16);
        let mut on = Dependences::default();
        let reads: Vec<Read> = (0..=MAX_DEPENDENCES).map(|n| Read::Header(format!("x-{n}"))).collect();
        on.add(Some(&reads));
        assert!(on.unknown);
        with(&[], |presented| {
            verdicts.put(&key(1), presented, &on, entry("c"));
            assert!(verdicts.get(&key(1), presented).is_none());
        });
        let mut odd = Dependences::default();
        odd.add(Some(&[Read::Teams]));
        assert!(odd.unknown, "what can't be in the key forbids to remember");
    }

    #[test]
    fn what_a_proxy_says_of_certificates_is_no_credential() {
        let with = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), http::HeaderValue::from_static("x"));
            presents_credential(&headers)
        };
        for name in ["x-forwarded-client-cert", "client-cert", "client-cert-chain", "cookie", "accept"] {
            assert!(!with(name), "{name}");
        }
        for name in ["authorization", "proxy-authorization", "x-api-key"] {
            assert!(with(name), "{name}");
        }
    }
}
