//! The hooks, one function each: facts are lent, the guest is called, its answer is checked.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_model::Principal;
use wasmtime::{
    Store,
    component::{ComponentNamedList, ComponentType, Instance, Lift, Lower, Resource},
};

use crate::{
    answer::{AssertedPrincipal, Decision, Outcome, Resolution, Verdict},
    bindings::{
        exports::portcullis::auth::provider,
        portcullis::{
            auth::{identity::Identity, request::Request},
            credential::{resolution::Resolution as WitResolution, target::Target},
            policy::{
                decision::{Decision as WitDecision, Patch},
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
    facts::{AuthRequest, CallFacts, Item, RequestFacts, ResultFacts, TargetFacts},
    plugin::Plugin,
    state::{Authenticating, Chosen, IdentityDraft, Lent, ResolutionDraft, Resolving, State},
};

/// What is lent has no entry in any table: the guest's handle names the one thing of its type that the store holds.
fn lend<T: 'static>() -> Resource<T> {
    Resource::new_borrow(0)
}

type Decide = (Resource<Caller>, Resource<Call>);
type Review = (Resource<Caller>, Resource<Call>, Resource<WitOutcome>);
type Filter<'a> = (Resource<Caller>, &'a str, &'a [Entry<'a>]);
/// An item of a list as it is lent: `list-filter`'s record, without copies.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Entry<'a> {
    server: &'a str,
    name: &'a str,
}

type Resolve = (Resource<Caller>, Resource<Target>, Resource<WitResolution>);
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
    let exports = &plugin.component().exports;
    one::<Decide, WitDecision>(instance, store, exports.tool_call.as_ref(), component::TOOL_CALL.0)?;
    one::<Review, WitDecision>(instance, store, exports.tool_result.as_ref(), component::TOOL_RESULT.0)?;
    one::<Filter<'_>, Vec<u32>>(instance, store, exports.list_filter.as_ref(), component::LIST_FILTER.0)?;
    one::<Resolve, ()>(instance, store, exports.resolver.as_ref(), component::RESOLVER.0)?;
    one::<Authenticate, provider::Outcome>(instance, store, exports.provider.as_ref(), component::PROVIDER.0)
}

/// CPU time that a list filter gets for each item beside its limit, and for all items together.
const PER_ITEM: Duration = Duration::from_micros(5);
const MOST_FOR_ITEMS: Duration = Duration::from_millis(250);

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
            let lent = Lent::Policy {
                principal: Arc::clone(principal),
                request: request.clone(),
                call: Some(call.clone()),
                outcome: None,
            };
            let index = self.component().exports.tool_call.as_ref();
            let (decision, _) = self.run::<Decide, WitDecision>(index, lent, (lend(), lend())).await?;
            self.checked(decision)
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
            let lent = Lent::Policy {
                principal: Arc::clone(principal),
                request: request.clone(),
                call: Some(call.clone()),
                outcome: Some(outcome.clone()),
            };
            let index = self.component().exports.tool_result.as_ref();
            let (decision, _) = self.run::<Review, WitDecision>(index, lent, (lend(), lend(), lend())).await?;
            self.checked(decision)
        })
        .await
    }

    /// Asks which entries of a list the caller may see: positions, ascending. `kind` is `tools`, `resources`, `templates` or `prompts`.
    ///
    /// # Errors
    /// Why there is no answer; positions that are not ascending or not in the list are one reason.
    pub async fn filter(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        kind: &str,
        items: &[Item<'_>],
    ) -> Result<Vec<u32>, PluginFailure> {
        self.counted("list-filter", async {
            let lent =
                Lent::Policy { principal: Arc::clone(principal), request: request.clone(), call: None, outcome: None };
            let index = self.component().exports.list_filter.as_ref();
            let entries: Vec<_> = items.iter().map(|i| Entry { server: i.server, name: i.name }).collect();
            // One call for the whole list, so its time grows with the list; copying an item into the guest and looking at
            // it takes about half a microsecond.
            let more = PER_ITEM.saturating_mul(u32::try_from(items.len()).unwrap_or(u32::MAX)).min(MOST_FOR_ITEMS);
            let (kept, _) = self.run_with::<Filter<'_>, Vec<u32>>(index, lent, (lend(), kind, &entries), more).await?;
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
            let lent = Lent::Resolve(Box::new(Resolving {
                principal: Arc::clone(principal),
                request: request.clone(),
                target: target.clone(),
                draft: ResolutionDraft::default(),
            }));
            let index = self.component().exports.resolver.as_ref();
            let ((), left) = self.run::<Resolve, ()>(index, lent, (lend(), lend(), lend())).await?;
            let Lent::Resolve(resolving) = left.lent else {
                return Err(PluginFailure::Invalid("no answer".into()));
            };
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
            let index = self.component().exports.provider.as_ref();
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
                    let principal = AssertedPrincipal {
                        who,
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

    fn checked(&self, decision: WitDecision) -> Result<Decision, PluginFailure> {
        Ok(match decision {
            WitDecision::Allow => Decision::Allow,
            WitDecision::Deny(denial) => {
                Decision::Deny { code: word(&denial.code), message: sentence(&denial.message) }
            }
            WitDecision::Modify(Patch::Arguments(bytes)) => {
                if bytes.len() > self.limits.output.as_usize() {
                    return Err(PluginFailure::Output);
                }
                if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).is_err() {
                    return Err(PluginFailure::Invalid("the new arguments are no JSON object".into()));
                }
                Decision::ModifyArguments(Bytes::from(bytes))
            }
            WitDecision::Modify(Patch::Other(what)) => {
                return Err(PluginFailure::Invalid(format!("an unknown change: {}", word(&what))));
            }
            WitDecision::RequireApproval(text) => Decision::RequireApproval(sentence(&text)),
            WitDecision::Other(what) => Decision::Deny { code: "other".into(), message: sentence(&what) },
        })
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
