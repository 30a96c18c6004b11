//! What a store holds: the facts that are lent for one call, the plugin's own handles, the limits.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::HeaderName;
use portcullis_model::{CallerToken, Name, Principal, spec::Grants};
use portcullis_telemetry::metrics::PluginMetrics;
use serde_json::Value;
use wasmtime::{UpdateDeadline, component::Resource};

use crate::{
    answer::{Asserted, Description, Read, VerifiedToken},
    calls::Earlier,
    facts::{
        AuthRequest, CallFacts, ClientCertificate, ListKind, PromptFacts, QuestionFacts, ReadFacts, RequestFacts,
        ResultFacts, SessionFacts, TargetFacts,
    },
    imports::signing::SigningToken,
    meter::{Limiter, LogBudget, Meter, Slack, Stop},
    passthrough::Passed,
    secrets::{Allowed, Guarded, OriginPattern},
    services::{ConnectionFacts, JwtRules, OutboundResponse, Services, TokenFacts, VerifiedJwt},
    spaces::Space,
    token_request::{TokenAnswer, TokenRequest},
};

/// The most handles of its own that a guest may have at once.
pub(crate) const MAX_HANDLES: usize = 64;
/// The most bytes of a guest's stdout and stderr that are kept per call.
const MAX_STDIO: usize = 4096;
/// The most lines that one call may log.
const MAX_LOG_LINES: u32 = 32;
/// The most entries of each sort in an answer that the guest fills.
pub(crate) const MAX_FILLED: usize = 64;
/// The most bytes of one text in an answer that the guest fills.
pub(crate) const MAX_TEXT: usize = 8 << 10;

/// What does not change from call to call.
pub(crate) struct Fixed {
    pub(crate) name: String,
    pub(crate) tenant: Name,
    pub(crate) config: String,
    pub(crate) grants: Grants,
    pub(crate) http_origins: Vec<OriginPattern>,
    pub(crate) secrets: BTreeMap<String, Guarded>,
    pub(crate) services: Services,
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) log_budget: LogBudget,
    /// What its calls may use beyond their limit.
    pub(crate) slack: Slack,
    /// What it remembers from call to call.
    pub(crate) space: Arc<Space>,
    /// The most bytes that an answer may have.
    pub(crate) max_output: usize,
    /// Whether it was told in the log that figures are dropped.
    pub(crate) figures_dropped: AtomicBool,
}

impl Fixed {
    /// Whether this is the first time that a figure is dropped.
    pub(crate) fn figures_dropped(&self) -> bool {
        !self.figures_dropped.swap(true, Relaxed)
    }
}

/// A thing that a guest holds a handle to.
pub(crate) enum Handle {
    Secret(Guarded),
    Token(TokenFacts),
    Certificate(Arc<ClientCertificate>),
    Rules(JwtRules),
    Verified(Box<VerifiedJwt>),
    Response(Box<Answered>),
    Listing(Vec<ConnectionFacts>),
    /// None is a token of ours, which nobody gets.
    CallerToken(Option<Arc<CallerToken>>),
    TokenRequest(Box<TokenRequest>),
    TokenAnswer(Box<TokenAnswer>),
    /// The plugin's own space.
    Bucket,
    Signing(Box<SigningToken>),
}

/// The answer to a guest's request.
pub(crate) struct Answered {
    pub(crate) response: OutboundResponse,
    /// The request carried a secret that the plugin may not read: so it may not read what comes back either.
    pub(crate) hidden: bool,
    pub(crate) json: Option<Option<Value>>,
    pub(crate) allowed: Allowed,
    pub(crate) label: String,
}

/// What is lent for one call.
pub(crate) enum Lent {
    Nothing,
    Policy {
        principal: Arc<Principal>,
        request: RequestFacts,
        what: What,
        /// Whether the guest has patched what it is asked about.
        patched: bool,
    },
    Resolve(Box<Resolving>),
    Authenticate(Box<Authenticating>),
    Describe(Box<Description>),
}

/// What a policy is asked about.
pub(crate) enum What {
    Call(CallFacts),
    Result(CallFacts, ResultFacts),
    Read(ReadFacts),
    Prompt(PromptFacts),
    Question(QuestionFacts),
    List(ListColumns),
    Session(SessionFacts),
}

/// A list as `policy/lists` shows it.
pub(crate) struct ListColumns {
    pub(crate) kind: ListKind,
    pub(crate) servers: Vec<String>,
    pub(crate) server_of: Vec<u32>,
    pub(crate) names: String,
    pub(crate) ends: Vec<u32>,
}

/// A credential being resolved.
pub(crate) struct Resolving {
    pub(crate) principal: Arc<Principal>,
    pub(crate) request: RequestFacts,
    pub(crate) target: TargetFacts,
    /// The answer that is followed up, where one is.
    pub(crate) earlier: Option<Earlier>,
    pub(crate) draft: ResolutionDraft,
}

/// What a resolver has filled in so far.
#[derive(Default)]
pub(crate) struct ResolutionDraft {
    pub(crate) chosen: Option<Chosen>,
    pub(crate) headers: Vec<(HeaderName, Guarded)>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) vary: Vec<String>,
    pub(crate) passed: Option<Passed>,
    pub(crate) kept: Vec<(String, Guarded)>,
    pub(crate) invalid: Option<String>,
}

/// A resolver's choice, the last one said.
pub(crate) enum Chosen {
    Use(String),
    None,
    Missing(String),
}

/// A caller being authenticated.
pub(crate) struct Authenticating {
    pub(crate) request: AuthRequest,
    pub(crate) draft: IdentityDraft,
}

/// What a provider has filled in so far.
#[derive(Default)]
pub(crate) struct IdentityDraft {
    pub(crate) who: Option<Asserted>,
    /// What was verified of the request's own token so far, by issuer.
    pub(crate) verified: Vec<VerifiedToken>,
    pub(crate) display_name: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) roles: Vec<Name>,
    pub(crate) claims: Vec<(String, Value)>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) vary: Vec<String>,
    pub(crate) invalid: Option<String>,
}

/// The data of a store.
pub(crate) struct State {
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) lent: Lent,
    /// The guest gets ready: what it does now is done for every instance, so nothing may be handed out.
    pub(crate) preparing: bool,
    handles: Vec<Option<Handle>>,
    live: usize,
    pub(crate) reads: Vec<Read>,
    pub(crate) meter: Meter,
    pub(crate) limiter: Limiter,
    stdio: Vec<u8>,
    log_lines: u32,
    /// How many random numbers were drawn, where those repeat.
    pub(crate) drawn: u64,
}

impl State {
    pub(crate) fn new(fixed: Arc<Fixed>, meter: Meter, limiter: Limiter) -> Self {
        Self {
            fixed,
            lent: Lent::Nothing,
            preparing: false,
            handles: Vec::new(),
            live: 0,
            reads: Vec::new(),
            meter,
            limiter,
            stdio: Vec::new(),
            log_lines: 0,
            drawn: 0,
        }
    }

    /// One tick of the engine's epoch has passed while the guest ran.
    pub(crate) fn tick(&mut self) -> UpdateDeadline {
        self.meter.tick(&self.fixed.slack)
    }

    /// Stops the guest for doing what no plugin may.
    pub(crate) fn forbid<T>(&mut self, what: &'static str) -> wasmtime::Result<T> {
        self.meter.stop = Some(Stop::Forbidden(what));
        Err(wasmtime::Error::msg(what))
    }

    /// Gives the guest a handle of its own.
    pub(crate) fn own<T: 'static>(&mut self, handle: Handle) -> wasmtime::Result<Resource<T>> {
        if self.preparing {
            return self.forbid("a handle while getting ready");
        }
        if self.live >= MAX_HANDLES {
            return self.forbid("more than 64 handles at once");
        }
        self.live += 1;
        let at = match self.handles.iter().position(Option::is_none) {
            Some(at) => {
                self.handles[at] = Some(handle);
                at
            }
            None => {
                self.handles.push(Some(handle));
                self.handles.len() - 1
            }
        };
        Ok(Resource::new_own(at as u32))
    }

    /// The handle that a guest names. wasmtime has checked that it holds one of this type.
    pub(crate) fn handle<T: 'static>(&mut self, resource: &Resource<T>) -> wasmtime::Result<&mut Handle> {
        match self.handles.get_mut(resource.rep() as usize).and_then(Option::as_mut) {
            Some(handle) => Ok(handle),
            None => Err(wasmtime::Error::msg("no such handle")),
        }
    }

    /// Drops a handle that the guest owned.
    pub(crate) fn disown<T: 'static>(&mut self, resource: &Resource<T>) -> wasmtime::Result<()> {
        if self.handles.get_mut(resource.rep() as usize).and_then(Option::take).is_some() {
            self.live -= 1;
        }
        Ok(())
    }

    /// Takes over what a guest gives away.
    pub(crate) fn take<T: 'static>(&mut self, resource: &Resource<T>) -> Option<Handle> {
        let taken = self.handles.get_mut(resource.rep() as usize).and_then(Option::take);
        if taken.is_some() {
            self.live -= 1;
        }
        taken
    }

    pub(crate) fn handles_left(&self) -> usize {
        self.live
    }

    pub(crate) fn secret<T: 'static>(&mut self, resource: &Resource<T>) -> wasmtime::Result<&Guarded> {
        match self.handle(resource)? {
            Handle::Secret(secret) => Ok(secret),
            _ => Err(wasmtime::Error::msg("not a secret")),
        }
    }

    /// Remembers that a fact was read which a cache key may lack.
    pub(crate) fn read(&mut self, what: impl FnOnce() -> Read) {
        if matches!(&self.lent, Lent::Policy { what, .. } if !matches!(what, What::Session(_))) {
            return; // Decisions are not cached.
        }
        let read = what();
        if !self.reads.contains(&read) {
            self.reads.push(read);
        }
    }

    /// Counts a use of what was not granted, and tells of it as long as the plugin may log: it may ask again and again. `what` is a
    /// fixed word of metrics.
    pub(crate) fn denied(&self, what: &'static str) {
        self.fixed.metrics.capability_denied(what);
        if self.fixed.log_budget.take().is_err() {
            return;
        }
        tracing::warn!(plugin = %self.fixed.name, tenant = %self.fixed.tenant, what, "a plugin was denied what it has no grant for");
    }

    pub(crate) fn print(&mut self, bytes: &[u8]) {
        let room = MAX_STDIO.saturating_sub(self.stdio.len());
        self.stdio.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Whether the guest may log one more line.
    pub(crate) fn may_log(&mut self) -> bool {
        self.log_lines += 1;
        let verdict = if self.log_lines > MAX_LOG_LINES { Err(false) } else { self.fixed.log_budget.take() };
        if verdict == Err(true) {
            tracing::warn!(plugin = %self.fixed.name, tenant = %self.fixed.tenant, "a plugin logs too much; lines are dropped");
        }
        verdict.is_ok()
    }

    /// The call is over: nothing of it stays behind.
    pub(crate) fn end(&mut self) -> Lent {
        if !self.stdio.is_empty() {
            let text = String::from_utf8_lossy(&self.stdio).into_owned();
            for line in text.lines().filter(|l| !l.trim().is_empty()) {
                if self.may_log() {
                    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                    tracing::info!(plugin = %self.fixed.name, tenant = %self.fixed.tenant, stdio = line.as_str(), "a plugin printed");
                }
            }
            self.stdio.clear();
        }
        self.log_lines = 0;
        std::mem::replace(&mut self.lent, Lent::Nothing)
    }
}
