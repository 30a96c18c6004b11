//! Resources that were read a moment ago, for as long as their servers said, and never for anybody else than they said.
//!
//! What a server calls `private`, or says nothing about, is kept for the caller that got it alone: principal, token and
//! account are part of its key. What it calls `public` is kept per server. Policies have let the request pass before this is
//! asked (2026-07-28, caching).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_credential::Carried;
use portcullis_model::Name;
use portcullis_upstream::{Message, MessageKind};
use quick_cache::{Weighter, sync::Cache};
use serde::{Deserialize, de::IgnoredAny};

use crate::{asked::Asked, view::Assigned};

/// Memory that all kept answers may take together, and one of them.
const MOST_BYTES: u64 = 32 << 20;
const MOST_ONE: usize = 1 << 20;
/// The longest that anything is kept, whatever its server says.
const MOST_TIME: Duration = Duration::from_secs(60 * 60);

/// What was read, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    tenant: Name,
    server: Name,
    generation: u64,
    uri: Box<str>,
    /// None for what is public.
    whose: Option<Whose>,
}

/// An authorization context: who asked, by which token, under which account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    account: Option<(Arc<str>, u64)>,
    principal: Arc<str>,
    token: Option<Box<str>>,
}

impl Key {
    /// The key of a request; none where its answer may depend on more than the URI.
    pub fn of(asked: &Asked<'_>, assigned: &Assigned, carried: Option<&Carried>, own: &str) -> Option<Self> {
        let params = asked.message.params.as_ref()?;
        let members: HashMap<&str, IgnoredAny> = serde_json::from_str(params.piece.raw).ok()?;
        // What a server makes of headers, nobody here knows.
        if assigned.enrich.is_some() || !members.keys().all(|key| matches!(*key, "uri" | "_meta")) {
            return None;
        }
        let account = carried.map(|c| match &c.connection {
            Some(name) => (name.shared(), c.connection_revision),
            None => (Arc::clone(&c.executed_as), 0),
        });
        Some(Self {
            tenant: asked.view.tenant.clone(),
            server: assigned.server.clone(),
            generation: assigned.generation,
            uri: own.into(),
            whose: Some(Whose {
                account,
                principal: Arc::clone(&asked.principal.subject_text),
                token: asked.principal.token.as_deref().map(Into::into),
            }),
        })
    }

    fn public(&self) -> Self {
        Self { whose: None, ..self.clone() }
    }
}

/// An answer that is kept.
#[derive(Clone)]
struct Kept {
    message: Arc<Message>,
    got: Instant,
    ttl: Duration,
}

/// The bytes that an answer holds.
#[derive(Clone)]
struct Size;

impl Weighter<Key, Kept> for Size {
    fn weight(&self, key: &Key, kept: &Kept) -> u64 {
        (key.uri.len() + kept.message.body.len() + 512) as u64
    }
}

/// All answers that are kept.
pub struct Reads(Cache<Key, Kept, Size>);

impl Default for Reads {
    fn default() -> Self {
        Self(Cache::with_weighter(1_000, MOST_BYTES, Size))
    }
}

/// What a result says about how long it may be kept, and for whom.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    #[serde(borrow, default)]
    result_type: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    ttl_ms: Option<u64>,
    #[serde(borrow, default)]
    cache_scope: Option<std::borrow::Cow<'a, str>>,
}

impl Reads {
    /// The answer to the same request, where one still holds: the message, and for how long it does.
    pub fn get(&self, key: &Key) -> Option<(Arc<Message>, Duration)> {
        let now = Instant::now();
        let fresh = |key: &Key| {
            let kept = self.0.get(key)?;
            let left = kept.ttl.checked_sub(now.saturating_duration_since(kept.got)).filter(|left| !left.is_zero());
            if left.is_none() {
                self.0.remove(key);
            }
            Some((kept.message, left?))
        };
        fresh(key).or_else(|| fresh(&key.public()))
    }

    /// Keeps an answer, if its server said that it may be kept.
    pub fn keep(&self, key: &Key, message: &Message) {
        if message.kind != MessageKind::Result || message.body.len() > MOST_ONE {
            return;
        }
        let Ok(said) = serde_json::from_str::<Said<'_>>(message.payload_text()) else { return };
        let ttl = Duration::from_millis(said.ttl_ms.unwrap_or(0)).min(MOST_TIME);
        if ttl.is_zero() || said.result_type.is_some_and(|kind| kind != "complete") {
            return;
        }
        let key = if said.cache_scope.as_deref() == Some("public") { key.public() } else { key.clone() };
        self.0.insert(key, Kept { message: Arc::new(message.clone()), got: Instant::now(), ttl });
    }

    /// Forgets what was read of a server, or one resource of it: it has changed.
    pub fn forget(&self, tenant: &Name, server: &Name, uri: Option<&str>) {
        self.0
            .retain(|key, _| key.tenant != *tenant || key.server != *server || uri.is_some_and(|uri| *key.uri != *uri));
    }
}

/// Keeps the answer of one request when it comes.
#[derive(Clone)]
pub struct Keep {
    /// Where.
    pub reads: Arc<Reads>,
    /// Under which key.
    pub key: Key,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keep").field(&self.key).finish()
    }
}

impl Keep {
    /// Keeps it.
    pub fn note(&self, message: &Message) {
        self.reads.keep(&self.key, message);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn key(server: u8, principal: u8, token: Option<u8>, account: Option<u8>, uri: u8) -> Key {
        let name = |n: String| n.parse().expect("a name");
        Key {
            tenant: name("default".into()),
            server: name(format!("s{server}")),
            generation: 1,
            uri: format!("t://{uri}").into(),
            whose: Some(Whose {
                account: account.map(|a| (Arc::from(format!("c{a}")), 1)),
                principal: Arc::from(format!("user:{principal}")),
                token: token.map(|t| format!("t{t}").into()),
            }),
        }
    }

    fn answer(text: &str, hints: &str) -> Message {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"contents":[{{"uri":"x","text":"{text}"}}]{hints}}}}}"#);
        Message::parse(Bytes::from(body)).expect("a message")
    }

    const PRIVATE: &str = r#","ttlMs":60000,"cacheScope":"private""#;
    const PUBLIC: &str = r#","ttlMs":60000,"cacheScope":"public""#;

    #[test]
    fn only_what_may_be_kept_is_kept() {
        let reads = Reads::default();
        let mine = key(0, 0, None, None, 0);
        for not in [
            "",
            r#","ttlMs":0,"cacheScope":"public""#,
            r#","ttlMs":-5,"cacheScope":"public""#,
            r#","resultType":"input_required","ttlMs":60000"#,
        ] {
            reads.keep(&mine, &answer("x", not));
            assert!(reads.get(&mine).is_none(), "{not}");
        }
        reads.keep(&mine, &answer(&"x".repeat(MOST_ONE), PUBLIC));
        assert!(reads.get(&mine).is_none(), "too big");
        reads.keep(&mine, &answer("x", PRIVATE));
        let (_, left) = reads.get(&mine).expect("kept");
        assert!(left <= Duration::from_secs(60));
        reads.forget(&mine.tenant, &mine.server, Some("t://1"));
        assert!(reads.get(&mine).is_some(), "another resource has changed");
        reads.forget(&mine.tenant, &mine.server, Some("t://0"));
        assert!(reads.get(&mine).is_none());
        reads.keep(&mine, &answer("x", r#","ttlMs":1,"cacheScope":"public""#));
        let until = Instant::now() + Duration::from_secs(5);
        while reads.get(&mine).is_some() {
            assert!(Instant::now() < until, "it never goes out of date");
        }
    }

    fn whose() -> impl Strategy<Value = Key> {
        (0..2u8, 0..3u8, proptest::option::of(0..2u8), proptest::option::of(0..2u8), 0..2u8)
            .prop_map(|(server, principal, token, account, uri)| key(server, principal, token, account, uri))
    }

    proptest! {
        /// Whatever was read in whatever order: what somebody gets was theirs, or public at the same server and URI.
        #[test]
        fn nobody_gets_what_is_somebody_elses(steps in proptest::collection::vec((whose(), any::<bool>(), any::<bool>()), 1..60)) {
            let reads = Reads::default();
            let mut written = HashMap::new();
            for (at, (key, write, public)) in steps.into_iter().enumerate() {
                if write {
                    reads.keep(&key, &answer(&at.to_string(), if public { PUBLIC } else { PRIVATE }));
                    written.insert(at.to_string(), (key, public));
                } else if let Some((message, _)) = reads.get(&key) {
                    let text = serde_json::from_slice::<serde_json::Value>(&message.body).expect("JSON");
                    let text = text["result"]["contents"][0]["text"].as_str().expect("a text").to_owned();
                    let (by, public) = &written[&text];
                    prop_assert!(*by == key || (*public && by.public() == key.public()), "{key:?} got what {by:?} read");
                }
            }
        }
    }
}
