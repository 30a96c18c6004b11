//! What resolvers answered, by everything that the answers depend on (security.md 8).

use std::{
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use portcullis_model::{Fault, Name, Principal};
use portcullis_plugin::Read;
use quick_cache::Equivalent;
use serde_json::Value;
use std::sync::Arc;

use crate::{Carried, book::Standing, missing};

/// The most answers that are kept for one key, which differ in what the plugin read.
const VARIANTS: usize = 8;

/// How long somebody who did not answer is not asked again for the same.
const DOWN: Duration = Duration::from_secs(1);

/// What an answer is found by. Compared whole: nobody gets another's by a collision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    plan: [u8; 32],
    subject: String,
    token: bool,
    teams: Vec<Name>,
    standing: Standing,
}

/// [`Key`], borrowed. Hashes alike: fields in the same order, and `str` as `String`, `[T]` as `Vec<T>`.
#[derive(Hash)]
pub(crate) struct KeyRef<'a> {
    pub(crate) plan: &'a [u8; 32],
    pub(crate) subject: &'a str,
    pub(crate) token: bool,
    pub(crate) teams: &'a [Name],
    pub(crate) standing: Standing,
}

impl<'a> KeyRef<'a> {
    pub(crate) fn new(plan: &'a [u8; 32], principal: &'a Principal, standing: Standing) -> Self {
        Self {
            plan,
            subject: &principal.subject_text,
            token: principal.token.is_some(),
            teams: &principal.teams,
            standing,
        }
    }

    pub(crate) fn to_key(&self) -> Key {
        Key {
            plan: *self.plan,
            subject: self.subject.to_owned(),
            token: self.token,
            teams: self.teams.to_vec(),
            standing: self.standing,
        }
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.plan == key.plan
            && self.subject == key.subject
            && self.token == key.token
            && *self.teams == key.teams[..]
            && self.standing == key.standing
    }
}

/// A fact that a plugin read, as it was then.
#[derive(Clone, Debug, PartialEq)]
enum Fact {
    Header(String, Vec<HeaderValue>),
    Claim(String, Option<Value>),
    Roles(Vec<Name>),
    Groups(Vec<String>),
    /// By its digest.
    CallerToken(Option<[u8; 32]>),
}

fn digest(principal: &Principal) -> Option<[u8; 32]> {
    principal.bearer.as_ref().map(|token| token.digest)
}

/// What an answer depends on beyond the key.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts(Vec<Fact>);

impl Facts {
    /// The facts behind what was read; none where one of them is not known here, so that the answer can't be kept.
    pub(crate) fn of(reads: &[Read], vary: &[String], principal: &Principal, headers: &HeaderMap) -> Option<Self> {
        let header = |name: &str| Fact::Header(name.to_owned(), headers.get_all(name).iter().cloned().collect());
        let claim = |name: &str| Fact::Claim(name.to_owned(), principal.claims.get(name).cloned());
        let mut facts = Vec::new();
        for read in reads {
            facts.push(match read {
                Read::Header(name) => header(&name.to_ascii_lowercase()),
                Read::Claim(name) => claim(name),
                Read::Roles => Fact::Roles(principal.roles.clone()),
                Read::Groups => Fact::Groups(principal.groups.clone()),
                Read::CallerToken => Fact::CallerToken(digest(principal)),
                // In the key.
                Read::Teams | Read::Connections => continue,
                Read::Attribute(_) | Read::Peer | Read::Method | Read::Path => return None,
            });
        }
        for name in vary {
            facts.push(claim(name));
            facts.push(header(&name.to_ascii_lowercase()));
        }
        Some(Self(facts))
    }

    fn hold(&self, principal: &Principal, headers: &HeaderMap) -> bool {
        self.0.iter().all(|fact| match fact {
            Fact::Header(name, values) => headers.get_all(name.as_str()).iter().eq(values.iter()),
            Fact::Claim(name, value) => principal.claims.get(name) == value.as_ref(),
            Fact::Roles(roles) => principal.roles == *roles,
            Fact::Groups(groups) => principal.groups == *groups,
            Fact::CallerToken(known) => digest(principal) == *known,
        })
    }
}

/// One answer.
#[derive(Clone)]
struct Variant {
    facts: Facts,
    until_ms: u64,
    carried: Arc<Carried>,
}

/// What is known under one key, and the turn of whoever is finding out.
#[derive(Default)]
pub(crate) struct Slot {
    variants: ArcSwap<Vec<Variant>>,
    /// Only one at a time asks; the others wait for its answer.
    pub(crate) flight: tokio::sync::Mutex<()>,
    failed: Mutex<Option<(Instant, Fault)>>,
}

impl Slot {
    pub(crate) fn find(&self, principal: &Principal, headers: &HeaderMap, now_ms: u64) -> Option<Arc<Carried>> {
        let variants = self.variants.load();
        let found = variants
            .iter()
            .find(|v| now_ms < v.until_ms && v.carried.is_current() && v.facts.hold(principal, headers))?;
        Some(Arc::clone(&found.carried))
    }

    /// Keeps an answer. Called by whoever holds the flight.
    pub(crate) fn keep(&self, facts: Facts, until_ms: u64, carried: &Arc<Carried>, now_ms: u64) {
        let holds = |v: &&Variant| now_ms < v.until_ms && v.carried.is_current() && v.facts != facts;
        let mut variants: Vec<Variant> = self.variants.load().iter().filter(holds).cloned().collect();
        if variants.len() >= VARIANTS {
            variants.remove(0);
        }
        variants.push(Variant { facts, until_ms, carried: Arc::clone(carried) });
        self.variants.store(Arc::new(variants));
    }

    /// Forgets an answer, wherever it stands. Called by whoever holds the flight.
    pub(crate) fn forget(&self, carried: &Arc<Carried>) {
        let variants = self.variants.load();
        let left: Vec<Variant> = variants.iter().filter(|v| !Arc::ptr_eq(&v.carried, carried)).cloned().collect();
        self.variants.store(Arc::new(left));
    }

    /// Notes a failure for those who wait already: they asked for the same, and shall not fail one after another.
    pub(crate) fn fail(&self, fault: &Fault) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), fault.clone()));
    }

    /// The failure that happened since, if one did; and one of a moment ago of somebody else who does not answer: who asked for the
    /// same just now shall not wait for it again.
    pub(crate) fn failed_since(&self, since: Instant) -> Option<Fault> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |(at, fault): &&(Instant, Fault)| {
            *at >= since || (fault.code == missing::UNAVAILABLE && since.duration_since(*at) < DOWN)
        };
        failed.as_ref().filter(holds).map(|(_, fault)| fault.clone())
    }
}
