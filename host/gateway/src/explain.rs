//! What a call would meet, phase by phase, without making it: for `portcullis explain`.
//!
//! Policies are asked for real, with the same facts, because nobody else can say what they would say. No rate is taken, no account is
//! fetched or renewed, nothing goes to a server, and there is no record of a call.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderMap;
use portcullis_credential::explain::Choice;
use portcullis_model::{
    Fault, Name, Principal, Side,
    explain::{Explanation, Step, Stop, changes},
    spec::Failure,
};
use portcullis_plugin::{Attributes, CallFacts, Decision, Item, ListKind, Outcome, PluginFailure, RequestFacts};
use portcullis_protocol::{ParseLimits, strict};
use serde_json::Value;

use crate::{
    catalogue::Kind,
    gateways::Gateways,
    judge,
    policy::Policy,
    view::{Assigned, Reach, STAND_IN, View},
};

/// How long the policies may take together.
const PATIENCE: Duration = Duration::from_secs(10);
/// What explanations go by in logs.
const REQUEST: &str = "explain";

/// What is asked.
#[derive(Debug)]
pub struct Wanted {
    /// The tenant.
    pub tenant: Name,
    /// The gateway.
    pub gateway: Name,
    /// The tool as clients name it; none for the list of tools.
    pub tool: Option<String>,
    /// Who would call.
    pub principal: Arc<Principal>,
    /// The arguments, as JSON.
    pub arguments: String,
}

/// An explanation that grows.
struct Told {
    steps: Vec<Step>,
    stopped: Option<Stop>,
    executed_as: Option<String>,
    connection: Option<Name>,
    server: Option<Name>,
}

impl Told {
    fn step(&mut self, phase: &str, name: impl Into<String>, says: impl Into<String>, detail: impl Into<String>) {
        self.steps.push(Step::new(phase, name, says, detail));
    }

    /// Notes what ends the call. The first that does so counts.
    fn stop(&mut self, phase: &str, fault: &Fault) {
        self.stopped.get_or_insert_with(|| Stop {
            phase: phase.to_owned(),
            code: fault.code.to_owned(),
            message: fault.message.to_string(),
            next: fault.next.as_deref().map(str::to_owned),
        });
    }
}

impl Gateways {
    /// What such a call, or list, would meet; none where there is no such gateway.
    pub async fn explain(&self, wanted: Wanted) -> Option<Explanation> {
        let snapshot = self.snapshot.load_full();
        let view = Arc::clone(snapshot.get(wanted.tenant.as_str(), wanted.gateway.as_str())?);
        let mut told = Told { steps: Vec::new(), stopped: None, executed_as: None, connection: None, server: None };
        self.enter(&view, &wanted, &mut told);
        match &wanted.tool {
            _ if told.stopped.is_some() => {}
            Some(tool) => self.call(&view, &wanted, tool, &mut told).await,
            None => self.listed(&view, &wanted, &mut told).await,
        }
        Some(Explanation {
            gateway: wanted.gateway,
            tool: wanted.tool,
            caller: wanted.principal.subject_text.to_string(),
            runs: told.stopped.is_none(),
            stopped: told.stopped,
            executed_as: told.executed_as,
            connection: told.connection,
            server: told.server,
            steps: told.steps,
        })
    }

    /// Why a server could not be asked what it offers the last time that somebody did, if so.
    pub fn unreachable(&self, tenant: &Name, server: &Name) -> Option<String> {
        let snapshot = self.snapshot.load();
        let views = snapshot.all().filter(|view| view.tenant == *tenant);
        let mut places = views.flat_map(|view| {
            let at = view.servers.iter().position(|assigned| assigned.server == *server);
            at.and_then(|at| view.any_entry(at, &self.catalogue))
        });
        places.find_map(|entry| entry.problem(Kind::Tools)).map(|why| why.to_string())
    }

    /// Phases 3 and 5, as far as they are the gateway's.
    fn enter(&self, view: &View, wanted: &Wanted, told: &mut Told) {
        for provider in &view.providers {
            told.step("authenticate", provider.name(), "not asked", "who the caller is was given");
        }
        if view.anonymous {
            told.step("authenticate", "anonymous", "lets in", "also whoever sends no credential");
        }
        let names = |all: &[Name]| match all {
            [] => "none".to_owned(),
            all => all.iter().map(Name::as_str).collect::<Vec<_>>().join(", "),
        };
        let principal = &wanted.principal;
        let detail = format!("teams: {}; roles: {}", names(&principal.teams), names(&principal.roles));
        told.step("authenticate", principal.subject_text.as_ref(), "taken for granted", detail);
        if let Some(fault) = &view.broken {
            told.step("authenticate", view.name.as_str(), "not serving", fault.message.as_ref());
            told.stop("authenticate", fault);
        }
        if view.rate.is_some() {
            told.step("admit", "ratePerPrincipal", "not taken", "a call takes one of the caller's, this does not");
        }
    }

    async fn call(&self, view: &Arc<View>, wanted: &Wanted, tool: &str, told: &mut Told) {
        let unknown = || {
            Fault::new(Side::Caller, "unknown-tool", "there is no such tool at this gateway")
                .next("List the tools again: the list may have changed")
        };
        let Some(route) = view.route(tool, &self.catalogue).filter(|route| *route.name != *STAND_IN) else {
            told.step("route", tool, "nowhere", "no server of the gateway has a tool that is shown so");
            return told.stop("route", &unknown());
        };
        let assigned = &view.servers[route.server];
        let own = &*route.name;
        told.server = Some(assigned.server.clone());
        let stands_in = assigned.stands_in(own, view, &self.catalogue);
        let known = view.any_entry(route.server, &self.catalogue).and_then(|entry| entry.has(Kind::Tools, own));
        let detail = match known {
            _ if stands_in => "stands in place of the server's tools until an account is connected".to_owned(),
            Some(true) => format!("its tool {own}"),
            Some(false) => format!("it has no tool {own}"),
            None => format!("its tool {own}, if it has one: its list is not known"),
        };
        let says = match known {
            Some(false) if !stands_in => "no such tool",
            Some(true) => "has it",
            _ => "leads there",
        };
        told.step("route", assigned.server.as_str(), says, detail);
        if known == Some(false) && !stands_in && assigned.plan.is_none() {
            told.stop("route", &unknown());
        }
        let scopes = view.scopes.needed(&assigned.server, own);
        if !scopes.is_empty() {
            told.step("admit", "oauth.scopes", "needed", format!("of a client's token: {}", scopes.join(" ")));
        }
        let judged = if stands_in { STAND_IN } else { own };
        self.decide(view, wanted, assigned, (tool, own, judged), told).await;
        match assigned.plan_for(own) {
            None => told.step("resolve", "no credential", "needs none", "the server's calls carry none"),
            Some(plan) => {
                let headers = Arc::new(HeaderMap::new());
                let choice = self.credentials.explain(plan, &wanted.principal, &headers).await;
                chosen(&choice, told);
            }
        }
        if told.stopped.is_none() {
            let (place, how) = match &assigned.reach {
                Reach::Http(endpoint) => (endpoint.url.origin().ascii_serialization(), "over HTTP"),
                Reach::Process(process) => (process.command.clone(), "as a process of the gateway's"),
                Reach::Component(..) => (assigned.server.to_string(), "as a component within the gateway"),
                Reach::Pods(pods, _) => (pods.image.clone(), "over HTTP, in pods of the cluster"),
            };
            let says = if stands_in { "not asked" } else { "would be called" };
            let timeout = assigned.traffic.timeout.get().as_secs();
            told.step("call", assigned.server.as_str(), says, format!("{place}, {how}; {timeout} s at most"));
        }
        let policies = view.policies.about(&wanted.principal, Kind::Tools, assigned.server.as_str(), judged);
        for policy in policies.filter(|p| p.hooks().tool_result) {
            told.step("review", policy.name(), "not asked", "it sees the result before the caller does");
        }
    }

    /// Phase 6.
    async fn decide(
        &self,
        view: &View,
        wanted: &Wanted,
        assigned: &Assigned,
        (exposed, own, judged): (&str, &str, &str),
        told: &mut Told,
    ) {
        let arguments = match given(&wanted.arguments).and_then(|given| {
            let pinned = assigned.pinned.apply(own, given);
            pinned.map_err(|what| Fault::new(Side::Caller, "invalid-params", what))
        }) {
            Ok(arguments) => arguments.into_owned(),
            Err(fault) => {
                told.step("decide", "arguments", "refused", fault.message.as_ref());
                return told.stop("decide", &fault);
            }
        };
        if arguments != wanted.arguments {
            let changes = changes(&parsed(&wanted.arguments), &parsed(&arguments));
            let step = Step::new("decide", "pinnedArguments", "modify", "whatever the caller sends");
            told.steps.push(Step { changes, ..step });
        }
        let request = self.asking(view);
        let mut call = CallFacts {
            server: assigned.server.clone(),
            tool: Arc::from(judged),
            exposed_tool: Arc::from(exposed),
            arguments: Bytes::from(arguments),
        };
        for policy in view.policies.iter().filter(|p| p.hooks().tool_call) {
            let name = policy.name();
            if !policy.applies(&wanted.principal, Kind::Tools, assigned.server.as_str(), judged) {
                told.step("decide", name, "not asked", "its conditions do not fit");
                continue;
            }
            if told.stopped.is_some() {
                told.step("decide", name, "not asked", "the call ended before");
                continue;
            }
            // The version itself: nothing is noted of what nobody called.
            let version = policy.version_for(&wanted.principal);
            if !policy.enforces() {
                let would = match version.decide(&wanted.principal, &request.apart(), &call).await {
                    Ok(Decision::Allow) => "would allow".to_owned(),
                    Ok(Decision::Deny { code, .. }) => format!("would deny ({code})"),
                    Ok(Decision::Modify(_)) => "would modify the arguments".to_owned(),
                    Ok(Decision::RequireApproval(_)) => "would require approval".to_owned(),
                    Err(why) => format!("would fail: {why}"),
                };
                told.step("decide", name, "only watches", would);
                continue;
            }
            let decision = version.decide(&wanted.principal, &request, &call).await;
            self.said(policy, decision, assigned, own, &mut call, told);
        }
        if told.stopped.as_ref().is_some_and(|stop| stop.phase == "decide") {
            let item = [Item { server: assigned.server.as_str(), name: judged }];
            let policies = view.policies.enforced(&wanted.principal, Kind::Tools, assigned.server.as_str(), judged);
            for policy in policies.filter(|p| p.hooks().list_filter) {
                let version = policy.version_for(&wanted.principal);
                let kept = version.filter(&wanted.principal, &request, ListKind::Tools, &item).await;
                if kept.is_ok_and(|kept| kept.is_empty()) {
                    let detail = "the caller does not see the tool, and is told that there is none";
                    told.step("decide", policy.name(), "hides it", detail);
                }
            }
        }
    }

    fn said(
        &self,
        policy: &Policy,
        decision: Result<Decision, PluginFailure>,
        assigned: &Assigned,
        own: &str,
        call: &mut CallFacts,
        told: &mut Told,
    ) {
        let name = policy.name();
        let failed = decision.as_ref().err().map(ToString::to_string);
        let denial = match &decision {
            Ok(Decision::Deny { code, .. }) => Some(code.clone()),
            _ => None,
        };
        match (judge::meaning_for(REQUEST, policy, decision), failed) {
            (Ok(None), Some(why)) => {
                let word = if policy.on_error == Failure::Allow { "allow" } else { "deny" };
                told.step("decide", name, "failed", format!("{why}; onError: {word}"));
            }
            (Ok(None), None) => told.step("decide", name, "allow", ""),
            (Ok(Some(new)), _) => match assigned.pinned.apply_again(own, new) {
                Ok(new) => {
                    let changes = changes(&parsed_bytes(&call.arguments), &parsed_bytes(&new));
                    call.arguments = new;
                    told.steps.push(Step { changes, ..Step::new("decide", name, "modify", "") });
                }
                Err(what) => {
                    let fault = Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with invalid arguments");
                    told.step("decide", name, "invalid", what);
                    told.stop("decide", &fault);
                }
            },
            (Err(fault), failed) => {
                let says = match fault.code {
                    "approval-required" => "require approval",
                    _ if failed.is_some() => "failed",
                    _ => "deny",
                };
                let code = denial.map(|code| format!(" ({code})")).unwrap_or_default();
                told.step("decide", name, says, format!("{}{code}", fault.message));
                told.stop("decide", &fault);
            }
        }
    }

    /// What of the list of tools each policy leaves to the caller.
    async fn listed(&self, view: &View, wanted: &Wanted, told: &mut Told) {
        if view.servers.is_empty() {
            told.step("route", view.name.as_str(), "no server", "the gateway names none under `servers`");
        }
        let request = self.asking(view);
        for (at, assigned) in view.servers.iter().enumerate() {
            let server = assigned.server.as_str();
            if let Some(plan) = &assigned.plan {
                let headers = Arc::new(HeaderMap::new());
                let choice = self.credentials.explain(plan, &wanted.principal, &headers).await;
                if let Some(Err(fault)) = &choice.chosen {
                    told.step("resolve", server, "no account", fault.message.as_ref());
                }
            }
            let entry = view.any_entry(at, &self.catalogue);
            let listing = entry.as_ref().and_then(|entry| entry.listing(Kind::Tools));
            let names: Vec<String> = match &listing {
                Some(listing) => {
                    let shown = listing.items.iter().filter(|item| view.exposures[at].shows(Kind::Tools, &item.key));
                    shown.map(|item| item.key.to_string()).collect()
                }
                None => vec![STAND_IN.to_owned()],
            };
            let why = entry.as_ref().and_then(|entry| entry.problem(Kind::Tools));
            match (&listing, why) {
                (Some(listing), why) => {
                    let hidden = listing.items.len() - names.len();
                    let mut detail =
                        if hidden > 0 { format!("{hidden} more are not shown here") } else { String::new() };
                    if let Some(why) = why {
                        detail = format!("{detail} as known before: {why}").trim().to_owned();
                    }
                    told.step("route", server, format!("{} tools", names.len()), detail);
                }
                (None, Some(why)) => told.step("route", server, "not known", why.as_str()),
                (None, None) => {
                    told.step("route", server, "not known", "nobody has listed it yet, or no account is connected")
                }
            }
            for policy in view.policies.iter().filter(|p| p.enforces() && p.hooks().list_filter) {
                let applies = |name: &&String| policy.applies(&wanted.principal, Kind::Tools, server, name);
                let items: Vec<Item<'_>> = names.iter().filter(applies).map(|name| Item { server, name }).collect();
                if items.is_empty() && !names.is_empty() {
                    continue;
                }
                let version = policy.version_for(&wanted.principal);
                let kept = version.filter(&wanted.principal, &request, ListKind::Tools, &items).await;
                match kept {
                    Ok(kept) => {
                        let says =
                            if kept.is_empty() { "hides all".to_owned() } else { format!("leaves {}", kept.len()) };
                        told.step("decide", policy.name(), says, format!("of {server}"));
                    }
                    Err(why) => told.step("decide", policy.name(), "failed", why.to_string()),
                }
            }
        }
    }

    fn asking(&self, view: &View) -> RequestFacts {
        RequestFacts {
            gateway: view.name.clone(),
            request_id: Arc::from(REQUEST),
            headers: Arc::new(HeaderMap::new()),
            deadline: Instant::now() + PATIENCE,
            attributes: Attributes::default(),
        }
    }
}

/// Phase 7: which connections there are, in which place, and which one it is.
fn chosen(choice: &Choice, told: &mut Told) {
    for one in &choice.considered {
        let says = match (&one.place, one.but.is_empty()) {
            (Some(place), true) => (*place).to_owned(),
            (Some(place), false) => format!("{place}, but"),
            (None, _) => "does not serve".to_owned(),
        };
        told.step(
            "resolve",
            one.name.as_str(),
            says,
            format!("of {}. {}", one.owner, one.but.join("; ")).trim().trim_end_matches('.'),
        );
    }
    let named = choice.named.as_ref().map(|name| format!("; the assignment names {name}")).unwrap_or_default();
    match &choice.chosen {
        None => {
            let detail = format!("it would ask others in the caller's name, which is not done here{named}");
            told.step("resolve", choice.mode.as_str(), "not asked", detail);
        }
        Some(Ok(Outcome::Use { connection })) => {
            let owner = choice.considered.iter().find(|one| one.name == *connection).map(|one| one.owner.to_string());
            told.step("resolve", choice.mode.as_str(), "chooses", format!("{connection}{named}"));
            (told.connection, told.executed_as) = (Some(connection.clone()), owner);
        }
        Some(Ok(Outcome::Headers)) => told.step("resolve", choice.mode.as_str(), "gives headers of its own", named),
        Some(Ok(Outcome::None | Outcome::Missing(_))) => {
            told.step("resolve", choice.mode.as_str(), "carries none", named);
        }
        Some(Err(fault)) => {
            told.step("resolve", choice.mode.as_str(), "refuses", format!("{}{named}", fault.message));
            told.stop("resolve", fault);
        }
    }
}

/// Arguments as a call may bring them where somebody decides by them.
fn given(arguments: &str) -> Result<&str, Fault> {
    let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
    strict::check(arguments.as_bytes(), &limits).map_err(|e| e.to_fault())?;
    if !arguments.trim_start().starts_with('{') {
        return Err(Fault::new(Side::Caller, "invalid-params", "arguments must be an object"));
    }
    Ok(arguments)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn parsed_bytes(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}
