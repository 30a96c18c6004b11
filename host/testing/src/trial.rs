//! Loads a component under a case, and asks what the case asks.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_model::{
    CallerToken, Name, Principal, Secret, Span, TokenOrigin,
    spec::{Grants, Isolation, Limits, SecretGrant, SecretSource},
};
use portcullis_plugin::{
    Allowed, Attributes, AuthRequest, CallFacts, ClientCertificate, Component, Decision, Earlier, GrantedSecret,
    Guarded, Host, HostOptions, Item, ListKind, LoadError, LoadPlan, OriginPattern, Plugin, PluginFailure, PromptFacts,
    PromptPurpose, QuestionFacts, ReadFacts, ReadPurpose, Rejection, RequestFacts, Resolution, ResultFacts, Services,
    Still, TargetFacts, Verdict,
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::{
    answer,
    case::{Ask, Case, FollowUp, InvalidCase, Request, Target},
    house::House,
};

/// The time where a case does not say it: 2026-01-01T00:00:00Z.
pub const NOW_MS: u64 = 1_767_225_600_000;

/// What a plugin said, as JSON; a failure of the plugin is one as well.
pub type Told = Map<String, Value>;

/// A host for trials. Compiled components are kept nowhere.
///
/// # Errors
/// Where the engine does not start.
pub fn host() -> Result<Arc<Host>, LoadError> {
    Host::new(HostOptions { pool_instances: 32, ..HostOptions::default() })
}

/// A plugin, loaded under a case.
pub struct Trial {
    plugin: Arc<Plugin>,
    house: Arc<House>,
    case: Case,
    principal: Arc<Principal>,
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// Why there is no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The plugin is not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The case makes no sense.
    #[error(transparent)]
    Case(#[from] InvalidCase),
}

fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, InvalidCase>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| InvalidCase::Value { what, problem: e.to_string() })
}

/// What is asked, as the host lends it.
pub(crate) struct Question {
    request: RequestFacts,
    pub(crate) what: What,
}

pub(crate) enum What {
    Decide(CallFacts),
    Review(CallFacts, ResultFacts),
    Read(ReadFacts),
    Prompt(PromptFacts),
    Ask(QuestionFacts),
    Filter(ListKind, Vec<(String, String)>),
    Resolve(TargetFacts),
    Refresh(TargetFacts, Earlier),
    Rejected(TargetFacts, Earlier),
    Authenticate(Box<AuthRequest>),
}

/// What a plugin said, as the host gives it.
pub(crate) enum Answer {
    Decision(Decision),
    Kept(Vec<u32>),
    Resolution(Box<Resolution>),
    Rejection(Box<Rejection>),
    Verdict(Box<Verdict>),
}

impl Trial {
    /// Loads a component under a case.
    ///
    /// # Errors
    /// Why it is not loaded, or what is wrong with the case.
    pub async fn load(
        host: &Arc<Host>,
        component: &Arc<Component>,
        case: &Case,
        isolation: Isolation,
    ) -> Result<Self, TrialError> {
        let now_ms = case.now_ms.unwrap_or(NOW_MS);
        let house = House::new(case, now_ms);
        let grants = case.grants.clone().unwrap_or_else(|| wanted(component, case));
        let origins = origins(case);
        let secret = |(name, text): (&String, &String)| {
            // As it was granted, where the case says so; otherwise wherever the case answers.
            let origins = grants.secrets.get(name).map_or_else(|| origins.clone(), |grant| grant.origins.clone());
            (name.clone(), GrantedSecret { value: Secret::new(text.clone()), origins })
        };
        let plan = LoadPlan {
            name: component.manifest().map_or_else(|| "plugin".to_owned(), |manifest| manifest.name.clone()),
            tenant: parse("caller.tenant", &case.caller.tenant)?,
            component: Arc::clone(component),
            config: case.config_text(),
            secrets: case.secrets.iter().map(secret).collect(),
            grants,
            // A machine where somebody works may be busy: time is measured by `cost`, not here.
            limits: Limits {
                cpu: Span::millis(50),
                wall: Span::seconds(10),
                ..case.limits.clone().unwrap_or_default()
            },
            isolation,
            services: Services {
                tokens: Some(house.clone()),
                jwt: Some(house.clone()),
                connections: Some(house.clone()),
                http: Some(house.clone()),
                audit: Some(house.clone()),
                assertions: Some(house.clone()),
                still: Some(Still { now_ms, seed: case.seed }),
                ..Services::default()
            },
        };
        let plugin = host.load(plan).await?;
        let principal = Arc::new(principal(case)?);
        Ok(Self { plugin, house, case: case.clone(), principal })
    }

    /// The same plugin, asked by somebody else.
    ///
    /// # Errors
    /// Where the case's caller makes no sense.
    pub(crate) fn asked_by(&self, case: &Case) -> Result<Self, InvalidCase> {
        let (plugin, house) = (Arc::clone(&self.plugin), Arc::clone(&self.house));
        Ok(Self { plugin, house, case: case.clone(), principal: Arc::new(principal(case)?) })
    }

    /// The plugin.
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// Asks, and tells what the plugin said, what it set and what it sent.
    ///
    /// # Errors
    /// Where what is asked makes no sense. What the plugin does is an answer, whatever it is.
    pub async fn ask(&self, ask: &Ask) -> Result<Told, InvalidCase> {
        let question = self.question(ask)?;
        let mut told = match self.call(&question).await {
            Ok(answer) => answer::told(&question, answer),
            Err(failure) => answer::failure(&failure),
        };
        let set: Map<String, Value> = question
            .request
            .attributes
            .all()
            .into_iter()
            .filter(|(key, value)| self.case.caller.attributes.get(key) != Some(value))
            .collect();
        if !set.is_empty() {
            told.insert("attributes".to_owned(), Value::Object(set));
        }
        let sent = self.house.take_sent();
        if !sent.is_empty() {
            told.insert("sent".to_owned(), serde_json::to_value(sent).unwrap_or_default());
        }
        Ok(told)
    }

    /// What is asked, as the host lends it.
    pub(crate) fn question(&self, ask: &Ask) -> Result<Question, InvalidCase> {
        let request = self.request()?;
        let what = match ask {
            Ask::ToolCall(asked) => What::Decide(call(&asked.server, &asked.tool, &asked.arguments)?),
            Ask::ToolResult(asked) => What::Review(
                call(&asked.server, &asked.tool, &asked.arguments)?,
                ResultFacts::new(
                    asked.result.get("isError") == Some(&Value::Bool(true)),
                    Value::Object(asked.result.clone()).to_string().into(),
                ),
            ),
            Ask::ResourceRead(asked) => What::Read(ReadFacts {
                server: parse("server", &asked.server)?,
                uri: asked.uri.as_str().into(),
                exposed_uri: asked.uri.as_str().into(),
                purpose: match asked.purpose.as_deref() {
                    None | Some("read") => ReadPurpose::Read,
                    Some("subscribe") => ReadPurpose::Subscribe,
                    Some(_) => ReadPurpose::Complete,
                },
            }),
            Ask::PromptGet(asked) => What::Prompt(PromptFacts {
                server: parse("server", &asked.server)?,
                prompt: asked.prompt.as_str().into(),
                exposed_prompt: format!("{}__{}", asked.server, asked.prompt).into(),
                arguments: Value::Object(asked.arguments.clone()).to_string().into(),
                purpose: match asked.purpose.as_deref() {
                    None | Some("get") => PromptPurpose::Get,
                    Some(_) => PromptPurpose::Complete,
                },
            }),
            Ask::ServerRequest(asked) => What::Ask(QuestionFacts {
                server: parse("server", &asked.server)?,
                method: asked.method.as_str().into(),
                params: Value::Object(asked.params.clone()).to_string().into(),
                tool: asked.tool.as_deref().map(Arc::from),
            }),
            Ask::ListFilter(asked) => {
                let kind = match asked.kind.as_deref() {
                    None | Some("tools") => ListKind::Tools,
                    Some("resources") => ListKind::Resources,
                    Some("templates") => ListKind::Templates,
                    Some(_) => ListKind::Prompts,
                };
                let pairs = asked
                    .entries
                    .iter()
                    .flat_map(|(server, names)| names.iter().map(|name| (server.clone(), name.clone())));
                What::Filter(kind, pairs.collect())
            }
            Ask::Resolve(target) => What::Resolve(facts(target)?),
            Ask::Refresh(follow) => What::Refresh(facts(&follow.target)?, self.earlier(follow)),
            Ask::Rejected(follow) => What::Rejected(facts(&follow.target)?, self.earlier(follow)),
            Ask::Authenticate(asked) => What::Authenticate(Box::new(self.to_authenticate(asked, &request)?)),
        };
        Ok(Question { request, what })
    }

    pub(crate) async fn call(&self, question: &Question) -> Result<Answer, PluginFailure> {
        let (plugin, principal, request) = (&self.plugin, &self.principal, &question.request);
        Ok(match &question.what {
            What::Decide(call) => Answer::Decision(plugin.decide(principal, request, call).await?),
            What::Review(call, outcome) => Answer::Decision(plugin.review(principal, request, call, outcome).await?),
            What::Read(read) => Answer::Decision(plugin.read(principal, request, read).await?),
            What::Prompt(prompt) => Answer::Decision(plugin.prompt(principal, request, prompt).await?),
            What::Ask(question) => Answer::Decision(plugin.ask(principal, request, question).await?),
            What::Filter(kind, entries) => {
                let items: Vec<Item<'_>> = entries.iter().map(|(server, name)| Item { server, name }).collect();
                Answer::Kept(plugin.filter(principal, request, *kind, &items).await?)
            }
            What::Resolve(target) => Answer::Resolution(Box::new(plugin.resolve(principal, request, target).await?)),
            What::Refresh(target, earlier) => {
                Answer::Resolution(Box::new(plugin.refresh(principal, request, target, earlier).await?))
            }
            What::Rejected(target, earlier) => {
                Answer::Rejection(Box::new(plugin.rejected(principal, request, target, earlier).await?))
            }
            What::Authenticate(request) => Answer::Verdict(Box::new(plugin.authenticate(request).await?)),
        })
    }

    fn request(&self) -> Result<RequestFacts, InvalidCase> {
        let attributes = Attributes::default();
        for (key, value) in &self.case.caller.attributes {
            if !attributes.set(key.clone(), value.clone()) {
                return Err(InvalidCase::Value {
                    what: "caller.attributes",
                    problem: "too many, or too large".to_owned(),
                });
            }
        }
        Ok(RequestFacts {
            gateway: parse("gateway", "main")?,
            request_id: "trial".into(),
            headers: Arc::new(headers("caller.headers", &self.case.caller.headers)?),
            deadline: Instant::now() + Duration::from_secs(30),
            attributes,
        })
    }

    fn to_authenticate(&self, asked: &Request, request: &RequestFacts) -> Result<AuthRequest, InvalidCase> {
        let certificate = asked.certificate.as_ref().map(|given| {
            let pairs = |names: &BTreeMap<String, String>| names.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            Arc::new(ClientCertificate {
                fingerprint: Sha256::digest(given.subject.values().cloned().collect::<String>()).into(),
                subject: pairs(&given.subject),
                issuer: pairs(&given.issuer),
                uris: given.uris.clone(),
                dns_names: given.dns_names.clone(),
                emails: given.emails.clone(),
                expires_ms: 4_000_000_000_000,
            })
        });
        Ok(AuthRequest {
            tenant: parse("caller.tenant", &self.case.caller.tenant)?,
            gateway: request.gateway.clone(),
            method: "POST".into(),
            path: "/mcp/main".into(),
            peer: "192.0.2.1".into(),
            headers: Arc::new(headers("ask.authenticate.headers", &asked.headers)?),
            bearer: asked.bearer.clone().map(Secret::new),
            certificate,
        })
    }

    fn earlier(&self, follow: &FollowUp) -> Earlier {
        let origins = origins(&self.case).iter().filter_map(|o| OriginPattern::parse(o)).collect();
        let allowed = Allowed { origins, target: true, headers: None, body: true };
        let kept = |(name, text): (&String, &String)| {
            (name.clone(), Guarded::secret(Secret::new(text.clone()), allowed.clone(), name.clone()))
        };
        Earlier { expires_ms: follow.expires_ms, kept: follow.kept.iter().map(kept).collect() }
    }
}

fn headers(what: &'static str, named: &BTreeMap<String, String>) -> Result<HeaderMap, InvalidCase> {
    let mut headers = HeaderMap::new();
    for (name, value) in named {
        headers.append(parse::<HeaderName>(what, name)?, parse::<HeaderValue>(what, value)?);
    }
    Ok(headers)
}

fn call(server: &str, tool: &str, arguments: &Map<String, Value>) -> Result<CallFacts, InvalidCase> {
    Ok(CallFacts {
        server: parse("server", server)?,
        tool: tool.into(),
        exposed_tool: format!("{server}__{tool}").into(),
        arguments: Bytes::from(Value::Object(arguments.clone()).to_string()),
    })
}

fn facts(target: &Target) -> Result<TargetFacts, InvalidCase> {
    let url = target.url.clone().unwrap_or_else(|| format!("https://{}.example/mcp", target.server));
    Ok(TargetFacts {
        server: parse("server", &target.server)?,
        url: url.into(),
        connection: target.connection.as_deref().map(|name| parse("connection", name)).transpose()?,
        settings: Arc::new(target.settings.clone()),
    })
}

fn principal(case: &Case) -> Result<Principal, InvalidCase> {
    let who = &case.caller;
    let names = |what: &'static str, list: &[String]| -> Result<Vec<Name>, InvalidCase> {
        list.iter().map(|name| parse(what, name)).collect()
    };
    let mut principal = Principal::new(parse("caller.tenant", &who.tenant)?, parse("caller.subject", &who.subject)?);
    principal.teams = names("caller.teams", &who.teams)?;
    principal.roles = names("caller.roles", &who.roles)?;
    principal.groups.clone_from(&who.groups);
    principal.claims.clone_from(&who.claims);
    principal.bearer = who.token.as_ref().map(|token| {
        Arc::new(CallerToken {
            secret: Secret::new(token.text.clone()),
            origin: if token.from_sign_in { TokenOrigin::SignIn } else { TokenOrigin::Presented },
            issuer: token.issuer.clone(),
            audiences: token.audiences.clone(),
            expires_ms: token.expires_ms,
            bound: token.bound,
            token_type: None,
            digest: Sha256::digest(&token.text).into(),
        })
    });
    Ok(principal)
}

/// The origins that the case holds answers of.
fn origins(case: &Case) -> Vec<String> {
    let origin = |exchange: &crate::Exchange| Some(url::Url::parse(&exchange.url).ok()?.origin().ascii_serialization());
    let mut origins: Vec<String> = case.http.iter().filter_map(origin).collect();
    origins.sort();
    origins.dedup();
    origins
}

/// What the component asks for, as far as its imports and its manifest say, with what the case holds.
pub(crate) fn wanted(component: &Component, case: &Case) -> Grants {
    let uses = |interface: &str| component.imports().any(|name| name.split('@').next() == Some(interface));
    let named = |grant: &str| -> Vec<String> {
        let named = component.manifest().and_then(|manifest| manifest.named(grant));
        named.unwrap_or_default().into_iter().map(str::to_owned).collect()
    };
    let mut http = origins(case);
    http.extend(named("http").into_iter().filter(|origin| OriginPattern::parse(origin).is_some()));
    if http.is_empty() && (uses("portcullis:host/http") || uses("portcullis:host/token-request")) {
        http.push("https://nobody.example".to_owned());
    }
    let issuer = |signed: &crate::case::Signed| signed.claims.get("iss")?.as_str().map(str::to_owned);
    let mut issuers: Vec<String> = case.jwts.values().filter_map(issuer).collect();
    issuers.extend(named("issuers"));
    issuers.extend(issuers_in(case.config.as_ref()));
    if issuers.is_empty() && uses("portcullis:auth/jwt") {
        issuers.push("https://nobody.example".to_owned());
    }
    let secret = |name: &String| {
        let from = SecretSource::Env(format!("CASE_{name}"));
        (name.clone(), SecretGrant { from, origins: origins(case) })
    };
    Grants {
        http,
        secrets: case.secrets.keys().map(secret).collect(),
        reveal: uses("portcullis:host/reveal"),
        tokens: uses("portcullis:auth/tokens"),
        issuers,
        roles: named("roles").iter().filter_map(|role| role.parse().ok()).collect(),
        connections: uses("portcullis:credential/connections"),
        caller_token: uses("portcullis:credential/caller-token"),
        passthrough: component
            .manifest()
            .is_some_and(|manifest| manifest.wants.is_some() && manifest.asks_for("passthrough")),
        state: uses("portcullis:host/state").then(|| portcullis_model::Bytes::mebi(1)),
        sign: uses("portcullis:host/signing"),
        ..Grants::default()
    }
}

/// Issuers that a configuration names, by the field that every auth provider here calls so.
fn issuers_in(config: Option<&Value>) -> Vec<String> {
    match config {
        Some(Value::Object(fields)) => fields
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(text) if name == "issuer" => vec![text.clone()],
                other => issuers_in(Some(other)),
            })
            .collect(),
        Some(Value::Array(items)) => items.iter().flat_map(|item| issuers_in(Some(item))).collect(),
        _ => Vec::new(),
    }
}
