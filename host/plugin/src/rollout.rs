//! A plugin at a place with the version that is tried beside it: who is asked for whom, and what the two say otherwise.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use portcullis_model::Principal;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    answer::{Decision, Read},
    error::{PluginError, PluginFailure},
    facts::{
        CallFacts, Item, ListKind, PromptFacts, QuestionFacts, ReadFacts, RequestFacts, ResultFacts, SessionFacts,
    },
    plugin::Plugin,
    shadow::Room,
};

/// The most differences of a plugin that can be looked at.
const KEPT: usize = 32;
/// The most characters of a tool's name in one.
const NAME: usize = 128;

/// A version that is tried.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The plugin.
    pub plugin: Arc<Plugin>,
    /// Tells it from any other, as that of [`Placed`].
    pub identity: Arc<str>,
    /// Of a hundred callers, how many get its answers.
    pub share: u8,
    /// Whether it is asked beside the active version for the others. It may not where it could change something outside.
    pub(crate) shadows: bool,
    pub(crate) differences: Differences,
}

/// A plugin at its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The active version.
    pub plugin: Arc<Plugin>,
    /// Tells it from any other component, configuration, grant or secret at this place: answers of another one must not be
    /// used any more. A digest, no secret.
    pub identity: Arc<str>,
    /// The version that is tried.
    pub candidate: Option<Candidate>,
}

/// An answer of a candidate that the active version did not give. Holds no arguments, and no words of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The hook, such as `tool-call`.
    pub hook: String,
    /// How they differ: `decision`, `code`, `change`, `list`, `failure` or `recovery`.
    pub kind: String,
    /// The caller.
    pub caller: String,
    /// The server, where it was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The tool or prompt, by its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the active version said, such as `allow` or `deny quota`.
    pub active: String,
    /// What the candidate said.
    pub candidate: String,
}

/// The last differences, the newest first. Clones share their content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Differences(Arc<Mutex<VecDeque<Difference>>>);

impl Differences {
    pub(crate) fn all(&self) -> Vec<Difference> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn add(&self, difference: Difference) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        kept.push_front(difference);
    }
}

/// An answer, as far as it is compared.
#[derive(Debug, PartialEq)]
enum Said {
    Allow,
    Deny(String),
    Modify(Bytes),
    Approval,
    List(Vec<u32>),
    Failed(&'static str),
}

impl Said {
    fn decision(answer: &Result<Decision, PluginFailure>) -> Self {
        match answer {
            Ok(decision) => Self::decided(decision),
            Err(failure) => Self::failure(failure),
        }
    }

    fn opened(answer: &Result<(Decision, Vec<Read>), PluginFailure>) -> Self {
        match answer {
            Ok((decision, _)) => Self::decided(decision),
            Err(failure) => Self::failure(failure),
        }
    }

    fn decided(decision: &Decision) -> Self {
        match decision {
            Decision::Allow => Self::Allow,
            Decision::Deny { code, .. } => Self::Deny(code.clone()),
            Decision::Modify(new) => Self::Modify(new.clone()),
            Decision::RequireApproval(_) => Self::Approval,
        }
    }

    fn list(answer: &Result<Vec<u32>, PluginFailure>) -> Self {
        match answer {
            Ok(kept) => Self::List(kept.clone()),
            Err(failure) => Self::failure(failure),
        }
    }

    fn failure(failure: &PluginFailure) -> Self {
        match failure {
            PluginFailure::Error(PluginError::Denied { code, .. }) => Self::Deny(code.clone()),
            failure if !failure.is_fault() => Self::Deny("refused".into()),
            failure => Self::Failed(failure.word()),
        }
    }

    fn differs(&self, candidate: &Self) -> &'static str {
        match (self, candidate) {
            (one, other) if one == other => "none",
            (Self::Failed(_), Self::Failed(_)) => "none",
            (_, Self::Failed(_)) => "failure",
            (Self::Failed(_), _) => "recovery",
            (Self::Deny(_), Self::Deny(_)) => "code",
            (Self::Modify(_), Self::Modify(_)) => "change",
            (Self::List(_), Self::List(_)) => "list",
            _ => "decision",
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Allow => "allow".into(),
            Self::Deny(code) => format!("deny {code}").trim_end().into(),
            Self::Modify(new) => format!("modify to {} bytes", new.len()),
            Self::Approval => "require-approval".into(),
            Self::List(kept) => format!("keep {}", kept.len()),
            Self::Failed(how) => format!("failed: {how}"),
        }
    }
}

/// What a question was about.
struct About {
    hook: &'static str,
    server: Option<String>,
    name: Option<String>,
}

/// A question that the candidate will be asked as well.
struct Beside<A> {
    candidate: Candidate,
    room: Room,
    caller: Arc<Principal>,
    asked: A,
}

impl Candidate {
    /// Its last differences from the active version, the newest first.
    pub fn differences(&self) -> Vec<Difference> {
        self.differences.all()
    }

    /// Whether it is asked beside the active version.
    pub fn is_compared(&self) -> bool {
        self.shadows
    }
}

impl Placed {
    /// A plugin that nothing is tried beside.
    pub fn alone(plugin: Arc<Plugin>, identity: Arc<str>) -> Self {
        Self { plugin, identity, candidate: None }
    }

    /// Whether this caller gets the candidate's answers: always the same callers, here and after a restart, and with a larger
    /// share those of the smaller one too.
    fn is_chosen(&self, candidate: &Candidate, principal: &Principal) -> bool {
        if candidate.share == 0 {
            return false;
        }
        let mut hash = Sha256::new();
        for part in [principal.tenant.as_str(), self.plugin.name(), &principal.subject_text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        number % 100 < u64::from(candidate.share)
    }

    /// The version that answers this caller.
    pub fn of(&self, principal: &Principal) -> &Arc<Plugin> {
        match &self.candidate {
            Some(candidate) if self.is_chosen(candidate, principal) => &candidate.plugin,
            _ => &self.plugin,
        }
    }

    /// Tells both versions and the share from any other: what is remembered of a caller is of the version that answers them.
    pub fn whole_identity(&self) -> String {
        match &self.candidate {
            Some(candidate) if candidate.share > 0 => {
                format!("{} {} {}", self.identity, candidate.identity, candidate.share)
            }
            _ => self.identity.to_string(),
        }
    }

    /// What the candidate has to be told, where it is asked beside the active version. Made before that is asked: what it notes
    /// must not reach the other.
    fn beside<A>(&self, principal: &Arc<Principal>, bytes: usize, asked: impl FnOnce() -> A) -> Option<Box<Beside<A>>> {
        let candidate = self.candidate.as_ref().filter(|c| c.shadows && !self.is_chosen(c, principal))?;
        match self.plugin.host.shadows.room(bytes) {
            // In a box: the future of every call has room for it, and few have one.
            Some(room) => {
                let (candidate, caller) = (candidate.clone(), Arc::clone(principal));
                Some(Box::new(Beside { candidate, room, caller, asked: asked() }))
            }
            None => {
                self.plugin.metrics().compared("dropped");
                None
            }
        }
    }

    /// Asks whether a call may be made; see [`Plugin::decide`], as for the others.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn decide(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        call: &CallFacts,
    ) -> Result<Decision, PluginFailure> {
        let beside = self.beside(principal, call.arguments.len(), || (request.apart(), call.clone()));
        let answer = self.of(principal).decide(principal, request, call).await;
        if let Some(beside) = beside {
            let about = About::tool("tool-call", call);
            self.compare(*beside, about, Said::decision(&answer), async |plugin, who, (request, call)| {
                Said::decision(&plugin.decide(&who, &request, &call).await)
            });
        }
        answer
    }

    /// Asks whether a result may go to the client.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn review(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        call: &CallFacts,
        outcome: &ResultFacts,
    ) -> Result<Decision, PluginFailure> {
        let bytes = call.arguments.len() + outcome.content.len();
        let beside = self.beside(principal, bytes, || (request.apart(), call.clone(), outcome.apart()));
        let answer = self.of(principal).review(principal, request, call, outcome).await;
        if let Some(beside) = beside {
            let about = About::tool("tool-result", call);
            self.compare(*beside, about, Said::decision(&answer), async |plugin, who, (request, call, outcome)| {
                Said::decision(&plugin.review(&who, &request, &call, &outcome).await)
            });
        }
        answer
    }

    /// Asks whether a resource may be read.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn read(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        read: &ReadFacts,
    ) -> Result<Decision, PluginFailure> {
        let beside = self.beside(principal, read.uri.len(), || (request.apart(), read.clone()));
        let answer = self.of(principal).read(principal, request, read).await;
        if let Some(beside) = beside {
            // Not by its URI, which may hold what an operator has no business with.
            let about = About::server("resource-read", read.server.as_str(), None);
            self.compare(*beside, about, Said::decision(&answer), async |plugin, who, (request, read)| {
                Said::decision(&plugin.read(&who, &request, &read).await)
            });
        }
        answer
    }

    /// Asks whether a prompt may be fetched.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn prompt(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        prompt: &PromptFacts,
    ) -> Result<Decision, PluginFailure> {
        let beside = self.beside(principal, prompt.arguments.len(), || (request.apart(), prompt.clone()));
        let answer = self.of(principal).prompt(principal, request, prompt).await;
        if let Some(beside) = beside {
            let about = About::server("prompt-get", prompt.server.as_str(), Some(&prompt.prompt));
            self.compare(*beside, about, Said::decision(&answer), async |plugin, who, (request, prompt)| {
                Said::decision(&plugin.prompt(&who, &request, &prompt).await)
            });
        }
        answer
    }

    /// Asks whether a server's request may reach the client.
    ///
    /// # Errors
    /// Why there is no answer: then the client is not asked.
    pub async fn ask(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        question: &QuestionFacts,
    ) -> Result<Decision, PluginFailure> {
        let beside = self.beside(principal, question.params.len(), || (request.apart(), question.clone()));
        let answer = self.of(principal).ask(principal, request, question).await;
        if let Some(beside) = beside {
            let about = About::server("server-request", question.server.as_str(), Some(&question.method));
            self.compare(*beside, about, Said::decision(&answer), async |plugin, who, (request, question)| {
                Said::decision(&plugin.ask(&who, &request, &question).await)
            });
        }
        answer
    }

    /// Asks whether a client may come in; beside the answer, what the version that gave it read of the caller.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn open(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        session: &SessionFacts,
    ) -> Result<(Decision, Vec<Read>), PluginFailure> {
        let beside = self.beside(principal, session.capabilities.len(), || (request.apart(), session.clone()));
        let answer = self.of(principal).open(principal, request, session).await;
        if let Some(beside) = beside {
            let about = About { hook: "session", server: None, name: None };
            self.compare(*beside, about, Said::opened(&answer), async |plugin, who, (request, session)| {
                Said::opened(&plugin.open(&who, &request, &session).await)
            });
        }
        answer
    }

    /// Asks which entries of a list the caller may see.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn filter(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        kind: ListKind,
        items: &[Item<'_>],
    ) -> Result<Vec<u32>, PluginFailure> {
        let owned = || items.iter().map(|i| (i.server.to_owned(), i.name.to_owned())).collect::<Vec<_>>();
        let bytes = items.iter().map(|i| i.server.len() + i.name.len() + 48).sum();
        let beside = self.beside(principal, bytes, || (request.apart(), owned()));
        let answer = self.of(principal).filter(principal, request, kind, items).await;
        if let Some(beside) = beside {
            let about = About { hook: "list-filter", server: None, name: Some(kind.as_str().to_owned()) };
            self.compare(*beside, about, Said::list(&answer), async move |plugin, who, (request, items)| {
                let items: Vec<Item<'_>> = items.iter().map(|(server, name)| Item { server, name }).collect();
                Said::list(&plugin.filter(&who, &request, kind, &items).await)
            });
        }
        answer
    }

    /// Asks the candidate the same, sometime, and notes what it says otherwise.
    fn compare<A, F>(&self, beside: Beside<A>, about: About, active: Said, ask: F)
    where
        A: Send + 'static,
        F: AsyncFnOnce(Arc<Plugin>, Arc<Principal>, A) -> Said + Send + 'static,
    {
        let Beside { candidate, room, caller, asked } = beside;
        let metrics = Arc::clone(self.plugin.metrics());
        room.run(move || async move {
            let said = ask(candidate.plugin, Arc::clone(&caller), asked).await;
            let kind = active.differs(&said);
            metrics.compared(kind);
            if kind == "none" {
                return;
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            candidate.differences.add(Difference {
                at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
                hook: about.hook.to_owned(),
                kind: kind.to_owned(),
                caller: caller.subject_text.to_string(),
                server: about.server,
                name: about.name,
                active: active.words(),
                candidate: said.words(),
            });
        });
    }
}

impl About {
    fn tool(hook: &'static str, call: &CallFacts) -> Self {
        Self::server(hook, call.server.as_str(), Some(&call.tool))
    }

    fn server(hook: &'static str, server: &str, name: Option<&str>) -> Self {
        let shown = |name: &str| name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(NAME).collect();
        Self { hook, server: Some(server.to_owned()), name: name.map(shown) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_what_they_mean() {
        let deny = |code: &str| Said::Deny(code.into());
        let modify = |to: &'static str| Said::Modify(Bytes::from_static(to.as_bytes()));
        for (active, candidate, kind) in [
            (Said::Allow, Said::Allow, "none"),
            (Said::Allow, deny("x"), "decision"),
            (deny("x"), Said::Allow, "decision"),
            (deny("x"), deny("y"), "code"),
            (modify("{}"), modify("{\"a\":1}"), "change"),
            (Said::Allow, Said::Failed("trap"), "failure"),
            (Said::Failed("trap"), Said::Allow, "recovery"),
            (Said::Failed("trap"), Said::Failed("cpu"), "none"),
            (Said::List(vec![0]), Said::List(vec![]), "list"),
            (Said::Allow, Said::Approval, "decision"),
        ] {
            assert_eq!(active.differs(&candidate), kind, "{active:?} {candidate:?}");
        }
    }

    #[test]
    fn only_the_last_differences_are_kept() {
        let differences = Differences::default();
        for at_ms in 0..100 {
            differences.add(Difference {
                at_ms,
                hook: "tool-call".into(),
                kind: "decision".into(),
                caller: "user:a".into(),
                server: None,
                name: None,
                active: "allow".into(),
                candidate: "deny".into(),
            });
        }
        let kept = differences.all();
        assert_eq!((kept.len(), kept[0].at_ms), (KEPT, 99));
    }
}
