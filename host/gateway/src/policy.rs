//! A policy at its place in a gateway: what it is asked about, and whether its answer counts.
//!
//! Compiled once into the snapshot. A place that does not apply to a request is passed over before anything is made for it; one
//! that only watches is asked with a copy ([`crate::watch`]).

use std::sync::Arc;

use globset::{Glob, GlobSet, GlobSetBuilder};
use portcullis_model::{
    Name, Principal,
    spec::{Failure, Mode, When, Whom},
};
use portcullis_plugin::{
    CallFacts, Decision, Hooks, Item, ListKind, Placed, Plugin, PluginFailure, PromptFacts, QuestionFacts, Read,
    ReadFacts, RequestFacts, ResultFacts, SessionFacts,
};
use portcullis_telemetry::Audit;

use crate::{
    catalogue::Kind,
    watch::{About, Watch},
};

/// The policies of a gateway, in order.
#[derive(Default)]
pub struct Policies(Vec<Policy>);

/// A policy at its place.
pub struct Policy {
    placed: Placed,
    /// What its failure means here.
    pub on_error: Failure,
    watches: Option<Arc<Watch>>,
    scope: Option<Scope>,
}

/// What a policy is asked about.
#[derive(Debug)]
struct Scope {
    servers: Option<GlobSet>,
    tools: Option<GlobSet>,
    principals: Option<Vec<Whom>>,
}

impl Policies {
    /// In the order in which they are asked.
    pub fn new(policies: Vec<Policy>) -> Self {
        Self(policies)
    }

    /// Whether anybody's answer counts: those that only watch change nothing.
    pub fn enforce(&self) -> bool {
        self.0.iter().any(Policy::enforces)
    }

    /// Those whose answer counts, asked about one thing of a server. `name` is its own name, or its URI.
    pub fn enforced<'p>(
        &'p self,
        principal: &'p Principal,
        kind: Kind,
        server: &'p str,
        name: &'p str,
    ) -> impl Iterator<Item = &'p Policy> {
        self.about(principal, kind, server, name).filter(|policy| policy.enforces())
    }

    /// Those that are asked about one thing of a server.
    pub fn about<'p>(
        &'p self,
        principal: &'p Principal,
        kind: Kind,
        server: &'p str,
        name: &'p str,
    ) -> impl Iterator<Item = &'p Policy> {
        self.0.iter().filter(move |policy| policy.applies(principal, kind, server, name))
    }

    /// Those that are asked about what a server asks of a client, in the call of a tool or outside of any.
    pub fn about_questions<'p>(
        &'p self,
        principal: &'p Principal,
        server: &'p str,
        tool: Option<&'p str>,
    ) -> impl Iterator<Item = &'p Policy> {
        let applies = move |policy: &&Policy| match (&policy.scope, tool) {
            (None, _) => true,
            (Some(_), Some(tool)) => policy.applies(principal, Kind::Tools, server, tool),
            // Whoever wrote rules about tools meant those.
            (Some(scope), None) => scope.tools.is_none() && scope.fits(principal, server),
        };
        self.0.iter().filter(|policy| policy.hooks().server_request).filter(applies)
    }

    /// Those that are asked whether this client may come in.
    pub fn about_visits<'p>(&'p self, principal: &'p Principal) -> impl Iterator<Item = &'p Policy> {
        // Which server or tool the client will ask for is not known yet.
        let applies = |scope: &Scope| scope.servers.is_none() && scope.tools.is_none() && scope.is_for(principal);
        self.0.iter().filter(move |policy| policy.hooks().session && policy.scope.as_ref().is_none_or(applies))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.0.iter()
    }

    /// Whether anybody whose answer counts decides about this kind, or nobody has to. A policy that is asked about some servers
    /// or callers only was meant to leave the rest as it is.
    pub fn decide_about(&self, kind: Kind) -> bool {
        !self.enforce() || self.0.iter().any(|policy| policy.enforces() && policy.decides_about(kind))
    }
}

impl Policy {
    /// A policy at its place; `audit` and the gateway's name are for what only watches.
    ///
    /// # Errors
    /// In words, for a condition that is none.
    pub fn new(
        placed: Placed,
        on_error: Failure,
        mode: Mode,
        when: Option<&When>,
        (audit, gateway): (&Arc<Audit>, &Name),
    ) -> Result<Self, String> {
        let watch = || Arc::new(Watch::new(placed.clone(), Arc::clone(audit), gateway.clone()));
        let watches = (mode == Mode::Monitor).then(watch);
        let scope = when.map(Scope::new).transpose()?;
        let hooks = placed.plugin.hooks();
        let only_visits = hooks.session && !Hooks { session: false, ..hooks }.policy();
        if only_visits && scope.as_ref().is_some_and(|s| s.servers.is_some() || s.tools.is_some()) {
            // It would never be asked, and whoever wrote it here believes that it is.
            return Err(
                "it says who may come in, before any server or tool is named: only `principals` fits".to_owned()
            );
        }
        Ok(Self { placed, on_error, watches, scope })
    }

    /// The plugin's name.
    pub fn name(&self) -> &str {
        self.placed.plugin.name()
    }

    /// The hooks that it serves.
    pub fn hooks(&self) -> Hooks {
        self.placed.plugin.hooks()
    }

    /// The version that answers this caller. What is asked of it directly is neither compared nor noted.
    pub fn version_for(&self, principal: &Principal) -> &Arc<Plugin> {
        self.placed.of(principal)
    }

    /// Whether its answer counts.
    pub fn enforces(&self) -> bool {
        self.watches.is_none()
    }

    /// Whether it is asked about this.
    pub fn applies(&self, principal: &Principal, kind: Kind, server: &str, name: &str) -> bool {
        let Some(scope) = &self.scope else { return true };
        let named = match &scope.tools {
            None => true,
            Some(tools) => kind == Kind::Tools && tools.is_match(name),
        };
        named && scope.fits(principal, server)
    }

    /// Whether it is asked about everything that this caller may ask for.
    pub fn applies_to_all(&self) -> bool {
        self.scope.is_none()
    }

    /// Whether it decides about this kind: by its own hook, or by what it leaves in a list.
    fn decides_about(&self, kind: Kind) -> bool {
        let hooks = self.hooks();
        let own = match kind {
            Kind::Tools => hooks.tool_call,
            Kind::Prompts => hooks.prompt_get,
            Kind::Resources | Kind::Templates => hooks.resource_read,
        };
        let tools_only = self.scope.as_ref().is_some_and(|scope| scope.tools.is_some());
        (own || hooks.list_filter) && (kind == Kind::Tools || !tools_only)
    }

    /// Asks whether a call may be made.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn decide(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        call: &CallFacts,
    ) -> Result<Decision, PluginFailure> {
        let Some(watch) = &self.watches else { return self.placed.decide(principal, request, call).await };
        let (who, request, call) = (Arc::clone(principal), request.apart(), call.clone());
        let asked = watch.ask(|watch| async move {
            let answer = watch.placed.decide(&who, &request, &call).await;
            watch.noted(&who, &request, &About::tool("tool-call", &call), &answer);
        });
        Ok(asked.await)
    }

    /// Notes that a policy that only watches could not be asked: the arguments can be read in two ways, which would be refused.
    pub fn unreadable(&self, principal: &Principal, request: &RequestFacts, call: &CallFacts) {
        if let Some(watch) = &self.watches {
            watch.note(principal, request, &About::tool("tool-call", call), "deny", Some("invalid-params"));
        }
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
        let Some(watch) = &self.watches else { return self.placed.review(principal, request, call, outcome).await };
        let (who, request, call, outcome) = (Arc::clone(principal), request.apart(), call.clone(), outcome.clone());
        let asked = watch.ask(|watch| async move {
            let answer = watch.placed.review(&who, &request, &call, &outcome).await;
            watch.noted(&who, &request, &About::tool("tool-result", &call), &answer);
        });
        Ok(asked.await)
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
        let Some(watch) = &self.watches else { return self.placed.read(principal, request, read).await };
        let (who, request, read) = (Arc::clone(principal), request.apart(), read.clone());
        let asked = watch.ask(|watch| async move {
            let answer = watch.placed.read(&who, &request, &read).await;
            let about = About { hook: "resource-read", server: Some(&read.server), name: &read.exposed_uri };
            watch.noted(&who, &request, &about, &answer);
        });
        Ok(asked.await)
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
        let Some(watch) = &self.watches else { return self.placed.prompt(principal, request, prompt).await };
        let (who, request, prompt) = (Arc::clone(principal), request.apart(), prompt.clone());
        let asked = watch.ask(|watch| async move {
            let answer = watch.placed.prompt(&who, &request, &prompt).await;
            let about = About { hook: "prompt-get", server: Some(&prompt.server), name: &prompt.exposed_prompt };
            watch.noted(&who, &request, &about, &answer);
        });
        Ok(asked.await)
    }

    /// Asks whether a server's request may reach the client.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        question: &QuestionFacts,
    ) -> Result<Decision, PluginFailure> {
        let Some(watch) = &self.watches else { return self.placed.ask(principal, request, question).await };
        let (who, request, question) = (Arc::clone(principal), request.apart(), question.clone());
        let asked = watch.ask(|watch| async move {
            let answer = watch.placed.ask(&who, &request, &question).await;
            let about = About { hook: "server-request", server: Some(&question.server), name: &question.method };
            watch.noted(&who, &request, &about, &answer);
        });
        Ok(asked.await)
    }

    /// Asks whether a client may come in; beside the answer, what was read of the caller.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn open(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        session: &SessionFacts,
    ) -> Result<(Decision, Vec<Read>), PluginFailure> {
        let watched = self.apart(request);
        let answer = self.placed.open(principal, watched.as_deref().unwrap_or(request), session).await;
        let Some(watch) = &self.watches else { return answer };
        let (answer, reads) = match answer {
            Ok((decision, reads)) => (Ok(decision), reads),
            Err(failure) => (Err(failure), Vec::new()),
        };
        let about = About { hook: "session", server: None, name: "" };
        watch.noted(principal, request, &about, &answer);
        Ok((Decision::Allow, reads))
    }

    /// Asks which entries of a list the caller may see; each it has to apply to. One that only watches leaves all.
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
        let watched = self.apart(request);
        let answer = self.placed.filter(principal, watched.as_deref().unwrap_or(request), kind, items).await;
        let Some(watch) = &self.watches else { return answer };
        let about = About { hook: "list-filter", server: None, name: kind.as_str() };
        match &answer {
            // Who may not see something is no event; who is kept from using it is.
            Ok(kept) => {
                let word = if kept.len() == items.len() { "allow" } else { "modify" };
                self.placed.plugin.metrics().monitored("list-filter", word);
            }
            Err(_) => {
                let allowed = answer.map(|_| Decision::Allow);
                watch.noted(principal, request, &about, &allowed);
            }
        }
        Ok((0..u32::try_from(items.len()).unwrap_or(u32::MAX)).collect())
    }

    /// The request for a place that only watches: what it notes stays with it.
    fn apart(&self, request: &RequestFacts) -> Option<Box<RequestFacts>> {
        self.watches.is_some().then(|| Box::new(request.apart()))
    }
}

impl Scope {
    fn new(when: &When) -> Result<Self, String> {
        let globs = |patterns: &Option<Vec<String>>| -> Result<Option<GlobSet>, String> {
            let Some(patterns) = patterns else { return Ok(None) };
            let mut set = GlobSetBuilder::new();
            for pattern in patterns {
                set.add(Glob::new(pattern).map_err(|e| e.to_string())?);
            }
            set.build().map(Some).map_err(|e| e.to_string())
        };
        let whom = |text: &String| Whom::parse(text).ok_or_else(|| format!("\"{text}\" names nobody"));
        let principals = when.principals.as_ref().map(|all| all.iter().map(whom).collect()).transpose()?;
        Ok(Self { servers: globs(&when.servers)?, tools: globs(&when.tools)?, principals })
    }

    fn fits(&self, principal: &Principal, server: &str) -> bool {
        self.servers.as_ref().is_none_or(|servers| servers.is_match(server)) && self.is_for(principal)
    }

    fn is_for(&self, principal: &Principal) -> bool {
        self.principals.as_ref().is_none_or(|all| all.iter().any(|whom| whom.is(principal)))
    }
}
