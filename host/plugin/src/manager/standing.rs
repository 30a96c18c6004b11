//! What there is to tell of a plugin: what its resource wants, what serves, since when, and what became of it last.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Hooks, Plugin, Quarantine, rollout::Differences};

/// How a plugin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// What its resource says serves.
    Active,
    /// What its resource says can't be loaded; an earlier version serves.
    Previous,
    /// What its resource says can't be loaded, and nothing serves.
    Refused,
    /// An operator went back to an earlier version.
    RolledBack,
    /// The component that its resource names is being fetched; what served before, if anything, goes on serving.
    Fetching,
    /// It is being compiled, or tried for the first time.
    Compiling,
}

/// Work on a plugin that a round does not wait for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its component is fetched, or read.
    Fetching,
    /// It is compiled and loaded.
    Compiling,
}

impl Stage {
    /// The word in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Compiling => "compiling",
        }
    }

    /// In words for operators.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Fetching => "its component is still being fetched",
            Self::Compiling => "it is still being compiled and loaded",
        }
    }
}

impl State {
    /// The word in metrics, logs and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Previous => "previous",
            Self::Refused => "refused",
            Self::RolledBack => "rolled-back",
            Self::Fetching => Stage::Fetching.as_str(),
            Self::Compiling => Stage::Compiling.as_str(),
        }
    }
}

/// How a plugin stands, and since when.
#[derive(Clone, Debug)]
pub struct Standing {
    /// How it stands.
    pub state: State,
    /// SHA-256 of the component that the resource names, in hex; none where it can't be read.
    pub desired: Option<String>,
    /// SHA-256 of the component that serves; none where none does.
    pub active: Option<String>,
    /// The hooks that it serves.
    pub hooks: Hooks,
    /// What is granted and not handed out, since the manifest of what serves does not ask for it.
    pub withheld: Vec<String>,
    /// What its manifest asks for and nobody granted, with what for in its author's words.
    pub ungranted: Vec<String>,
    /// Why it is not as its resource says.
    pub problem: Option<String>,
    /// What goes on for some of its places, so that the next rounds may say something else.
    pub under_way: Option<Stage>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Components that an operator can go back to, the newest first.
    pub previous: Vec<String>,
    /// The version that is tried.
    pub candidate: Option<CandidateStanding>,
    /// Its places that are in quarantine: the gateway's configuration in short, and until when.
    pub quarantined: Vec<Quarantine>,
}

/// How a candidate stands.
#[derive(Clone, Debug)]
pub struct CandidateStanding {
    /// SHA-256 of its component; none where it can't be read.
    pub digest: Option<String>,
    /// Of a hundred callers, how many get its answers.
    pub share: u8,
    /// Whether it is asked at all: beside the active version, or for the callers of its share.
    pub asked: bool,
    /// Why it is refused, or not asked.
    pub problem: Option<String>,
    /// What goes on before it can be asked.
    pub under_way: Option<Stage>,
    pub(crate) differences: Differences,
}

impl CandidateStanding {
    /// What it said otherwise, the newest first.
    pub fn differences(&self) -> Vec<crate::Difference> {
        self.differences.all()
    }

    fn word(&self) -> &'static str {
        match (&self.problem, self.asked) {
            (Some(_), false) => "candidate-refused",
            _ => "candidate",
        }
    }
}

impl Standing {
    /// What became of it since `before`, in words of `docs/metrics.md`, each with a reason where there is one.
    pub(super) fn transitions(&self, before: Option<&Self>) -> Vec<(&'static str, Option<&str>)> {
        let mut all = Vec::new();
        let changed = before.is_none_or(|b| {
            (b.state, &b.active, &b.problem, &b.desired) != (self.state, &self.active, &self.problem, &self.desired)
        });
        if changed {
            let forward = before.is_some_and(|b| b.state == State::RolledBack) && self.state == State::Active;
            let word = match self.state {
                _ if forward => "resumed",
                // It serves nothing else than before.
                State::Previous | State::Refused => "refused",
                state => state.as_str(),
            };
            all.push((word, self.problem.as_deref()));
        }
        let tells = |c: &CandidateStanding| (c.digest.clone(), c.share, c.problem.clone(), c.asked);
        let was = before.and_then(|b| b.candidate.as_ref());
        match (&self.candidate, was) {
            // Nothing has become of it yet.
            (Some(now), _) if now.under_way.is_some() => {}
            (Some(now), was) if was.map(tells) != Some(tells(now)) => all.push((now.word(), now.problem.as_deref())),
            (None, Some(_)) => all.push(("candidate-gone", None)),
            _ => {}
        }
        all
    }
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Why a candidate is not asked beside the active version, where it is not: decision 45.
pub(super) fn not_compared(plugin: &Plugin) -> Option<&'static str> {
    if !plugin.hooks().policy() {
        return Some("it is loaded and not asked: only policies are compared beside the active version");
    }
    plugin
        .ready
        .component
        .reaches_out()
        .then_some("it is loaded and not asked: it sends requests, and would send each a second time; give it a share")
}

/// Why a candidate gets no callers, where it gets none.
pub(super) fn not_shared(plugin: &Plugin) -> Option<&'static str> {
    let hooks = plugin.hooks();
    (hooks.provider && !hooks.policy() && !hooks.resolver)
        .then_some("it is loaded and not asked: who is calling is not known before an auth provider has said so")
}
