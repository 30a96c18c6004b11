//! What every plugin of a kind has to survive, whatever it decides: odd callers and odd input, services that are down, wrong
//! configurations, and instances that were used before.
//!
//! What is right for a plugin to say is for its author's own tests. Here it must say something: a trap, too much time or memory
//! and an answer that makes no sense are faults, since each of them refuses somebody's call. Some things are more than that: an auth
//! provider that accepts nobody's token is a hole.

mod odd;
mod policy;
mod provider;
mod resolver;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use portcullis_model::spec::{Grants, Isolation};
use portcullis_plugin::{Component, Host, LoadError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    case::{Ask, Case, InvalidCase, NoAnswer, Who},
    trial::{Told, Trial, TrialError},
};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The hook, or `component`.
    pub of: &'static str,
    /// What has to hold.
    pub check: &'static str,
    /// Whether it does.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Whether something holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome", content = "why")]
pub enum Outcome {
    /// It does.
    Holds,
    /// It does not, and people would suffer.
    Fails(String),
    /// It does not, which may be meant.
    Advice(String),
}

/// All that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In order.
    pub findings: Vec<Finding>,
}

impl Report {
    /// What does not hold.
    pub fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| matches!(finding.outcome, Outcome::Fails(_)))
    }

    fn note(&mut self, of: &'static str, check: &'static str, fails: Option<String>) {
        self.findings.push(Finding { of, check, outcome: fails.map_or(Outcome::Holds, Outcome::Fails) });
    }

    fn advise(&mut self, of: &'static str, check: &'static str, advice: Option<String>) {
        self.findings.push(Finding { of, check, outcome: advice.map_or(Outcome::Holds, Outcome::Advice) });
    }
}

/// What was meant to be asked makes no sense, or the plugin is gone: nothing that a suite could go on from.
type Asked<T> = Result<T, InvalidCase>;

/// Tries a component. `cases` are its own: each hook is tried with what the first case of that hook brings (configuration,
/// secrets, answers), or the first of all.
///
/// # Errors
/// Where a case makes no sense. What the plugin does is in the report.
pub async fn run(host: &Arc<Host>, component: &Arc<Component>, cases: &[Case]) -> Result<Report, InvalidCase> {
    let mut report = Report::default();
    let usual = cases.first().cloned().unwrap_or_default();
    declared(component, &usual, &mut report);
    let suite = Suite { host, component, loaded: Mutex::default() };
    if !suite.loads(&usual, &mut report).await? {
        return Ok(report);
    }
    suite.ungranted(&usual, &mut report).await?;
    let hooks = component.hooks();
    let of = |fits: fn(&Ask) -> bool| cases.iter().find(|case| case.ask.as_ref().is_some_and(fits)).unwrap_or(&usual);
    if hooks.policy() {
        policy::run(&suite, &hooks, &of, &mut report).await?;
    }
    if hooks.resolver {
        resolver::run(&suite, &hooks, &of, &mut report).await?;
    }
    if hooks.provider {
        provider::run(&suite, of(|ask| matches!(ask, Ask::Authenticate(_))), &mut report).await?;
    }
    Ok(report)
}

/// What it says of itself, against what it is.
fn declared(component: &Component, case: &Case, report: &mut Report) {
    let of = "component";
    let Some(manifest) = component.manifest() else {
        let advice =
            "it has no section `portcullis:manifest`: operators can't see who it is and what it wants".to_owned();
        return report.advise(of, "says who it is", Some(advice));
    };
    report.advise(of, "says who it is", None);
    let needs = component.needs();
    let name = |need: &str| need.split(':').next().unwrap_or_default().to_owned();
    let unasked: Vec<String> = needs.iter().map(|need| name(need)).filter(|need| !manifest.asks_for(need)).collect();
    let why = |list: &[String], what: &str| (!list.is_empty()).then(|| format!("{what} {}", list.join(", ")));
    report.note(of, "asks for the grants that it needs", why(&unasked, "it uses and does not want"));
    // Roles and passing a token on are not imports of their own.
    let by_import = ["http", "reveal", "tokens", "issuers", "connections", "callerToken"];
    let wants = manifest.wants.iter().flatten().map(|want| want.grant.as_str());
    let mut unused: Vec<String> = wants
        .filter(|grant| by_import.contains(grant) && !needs.iter().any(|need| name(need) == *grant))
        .map(str::to_owned)
        .collect();
    unused.dedup();
    report.advise(of, "asks for no more than that", why(&unused, "it wants and does not use"));
    if let Some(schema) = component.schema() {
        let complaints = schema.check(case.config.as_ref().unwrap_or(&json!({})));
        let said: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        report.note(of, "its schema takes its configuration", (!said.is_empty()).then(|| said.join("; ")));
        let lax = schema.check(&json!("nonsense")).is_empty();
        let advice = lax.then(|| "it takes anything, so operators learn of a mistake late".to_owned());
        report.advise(of, "its schema refuses what is no configuration", advice);
    } else if component.imports().any(|name| name.starts_with("portcullis:host/config@")) {
        let advice =
            "it has no section `portcullis:config-schema`: mistakes in its configuration are told late".to_owned();
        report.advise(of, "its configuration has a schema", Some(advice));
    }
}

/// A component that is tried.
struct Suite<'a> {
    host: &'a Arc<Host>,
    component: &'a Arc<Component>,
    /// What was loaded already, by what counts for that: getting ready takes longer than a call.
    loaded: Mutex<HashMap<String, Trial>>,
}

impl Suite<'_> {
    async fn trial(&self, case: &Case, isolation: Isolation) -> Result<Trial, TrialError> {
        // Who asks, and what, counts for nothing yet.
        let alike =
            Case { caller: Who::default(), ask: None, expect: None, description: String::new(), ..case.clone() };
        let alike = format!("{}{isolation:?}", serde_json::to_string(&alike).unwrap_or_default());
        let known =
            self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&alike).map(|trial| trial.asked_by(case));
        if let Some(trial) = known {
            return Ok(trial?);
        }
        let trial = Trial::load(self.host, self.component, case, isolation).await?;
        let copy = trial.asked_by(case)?;
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(alike, copy);
        Ok(trial)
    }

    /// Whether it can be tried at all.
    async fn loads(&self, case: &Case, report: &mut Report) -> Asked<bool> {
        let why = match self.trial(case, Isolation::Call).await {
            Ok(_) => None,
            Err(TrialError::Load(error)) => Some(error.to_string()),
            Err(TrialError::Case(error)) => return Err(error),
        };
        let loads = why.is_none();
        report.note("component", "is loaded", why);
        if loads && self.component.imports().any(|name| name.starts_with("portcullis:host/config@")) {
            let mut fails = None;
            for wrong in [json!([]), json!("nonsense"), json!(null), json!({"a-field-that-nobody-has": [[[]]]})] {
                let broken = Case { config: Some(wrong.clone()), ..case.clone() };
                let trap = match self.trial(&broken, Isolation::Call).await {
                    Err(TrialError::Load(LoadError::Trial(failure))) => Some(failure.to_string()),
                    Err(_) => None,
                    Ok(trial) => match &case.ask {
                        Some(ask) => failed(&trial.ask(ask).await?),
                        None => None,
                    },
                };
                if let Some(why) = trap {
                    fails.get_or_insert(format!("with the configuration {wrong}: {why}"));
                }
            }
            report.note("component", "a wrong configuration is an error in words", fails);
        }
        Ok(loads)
    }

    /// Without grants it has to be refused, wherever it needs one.
    async fn ungranted(&self, case: &Case, report: &mut Report) -> Asked<()> {
        if self.component.needs().is_empty() {
            return Ok(());
        }
        let bare = Case { grants: Some(Grants::default()), ..case.clone() };
        let why = match self.trial(&bare, Isolation::Call).await {
            Err(TrialError::Load(_)) => None,
            Err(TrialError::Case(error)) => return Err(error),
            Ok(_) => Some("it was loaded all the same".to_owned()),
        };
        report.note("component", "is refused without its grants", why);
        Ok(())
    }

    /// Asks several things under one case, each in a fresh instance; none where the plugin is not loaded under it.
    async fn ask_all(&self, case: &Case, asks: &[Ask]) -> Asked<Option<Vec<Told>>> {
        let trial = match self.trial(case, Isolation::Call).await {
            Ok(trial) => trial,
            Err(TrialError::Load(_)) => return Ok(None),
            Err(TrialError::Case(error)) => return Err(error),
        };
        let mut told = Vec::with_capacity(asks.len());
        for ask in asks {
            told.push(trial.ask(ask).await?);
        }
        Ok(Some(told))
    }

    /// What every hook has to survive; `usual` is what it is asked on a usual day, `odd` what comes on others.
    async fn survives(
        &self,
        of: &'static str,
        case: &Case,
        usual: &Ask,
        odd: &[Ask],
        report: &mut Report,
    ) -> Asked<()> {
        let mut fails = None;
        for caller in odd::callers() {
            let case = Case { caller, ..case.clone() };
            for told in self.ask_all(&case, std::slice::from_ref(usual)).await?.iter().flatten() {
                if let Some(why) = failed(told) {
                    fails.get_or_insert(format!("asked for {}: {why}", case.caller.subject));
                }
            }
        }
        report.note(of, "answers every sort of caller", fails);

        let told = self.ask_all(case, odd).await?.unwrap_or_default();
        let stumbled = odd.iter().zip(&told).find_map(|(ask, told)| Some((ask, failed(told)?)));
        report.note(of, "answers odd input", stumbled.map(|(ask, why)| format!("{why}; asked {}", brief(ask))));

        let first = self.ask_all(case, std::slice::from_ref(usual)).await?;
        let again = self.ask_all(case, std::slice::from_ref(usual)).await?;
        let differ = (first != again).then(|| format!("{} and then {}", shown(first.as_ref()), shown(again.as_ref())));
        report.note(of, "says the same twice", differ);

        report.note(of, "carries nothing from one call to the next", self.carried(case, usual, odd).await?);
        Ok(())
    }

    /// How a warm instance differs from a fresh one, where it does.
    async fn carried(&self, case: &Case, usual: &Ask, odd: &[Ask]) -> Asked<Option<String>> {
        let asks: Vec<Ask> =
            odd.iter().take(6).flat_map(|one| [usual.clone(), one.clone()]).chain([usual.clone()]).collect();
        let Some(fresh) = self.ask_all(case, &asks).await? else { return Ok(None) };
        let Ok(warm) = self.trial(case, Isolation::Tenant).await else { return Ok(None) };
        for (ask, fresh) in asks.iter().zip(fresh) {
            let told = warm.ask(ask).await?;
            if told != fresh {
                let (fresh, told) = (Value::Object(fresh), Value::Object(told));
                return Ok(Some(format!("a fresh instance says {fresh}, a used one {told}; asked {}", brief(ask))));
            }
        }
        Ok(None)
    }

    /// What it says while no other service answers: each way of not answering, and what it said.
    async fn while_down(&self, case: &Case, ask: &Ask) -> Asked<Vec<(String, Told)>> {
        let mut all = Vec::new();
        for (name, case) in odd::without_services(case) {
            for told in self.ask_all(&case, std::slice::from_ref(ask)).await?.into_iter().flatten() {
                all.push((name.clone(), told));
            }
        }
        Ok(all)
    }
}

/// Why an answer is none, where it is none.
fn failed(told: &Told) -> Option<String> {
    let how = told.get("failed")?;
    // Where the host keeps a secret from going where it may not, nobody can ask the plugin to have known.
    if how == "invalid" && told.get("why").and_then(Value::as_str).is_some_and(|why| why.contains("may not go")) {
        return None;
    }
    Some(told.get("why").and_then(Value::as_str).unwrap_or("it failed").to_owned())
}

fn shown(told: Option<&Vec<Told>>) -> String {
    told.map_or_else(|| "nothing".to_owned(), |told| json!(told).to_string())
}

fn brief(ask: &Ask) -> String {
    let text = serde_json::to_string(ask).unwrap_or_default();
    let mut short: String = text.chars().take(160).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

impl NoAnswer {
    const ALL: [Self; 4] = [Self::Timeout, Self::Connect, Self::Dns, Self::TooLarge];
}
