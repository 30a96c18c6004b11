//! Conversations with legacy servers that modern clients may be asked in: one call at a time, bounded for each server and
//! each caller, and used again by the same caller.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use portcullis_model::{Fault, Name, Side};
use portcullis_telemetry::metrics::GaugeHandle;
use portcullis_upstream::{Conversation, TargetKey, Upstreams};

/// The most conversations of one server.
const MOST_OF_SERVER: usize = 256;
/// The most sessions or children of one server that clients of 2025 sessions have for themselves.
const MOST_OWN_OF_SERVER: usize = 2_000;
/// The most of them under way for one caller.
const MOST_OF_CALLER: usize = 32;
/// How long one that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Whose conversation it is: the target without a conversation, the caller, what the caller can be asked.
type Owner = (TargetKey, [u8; 16], String);

/// A server of a tenant.
type Server = (Name, Name);

/// All of them.
pub struct Pool {
    state: Mutex<State>,
    gauge: GaugeHandle,
}

#[derive(Default)]
struct State {
    next: u64,
    idle: HashMap<Owner, Vec<(Arc<Conversation>, Instant)>>,
    /// How many there are of each server, idle ones included.
    servers: HashMap<Server, usize>,
    /// Those that clients of 2025 have for as long as their session.
    own: HashMap<Server, HashSet<TargetKey>>,
    callers: HashMap<[u8; 16], usize>,
}

/// A conversation that one call has for itself.
pub struct Lease {
    pool: Arc<Pool>,
    upstreams: Arc<Upstreams>,
    owner: Owner,
    /// The conversation.
    pub conversation: Arc<Conversation>,
    /// Whether the call ended as calls do, so that another one may go on in it.
    clean: bool,
}

fn busy(what: &str, key: &TargetKey) -> Fault {
    Fault::new(Side::Gateway, "server-busy", format!("{what} has too many conversations with \"{}\"", key.server))
        .server(key.server.as_str())
        .next("Try again when one of them is over")
        .retry_after_ms(1000)
}

impl Pool {
    /// None yet; `gauge` shows how many there are.
    pub fn new(gauge: GaugeHandle) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), gauge })
    }

    /// Notes that a client of 2025 gets a session of its own with a server.
    ///
    /// # Errors
    /// A fault where the server has too many.
    pub fn joined(&self, key: &TargetKey) -> Result<(), Fault> {
        let mut state = self.state();
        let own = state.own.entry((key.tenant.clone(), key.server.clone())).or_default();
        if own.len() >= MOST_OWN_OF_SERVER && !own.contains(key) {
            return Err(busy("the gateway", key));
        }
        if own.insert(key.clone()) {
            self.gauge.inc();
        }
        Ok(())
    }

    /// That is over.
    pub fn left(&self, key: &TargetKey) {
        let mut state = self.state();
        let server = (key.tenant.clone(), key.server.clone());
        let Some(own) = state.own.get_mut(&server) else { return };
        if own.remove(key) {
            self.gauge.dec();
        }
        if own.is_empty() {
            state.own.remove(&server);
        }
    }

    /// A conversation for one call.
    ///
    /// # Errors
    /// A fault where there are too many.
    pub fn lease(
        self: &Arc<Self>,
        upstreams: &Arc<Upstreams>,
        key: &TargetKey,
        caller: [u8; 16],
        capabilities: &str,
    ) -> Result<Lease, Fault> {
        let owner = (key.clone(), caller, capabilities.to_owned());
        let mut state = self.state();
        if state.callers.get(&caller).is_some_and(|n| *n >= MOST_OF_CALLER) {
            return Err(busy("this caller", key));
        }
        let kept = state.idle.get_mut(&owner).and_then(Vec::pop).map(|(conversation, _)| conversation);
        let conversation = match kept {
            Some(conversation) => conversation,
            None => {
                let of_server = state.servers.entry((key.tenant.clone(), key.server.clone())).or_default();
                if *of_server >= MOST_OF_SERVER {
                    return Err(busy("the gateway", key));
                }
                self.gauge.inc();
                *of_server += 1;
                state.next += 1;
                Arc::new(Conversation { id: format!("call-{}", state.next).into(), capabilities: capabilities.into() })
            }
        };
        *state.callers.entry(caller).or_default() += 1;
        drop(state);
        Ok(Lease { pool: Arc::clone(self), upstreams: Arc::clone(upstreams), owner, conversation, clean: false })
    }

    /// Ends what idles.
    pub fn sweep(&self, upstreams: &Upstreams) {
        let mut gone = Vec::new();
        let mut state = self.state();
        state.idle.retain(|(key, ..), kept| {
            kept.retain(|(conversation, since)| {
                let stays = since.elapsed() < IDLE;
                if !stays {
                    gone.push(TargetKey { conversation: Some(Arc::clone(conversation)), ..key.clone() });
                }
                stays
            });
            !kept.is_empty()
        });
        for key in &gone {
            state.forget(key);
            self.gauge.dec();
        }
        drop(state);
        gone.iter().for_each(|key| upstreams.release(key));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, key: &TargetKey) {
        let server = (key.tenant.clone(), key.server.clone());
        if let Some(count) = self.servers.get_mut(&server) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.servers.remove(&server);
            }
        }
    }
}

impl Lease {
    /// The call ended as calls do.
    pub fn clean(&mut self) {
        self.clean = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if let Some(count) = state.callers.get_mut(&self.owner.1) {
            *count -= 1;
            if *count == 0 {
                state.callers.remove(&self.owner.1);
            }
        }
        if self.clean {
            let kept = (Arc::clone(&self.conversation), Instant::now());
            state.idle.entry(self.owner.clone()).or_default().push(kept);
            return;
        }
        state.forget(&self.owner.0);
        drop(state);
        self.pool.gauge.dec();
        self.upstreams
            .release(&TargetKey { conversation: Some(Arc::clone(&self.conversation)), ..self.owner.0.clone() });
    }
}

#[cfg(test)]
mod tests {
    use portcullis_upstream::{Account, Options, launch::NoLauncher};

    use super::*;

    #[tokio::test]
    async fn a_call_has_its_conversation_for_itself_and_so_many_callers_so_many() {
        let pool = Pool::new(GaugeHandle::default());
        let upstreams = Upstreams::new(Options::new(Arc::new(NoLauncher))).unwrap();
        let key = TargetKey {
            tenant: Name::default_tenant(),
            server: "a".parse().unwrap(),
            generation: 1,
            account: Account::None,
            conversation: None,
            era: None,
        };
        let lease = |caller: u8, can: &str| pool.lease(&upstreams, &key, [caller; 16], can);
        let mut leases: Vec<Lease> = (0..MOST_OF_CALLER).map(|_| lease(0, "{}").unwrap()).collect();
        assert_eq!(lease(0, "{}").err().unwrap().code, "server-busy");
        let ids: HashSet<_> = leases.iter().map(|l| l.conversation.id.clone()).collect();
        assert_eq!(ids.len(), MOST_OF_CALLER, "one call at a time");
        // What a call left in good order is used again, by the same caller with the same capabilities and by nobody else.
        let mut done = leases.remove(0);
        done.clean();
        let again = done.conversation.id.clone();
        drop(done);
        assert_ne!(lease(1, "{}").unwrap().conversation.id, again);
        assert_ne!(lease(0, r#"{"roots":{}}"#).unwrap().conversation.id, again);
        let mut back = lease(0, "{}").unwrap();
        assert_eq!(back.conversation.id, again);
        // What did not end as calls do is not: it may have a question of somebody's in it.
        drop(std::mem::replace(&mut back, lease(1, "{}").unwrap()));
        assert_ne!(lease(0, "{}").unwrap().conversation.id, again);
        leases.push(back);
        // All callers together.
        let more =
            std::iter::from_fn(|| lease(u8::try_from(leases.len() / 16).unwrap(), "{}").ok().map(|l| leases.push(l)));
        assert!(more.take(1_000).count() < 1_000);
        assert_eq!(leases.len(), MOST_OF_SERVER);
    }

    #[test]
    fn a_server_has_so_many_sessions_of_clients_and_another_one_its_own() {
        let pool = Pool::new(GaugeHandle::default());
        let key = |server: &str, n: usize| TargetKey {
            tenant: Name::default_tenant(),
            server: server.parse().unwrap(),
            generation: 1,
            account: Account::None,
            conversation: Some(Arc::new(Conversation { id: format!("s{n}").into(), capabilities: "{}".into() })),
            era: None,
        };
        for n in 0..MOST_OWN_OF_SERVER {
            pool.joined(&key("a", n)).unwrap();
        }
        assert_eq!(pool.joined(&key("a", MOST_OWN_OF_SERVER)).unwrap_err().code, "server-busy");
        pool.joined(&key("a", 0)).unwrap();
        pool.joined(&key("b", 0)).unwrap();
        pool.left(&key("a", 7));
        pool.left(&key("a", 7));
        pool.joined(&key("a", MOST_OWN_OF_SERVER)).unwrap();
        assert_eq!(pool.gauge.get(), i64::try_from(MOST_OWN_OF_SERVER).unwrap() + 1);
    }
}
