//! The hooks, one function each: facts are lent, the guest is called, its answer is checked.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_model::Principal;
use wasmtime::{
    Store,
    component::{ComponentNamedList, ComponentType, Instance, Lift, Lower, Resource},
};

use crate::{
    answer::{Asserted, AssertedPrincipal, Decision, Outcome, Rejection, Resolution, Verdict},
    bindings::{
        exports::portcullis::{auth::provider, credential::on_rejected::NextStep},
        portcullis::{
            auth::{identity::Identity, request::Request},
            credential::{earlier::Earlier as WitEarlier, resolution::Resolution as WitResolution, target::Target},
            policy::{
                decision::{Decision as WitDecision, Patch},
                lists::Listing,
                requests,
                results::Outcome as WitOutcome,
            },
            types::{
                context::{Call, Caller},
                error::Error as WitError,
            },
        },
    },
    component,
    error::{LoadError, PluginError, PluginFailure},
    facts::{
        AuthRequest, CallFacts, Item, ListKind, PromptFacts, QuestionFacts, ReadFacts, RequestFacts, ResultFacts,
        TargetFacts,
    },
    plugin::Plugin,
    run::Left,
    secrets::Guarded,
    sessions::{Describe, Open},
    state::{Authenticating, Chosen, IdentityDraft, Lent, ListColumns, ResolutionDraft, Resolving, State, What},
};

/// What is lent has no entry in any table: the guest's handle names the one thing of its type that the store holds.
pub(crate) fn lend<T: 'static>() -> Resource<T> {
    Resource::new_borrow(0)
}

type Decide = (Resource<Caller>, Resource<Call>);
type Review = (Resource<Caller>, Resource<Call>, Resource<WitOutcome>);
type ReadResource = (Resource<Caller>, Resource<requests::Read>);
type GetPrompt = (Resource<Caller>, Resource<requests::Prompt>);
type AskClient = (Resource<Caller>, Resource<requests::Question>);
type Filter = (Resource<Caller>, Resource<Listing>);
type Resolve = (Resource<Caller>, Resource<Target>, Resource<WitResolution>);
type FollowUp = (Resource<Caller>, Resource<Target>, Resource<WitEarlier>, Resource<WitResolution>);
type Authenticate = (Resource<Request>, Resource<Identity>);

/// Loads every hook of an instance with the types of the contract.
pub(crate) fn check_types(plugin: &Plugin, instance: &Instance, store: &mut Store<State>) -> Result<(), LoadError> {
    fn one<P, R>(
        instance: &Instance,
        store: &mut Store<State>,
        index: Option<&wasmtime::component::ComponentExportIndex>,
        hook: &'static str,
    ) -> Result<(), LoadError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentType + Lift,
    {
        let Some(index) = index else { return Ok(()) };
        instance
            .get_typed_func::<P, (Result<R, WitError>,)>(store, index)
            .map(drop)
            .map_err(|e| LoadError::Contract { hook, reason: component::brief(&format!("{e:#}")) })
    }
    let exports = &plugin.exports;
    one::<Decide, WitDecision>(instance, store, exports.tool_call.as_ref(), component::TOOL_CALL.0)?;
    one::<Review, WitDecision>(instance, store, exports.tool_result.as_ref(), component::TOOL_RESULT.0)?;
    one::<ReadResource, WitDecision>(instance, store, exports.resource_read.as_ref(), component::RESOURCE_READ.0)?;
    one::<GetPrompt, WitDecision>(instance, store, exports.prompt_get.as_ref(), component::PROMPT_GET.0)?;
    one::<AskClient, WitDecision>(instance, store, exports.server_request.as_ref(), component::SERVER_REQUEST.0)?;
    one::<Filter, Vec<u32>>(instance, store, exports.list_filter.as_ref(), component::LIST_FILTER.0)?;
    one::<Open, WitDecision>(instance, store, exports.session.as_ref(), component::SESSION.0)?;
    one::<Describe, ()>(instance, store, exports.described.as_ref(), component::DESCRIBED.0)?;
    one::<(), ()>(instance, store, exports.setup.as_ref(), component::SETUP.0)?;
    one::<Resolve, ()>(instance, store, exports.resolver.as_ref(), component::RESOLVER.0)?;
    one::<FollowUp, ()>(instance, store, exports.refresher.as_ref(), component::REFRESHER.0)?;
    one::<FollowUp, NextStep>(instance, store, exports.on_rejected.as_ref(), component::ON_REJECTED.0)?;
    one::<Authenticate, provider::Outcome>(instance, store, exports.provider.as_ref(), component::PROVIDER.0)
}

/// An answer of a resolver that is followed up.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// Until when it said that it may be used.
    pub expires_ms: Option<u64>,
    /// What was kept beside it.
    pub kept: Arc<[(String, Guarded)]>,
}

fn resolving(
    principal: &Arc<Principal>,
    request: &RequestFacts,
    target: &TargetFacts,
    earlier: Option<&Earlier>,
) -> Lent {
    Lent::Resolve(Box::new(Resolving {
        principal: Arc::clone(principal),
        request: request.clone(),
        target: target.clone(),
        earlier: earlier.cloned(),
        draft: ResolutionDraft::default(),
    }))
}

/// What a resolver has filled in, checked.
fn resolution(left: Left) -> Result<Resolution, PluginFailure> {
    let Lent::Resolve(resolving) = left.lent else { return Err(PluginFailure::Invalid("no answer".into())) };
    let draft = resolving.draft;
    if let Some(why) = draft.invalid {
        return Err(PluginFailure::Invalid(why));
    }
    let outcome = match draft.chosen {
        Some(Chosen::Use(id)) => match id.parse() {
            Ok(connection) => Outcome::Use { connection },
            Err(_) => return Err(PluginFailure::Invalid("it names no connection".into())),
        },
        Some(Chosen::None) => Outcome::None,
        Some(Chosen::Missing(need)) => Outcome::Missing(need),
        None if !draft.headers.is_empty() => Outcome::Headers,
        None => return Err(PluginFailure::Invalid("it filled in nothing".into())),
    };
    Ok(Resolution {
        outcome,
        headers: draft.headers,
        expires_ms: draft.expires_ms,
        vary: draft.vary,
        reads: left.reads,
        passed: draft.passed,
        kept: draft.kept,
    })
}

/// CPU time that a list filter gets for each item beside its limit, and for all items together.
const PER_ITEM: Duration = Duration::from_micros(5);
const MOST_FOR_ITEMS: Duration = Duration::from_millis(250);

pub(crate) fn policy(principal: &Arc<Principal>, request: &RequestFacts, what: What) -> Lent {
    Lent::Policy { principal: Arc::clone(principal), request: request.clone(), what, patched: false }
}

impl ListColumns {
    /// The list in columns. Entries of one server mostly stand together, so it is looked for where it was found last.
    fn of(kind: ListKind, items: &[Item<'_>]) -> Result<Self, PluginFailure> {
        let mut servers: Vec<String> = Vec::new();
        let mut server_of = Vec::with_capacity(items.len());
        let mut names = String::with_capacity(items.iter().map(|i| i.name.len()).sum());
        let mut ends = Vec::with_capacity(items.len());
        let mut last = 0;
        for item in items {
            if servers.get(last).is_none_or(|s| s != item.server) {
                last = servers.iter().position(|s| s == item.server).unwrap_or_else(|| {
                    servers.push(item.server.to_owned());
                    servers.len() - 1
                });
            }
            server_of.push(last as u32);
            names.push_str(item.name);
            ends.push(u32::try_from(names.len()).map_err(|_| PluginFailure::Invalid("a list above 4 GiB".into()))?);
        }
        Ok(Self { kind, servers, server_of, names, ends })
    }
}

impl Plugin {
    /// Asks whether a call may be made.
    ///
    /// # Errors
    /// Why there is no answer; see [`PluginFailure::is_fault`].
    pub async fn decide(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        call: &CallFacts,
    ) -> Result<Decision, PluginFailure> {
        self.counted("tool-call", async {
            let lent = policy(principal, request, What::Call(call.clone()));
            let index = self.exports.tool_call.as_ref();
            let (decision, left) = self.run::<Decide, WitDecision>(index, lent, (lend(), lend())).await?;
            self.checked(decision, left)
        })
        .await
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
        self.counted("tool-result", async {
            let lent = policy(principal, request, What::Result(call.clone(), outcome.clone()));
            let index = self.exports.tool_result.as_ref();
            let (decision, left) = self.run::<Review, WitDecision>(index, lent, (lend(), lend(), lend())).await?;
            self.checked(decision, left)
        })
        .await
    }

    /// Asks whether a resource may be read (or subscribed to, or its template completed).
    ///
    /// # Errors
    /// Why there is no answer; one that wants to modify is [`PluginFailure::Invalid`], since there is nothing to modify.
    pub async fn read(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        read: &ReadFacts,
    ) -> Result<Decision, PluginFailure> {
        self.counted("resource-read", async {
            let lent = policy(principal, request, What::Read(read.clone()));
            let index = self.exports.resource_read.as_ref();
            let (decision, left) = self.run::<ReadResource, WitDecision>(index, lent, (lend(), lend())).await?;
            match self.checked(decision, left)? {
                Decision::Modify(_) => Err(PluginFailure::Invalid("there is nothing to modify in a read".into())),
                decision => Ok(decision),
            }
        })
        .await
    }

    /// Asks whether a prompt may be fetched (or an argument of it completed).
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn prompt(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        prompt: &PromptFacts,
    ) -> Result<Decision, PluginFailure> {
        self.counted("prompt-get", async {
            let lent = policy(principal, request, What::Prompt(prompt.clone()));
            let index = self.exports.prompt_get.as_ref();
            let (decision, left) = self.run::<GetPrompt, WitDecision>(index, lent, (lend(), lend())).await?;
            self.checked(decision, left)
        })
        .await
    }

    /// Asks whether a server's request may reach the client. `principal` is who would be asked.
    ///
    /// # Errors
    /// Why there is no answer: then the client is not asked.
    pub async fn ask(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        question: &QuestionFacts,
    ) -> Result<Decision, PluginFailure> {
        self.counted("server-request", async {
            let lent = policy(principal, request, What::Question(question.clone()));
            let index = self.exports.server_request.as_ref();
            let (decision, left) = self.run::<AskClient, WitDecision>(index, lent, (lend(), lend())).await?;
            self.checked(decision, left)
        })
        .await
    }

    /// Asks which entries of a list the caller may see: positions, ascending.
    ///
    /// # Errors
    /// Why there is no answer; positions that are not ascending or not in the list are one reason.
    pub async fn filter(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        kind: ListKind,
        items: &[Item<'_>],
    ) -> Result<Vec<u32>, PluginFailure> {
        self.counted("list-filter", async {
            let lent = policy(principal, request, What::List(ListColumns::of(kind, items)?));
            let index = self.exports.list_filter.as_ref();
            // One call for the whole list, so its time grows with the list.
            let more = PER_ITEM.saturating_mul(u32::try_from(items.len()).unwrap_or(u32::MAX)).min(MOST_FOR_ITEMS);
            let (kept, _) = self.run_with::<Filter, Vec<u32>>(index, lent, (lend(), lend()), more).await?;
            let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || kept.last().is_some_and(|last| *last as usize >= items.len()) {
                return Err(PluginFailure::Invalid("positions that are not in the list, or not ascending".into()));
            }
            Ok(kept)
        })
        .await
    }

    /// Asks whose credential a call carries.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn resolve(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        target: &TargetFacts,
    ) -> Result<Resolution, PluginFailure> {
        self.counted("resolve", async {
            let lent = resolving(principal, request, target, None);
            let index = self.exports.resolver.as_ref();
            let ((), left) = self.run::<Resolve, ()>(index, lent, (lend(), lend(), lend())).await?;
            resolution(left)
        })
        .await
    }

    /// Asks for a new answer, ahead of the end of an earlier one.
    ///
    /// # Errors
    /// Why there is none: the earlier one goes on to hold.
    pub async fn refresh(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        target: &TargetFacts,
        earlier: &Earlier,
    ) -> Result<Resolution, PluginFailure> {
        self.counted("refresh", async {
            let lent = resolving(principal, request, target, Some(earlier));
            let index = self.exports.refresher.as_ref();
            let ((), left) = self.run::<FollowUp, ()>(index, lent, (lend(), lend(), lend(), lend())).await?;
            resolution(left)
        })
        .await
    }

    /// Asks what to do after the server refused what a call carried.
    ///
    /// # Errors
    /// Why there is no answer: the refusal stands.
    pub async fn rejected(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        target: &TargetFacts,
        earlier: &Earlier,
    ) -> Result<Rejection, PluginFailure> {
        self.counted("rejected", async {
            let lent = resolving(principal, request, target, Some(earlier));
            let index = self.exports.on_rejected.as_ref();
            let (next, left) = self.run::<FollowUp, NextStep>(index, lent, (lend(), lend(), lend(), lend())).await?;
            Ok(match next {
                NextStep::Retry => Rejection::Retry(Box::new(resolution(left)?)),
                NextStep::Reconnect(what) => Rejection::Reconnect(sentence(&what)),
                NextStep::GiveUp | NextStep::Other(_) => Rejection::GiveUp,
            })
        })
        .await
    }

    /// Asks who is calling.
    ///
    /// # Errors
    /// Why there is no answer. An answer that asserts what was not granted is [`PluginFailure::Invalid`].
    pub async fn authenticate(&self, request: &AuthRequest) -> Result<Verdict, PluginFailure> {
        self.counted("authenticate", async {
            let lent = Lent::Authenticate(Box::new(Authenticating {
                request: request.clone(),
                draft: IdentityDraft::default(),
            }));
            let index = self.exports.provider.as_ref();
            let (outcome, left) = self.run::<Authenticate, provider::Outcome>(index, lent, (lend(), lend())).await?;
            match outcome {
                provider::Outcome::Accepted => {
                    let Lent::Authenticate(authenticating) = left.lent else {
                        return Err(PluginFailure::Invalid("no answer".into()));
                    };
                    let draft = authenticating.draft;
                    if let Some(why) = draft.invalid {
                        return Err(PluginFailure::Invalid(why));
                    }
                    let Some(who) = draft.who else {
                        return Err(PluginFailure::Invalid("accepted, but nobody named".into()));
                    };
                    let token = match &who {
                        Asserted::External { issuer, .. } => {
                            draft.verified.into_iter().find(|token| token.issuer == *issuer)
                        }
                        Asserted::Token(_) => None,
                    };
                    let principal = AssertedPrincipal {
                        who,
                        token,
                        display_name: draft.display_name,
                        groups: draft.groups,
                        roles: draft.roles,
                        claims: draft.claims,
                    };
                    Ok(Verdict::Accepted {
                        principal: Box::new(principal),
                        expires_ms: draft.expires_ms,
                        vary: draft.vary,
                        reads: left.reads,
                    })
                }
                provider::Outcome::Anonymous => Ok(Verdict::Anonymous { reads: left.reads }),
                provider::Outcome::NotMine => Ok(Verdict::NotMine { reads: left.reads }),
                provider::Outcome::Challenge(challenge) => {
                    let clean = challenge.parameters.bytes().all(|b| (0x20..0x7f).contains(&b));
                    if !clean || challenge.parameters.len() > 1024 {
                        return Err(PluginFailure::Invalid("the challenge is no header value".into()));
                    }
                    Ok(Verdict::Challenge { parameters: challenge.parameters, message: sentence(&challenge.message) })
                }
                provider::Outcome::Other(why) => Ok(Verdict::Refused(sentence(&why))),
            }
        })
        .await
    }

    /// What a policy has decided, with what its patches left.
    pub(crate) fn checked(&self, decision: WitDecision, left: Left) -> Result<Decision, PluginFailure> {
        Ok(match decision {
            WitDecision::Allow => match left.lent.patched() {
                None => Decision::Allow,
                Some(new) => {
                    object(&new)?;
                    Decision::Modify(new)
                }
            },
            WitDecision::Deny(denial) => {
                Decision::Deny { code: word(&denial.code), message: sentence(&denial.message) }
            }
            WitDecision::Modify(Patch::Whole(bytes)) => {
                if bytes.len() > self.limits.output.as_usize() {
                    return Err(PluginFailure::Output);
                }
                object(&bytes)?;
                Decision::Modify(Bytes::from(bytes))
            }
            WitDecision::Modify(Patch::Other(what)) => {
                return Err(PluginFailure::Invalid(format!("an unknown change: {}", word(&what))));
            }
            WitDecision::RequireApproval(text) => Decision::RequireApproval(sentence(&text)),
            WitDecision::Other(what) => Decision::Deny { code: "other".into(), message: sentence(&what) },
        })
    }
}

/// Checks what takes the place of an object.
fn object(bytes: &[u8]) -> Result<(), PluginFailure> {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(PluginFailure::Invalid("what it puts in place is no JSON object".into())),
    }
}

/// A text for people: one line, not endless.
fn sentence(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// A word for programs.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(64).collect()
}

impl From<WitError> for PluginError {
    fn from(error: WitError) -> Self {
        match error {
            WitError::InvalidConfig(why) => Self::InvalidConfig(sentence(&why)),
            WitError::Denied(denial) => Self::Denied { code: word(&denial.code), message: sentence(&denial.message) },
            WitError::NotFound => Self::NotFound,
            WitError::Expired => Self::Expired,
            WitError::NeedsConsent(info) => {
                Self::NeedsConsent { url: sentence(&info.url), message: sentence(&info.message) }
            }
            WitError::Upstream(e) => Self::Upstream { status: e.status, message: sentence(&e.message) },
            WitError::Timeout => Self::Timeout,
            WitError::Unavailable(why) => Self::Unavailable(sentence(&why)),
            WitError::Other(why) => Self::Other(sentence(&why)),
        }
    }
}
