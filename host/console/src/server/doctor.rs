//! What a doctor finds: everything that is not as it should be, once each, with its next step.

mod names;

use axum::{Json, extract::State};
use portcullis_identity::Action;
use portcullis_model::{Door, Kind, Resource, ResourceKey, Spec, spec::SecretSource};

use super::{Admin, Tenant, Who, describe, reply::Answer};
use crate::api::{Condition, Finding, Grade, Page};

pub(super) async fn doctor(State(admin): State<Admin>, Tenant(tenant): Tenant, who: Who) -> Answer<Page<Finding>> {
    who.must(&Action::Operate, "see what is wrong with the gateway")?;
    let fleet = admin.registry.snapshot();
    // What is on the machine, and what other tenants lack, is not another tenant's to know.
    let whole = who.is_of_the_machine();
    let mut items = if whole { vec![gateway(&admin)] } else { Vec::new() };
    for file in admin.files.iter().filter(|_| whole).flat_map(|f| f.status()) {
        let (errors, warnings) = (file.errors.iter(), file.warnings.iter());
        let found = errors.map(|e| (Grade::Error, e)).chain(warnings.map(|w| (Grade::Warning, w)));
        for (grade, error) in found {
            let next = "Correct the file; it is read again at once, and what it brought before serves until then.";
            items.push(finding(file.file.clone(), grade, error.to_string(), next));
        }
    }
    for (key, resource) in fleet.iter().filter(|(key, _)| key.tenant == tenant) {
        for condition in describe::status(&admin, &fleet, key, resource, true).conditions.iter().filter(|c| !c.status) {
            let (grade, next) = advice(key, resource, condition);
            let about = if condition.kind == "Ready" { String::new() } else { format!("{}: ", condition.kind) };
            let message = [condition.reason.as_str(), condition.message.as_str()].join(": ");
            let message = format!("{about}{}", message.trim_end_matches(": "));
            items.push(finding(key.to_string(), grade, message, next));
        }
        items.extend(unreadable(&admin, key, resource));
        let names = names::nowhere(&fleet, key, resource).into_iter();
        items.extend(
            names.map(|n| finding(key.to_string(), Grade::Warning, n, "Correct the name, or make what it names.")),
        );
    }
    // What stands in a resource was told with it; built-in plugins stand in none.
    if whole {
        let told = |f: &Finding| fleet.iter().any(|(key, _)| key.to_string() == f.subject);
        items.extend(admin.view.findings().into_iter().filter(|f| !told(f)));
        items.extend(dangling(&admin).await);
    }
    if admin.tokens.list(&tenant, None).is_empty() {
        let message = "there is no token, so only other auth providers let anybody in";
        let next = "Make one with `portcullis token create --owner user:NAME`.";
        items.push(finding("tokens".to_owned(), Grade::Warning, message.to_owned(), next));
    }
    items.sort_by_key(|f| std::cmp::Reverse(f.grade));
    Ok(Json(Page { items, next: None }))
}

/// Secrets that a resource names and that can't be read; those of connections are conditions of theirs.
fn unreadable(admin: &Admin, key: &ResourceKey, resource: &Resource) -> Vec<Finding> {
    if key.kind == Kind::Connection {
        return Vec::new();
    }
    let sources = resource.spec.secret_sources().into_iter();
    let lacking = sources.filter_map(|source| Some((admin.book.unreadable(&key.tenant, source)?, source)));
    lacking
        .map(|(why, source)| finding(key.to_string(), Grade::Error, format!("Unreadable: {why}"), mend(source)))
        .collect()
}

/// How a secret becomes readable, by where it lies.
fn mend(source: &SecretSource) -> &'static str {
    match source {
        SecretSource::Env(_) => {
            "Set the variable for the gateway's own process (its service or container), and restart it."
        }
        SecretSource::File(_) => {
            "Put the file there, for the gateway's own user to read; it is read again at once. A relative path starts at the \
             document that names it."
        }
        SecretSource::Vault(_) => {
            "See that path, key and the policy of the gateway's role in Vault are right; it is asked again by itself."
        }
        SecretSource::Kubernetes(_) => {
            "See that the Secret has this key and that the gateway's account may `get` it; it is asked again by itself."
        }
    }
}

fn finding(subject: String, grade: Grade, message: String, next: impl Into<String>) -> Finding {
    Finding { subject, grade, message, next: Some(next.into()) }
}

fn gateway(admin: &Admin) -> Finding {
    let missing = admin.view.status().missing;
    if missing.is_empty() {
        return Finding { subject: "gateway".to_owned(), grade: Grade::Ok, message: "is ready".to_owned(), next: None };
    }
    let message = format!("is not ready: {}", missing.join("; "));
    finding("gateway".to_owned(), Grade::Error, message, "What is missing is told below, each with its next step.")
}

/// How bad it is that a condition does not hold, and what to do.
fn advice(key: &ResourceKey, resource: &Resource, condition: &Condition) -> (Grade, String) {
    let ResourceKey { kind, name, .. } = key;
    let logs = || format!("Read `portcullis logs {name}`.");
    let again = || match &resource.spec {
        // There is nothing to give by hand.
        Spec::Connection(c) if !c.secrets.is_empty() && condition.reason == "Rejected" => {
            "Exchange its secret where the resource says that it is: it is read again by itself.".to_owned()
        }
        Spec::Connection(c) => {
            format!("Connect it again: `portcullis connect {} --owner {} --name {name}`.", c.server, c.owner.subject())
        }
        _ => format!("See `portcullis describe {} {name}`.", kind.plural()),
    };
    match condition.reason.as_str() {
        // A state on the way, and one that somebody wanted.
        "Starting" => {
            (Grade::Ok, format!("Wait. Package runners download first: `portcullis logs {name}` shows what it does."))
        }
        "AsWritten" => (Grade::Ok, "Wait a moment: it has just started.".to_owned()),
        "Stopped" => (Grade::Warning, format!("Start it with `portcullis restart {name}`.")),
        "Failed" => (Grade::Error, format!("{} The next call starts it again.", logs())),
        "Degraded" if condition.kind.starts_with("Process") => (Grade::Warning, logs()),
        "PreviousServes" => {
            (Grade::Warning, "Correct the component or its configuration; it is loaded again at once.".to_owned())
        }
        "CandidateRefused" => (Grade::Warning, "Correct the candidate; what serves is not touched by it.".to_owned()),
        "RolledBack" => {
            (Grade::Warning, format!("Apply a better version, or go forward again: `portcullis plugin resume {name}`."))
        }
        "Quarantined" => {
            (Grade::Error, format!("Read the log, then `portcullis plugin rollback {name}` or apply a better version."))
        }
        "NotLoaded" => {
            (Grade::Error, "Correct the component or its configuration; it is loaded again at once.".to_owned())
        }
        "Degraded" => (Grade::Warning, correct(resource)),
        "Unreachable" => (
            Grade::Error,
            format!(
                "See that the server runs and its URL and certificate are right (`portcullis describe server {name}`); it is \
                 asked again when somebody lists or calls."
            ),
        ),
        "NoServer" => (
            Grade::Error,
            format!("Apply the server that it names, or take it away with `portcullis delete connection {name}`."),
        ),
        "NoOwner" => (
            Grade::Error,
            format!("Apply the owner that it names, or take it away with `portcullis delete connection {name}`."),
        ),
        "Unreadable" => {
            let mut ways: Vec<&str> = resource.spec.secret_sources().into_iter().map(mend).collect();
            ways.sort_unstable();
            ways.dedup();
            // What was sealed here can't be opened, where no other place is named.
            (Grade::Error, if ways.is_empty() { again() } else { ways.join(" ") })
        }
        "Suspended" | "EarlierOwner" | "Rejected" | "Reconnect" | "Incomplete" => (Grade::Error, again()),
        "MoreScopes" => (Grade::Warning, again()),
        "NotRenewed" => (Grade::Warning, "Wait: it is tried again by itself. The reason is said above.".to_owned()),
        _ => (Grade::Error, correct(resource)),
    }
}

/// Where a resource is edited: at the door that it came by.
fn correct(resource: &Resource) -> String {
    match &resource.metadata.door {
        Some(door) if door.reads_again() => format!("Correct it in {door}; it is read again at once."),
        _ => "Correct it, and `portcullis apply -f` it again.".to_owned(),
    }
}

/// Names of things that do not exist, in resources that no file holds: those of files are told with their lines.
async fn dangling(admin: &Admin) -> Vec<Finding> {
    let resources = admin.registry.list(None, None);
    let by_hand = resources.iter().filter(|r| !r.metadata.door.as_ref().is_some_and(Door::reads_again));
    let set: Vec<_> = by_hand
        .map(|r| {
            let mut resource = Resource::clone(r);
            resource.metadata.revision = None;
            (resource.metadata.door.clone().unwrap_or(Door::Api), resource)
        })
        .collect();
    let scope = |door: &Door| !door.reads_again();
    let Ok(applied) = admin.registry.sync_door(&scope, set, true).await else { return Vec::new() };
    // A connection whose server moved is told by its own condition, with what to do.
    let warnings = applied.iter().flat_map(|a| a.warnings.iter().map(|w| (&a.key, w)));
    let warnings = warnings.filter(|(_, w)| w.path != "spec.origin");
    let next = "Correct the name and `portcullis apply -f` it again, or apply what it names.";
    warnings.map(|(key, w)| finding(key.to_string(), Grade::Warning, w.to_string(), next)).collect()
}
