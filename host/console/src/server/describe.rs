//! What is known about a resource beyond what was written.

use axum::{
    Json,
    extract::{Path, State},
};
use portcullis_credential::{GrantState, Orphaned};
use portcullis_identity::Action;
use portcullis_model::{Kind, Resource, ResourceKey, Spec, Subject};
use portcullis_orchestrator::{State as Process, WorkloadStatus};
use portcullis_store::Fleet;
use portcullis_workload::Phase;

use super::{
    Admin, Tenant, Who,
    reply::{Answer, not_found},
    resources::key,
};
use crate::api::{Condition, Described, PluginItem, Status};

pub(super) async fn describe(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path((kind, name)): Path<(String, String)>,
) -> Answer<Described> {
    let key = key(tenant, &kind, &name)?;
    let fleet = admin.registry.snapshot();
    let found = fleet.get(&key).filter(|resource| admin.shows(&who, resource));
    let resource = found.ok_or_else(|| not_found(&key))?;
    let status = status(&admin, &fleet, &key, resource, who.may(&Action::Operate));
    Ok(Json(Described { resource: admin.readable(&who, resource), status }))
}

/// `operates` is who may know where secrets lie.
pub(super) fn status(admin: &Admin, fleet: &Fleet, key: &ResourceKey, resource: &Resource, operates: bool) -> Status {
    let mut status = Status { conditions: admin.view.conditions(key), ..Status::default() };
    let tenant = &key.tenant;
    let mut fact = |name: &str, value: String| status.facts.insert(name.to_owned(), value);
    if let Some(door) = &resource.metadata.door {
        fact("came by", door.to_string());
    }
    match &resource.spec {
        Spec::McpServer(server) => {
            let connections = fleet.connections_of(tenant, &key.name).count();
            fact("connections", connections.to_string());
            if server.process.is_some() {
                let (running, conditions) = processes(admin, key);
                fact("processes", running.to_string());
                if let Some(kept) = kept_from(admin, key) {
                    fact("kept from", kept);
                }
                status.conditions.extend(conditions);
            }
            if let Some(kubernetes) = &server.kubernetes {
                fact("image", kubernetes.image.clone());
                fact(
                    "hardening given up",
                    match &kubernetes.relax.names()[..] {
                        [] => "nothing".to_owned(),
                        names => names.join(", "),
                    },
                );
                status.conditions.extend(deployments(admin, key));
            }
        }
        Spec::Connection(connection) => {
            fact("owner", connection.owner.subject().to_string());
            if let Some(grant) = admin.book.status(tenant, &key.name).and_then(|now| now.grant) {
                let title = grant.account.title().map(|t| format!("{t} at ")).unwrap_or_default();
                fact("account", format!("{title}{}", grant.account.issuer));
                fact("scopes", grant.scopes.join(" "));
                fact("renewed by itself", if grant.renews { "yes" } else { "no" }.to_owned());
            }
            status.conditions.extend(connection_conditions(admin, key, operates));
        }
        Spec::Gateway(_) => {
            let base = admin.view.status().url;
            let path = match tenant.as_str() {
                portcullis_model::DEFAULT_TENANT => format!("/mcp/{}", key.name),
                _ => format!("/t/{tenant}/mcp/{}", key.name),
            };
            fact("url", format!("{}{path}", base.trim_end_matches('/')));
        }
        Spec::User(_) => {
            let teams: Vec<String> = fleet
                .teams(tenant)
                .filter(|t| t.spec.members.contains(&key.name))
                .map(|t| t.metadata.name.to_string())
                .collect();
            fact("teams", if teams.is_empty() { "none".to_owned() } else { teams.join(", ") });
            fact("tokens", tokens(admin, key, Subject::User(key.name.clone())));
        }
        Spec::Team(_) => {
            fact("tokens", tokens(admin, key, Subject::Team(key.name.clone())));
        }
        Spec::Agent(_) => {
            fact("tokens", tokens(admin, key, Subject::Agent(key.name.clone())));
        }
        Spec::Plugin(_) => {
            if let Some(plugin) = admin.view.plugin(tenant, &key.name) {
                facts_of(&plugin, &mut fact);
            }
        }
        Spec::Role(_) | Spec::IdentityProvider(_) | Spec::OAuthClient(_) => {}
    }
    status.conditions.sort_by_key(|c| c.status);
    status
}

fn facts_of(plugin: &PluginItem, fact: &mut impl FnMut(&str, String) -> Option<String>) {
    fact("state", plugin.state.clone());
    fact("hooks", plugin.hooks.join(", "));
    let digests = [("desired", &plugin.desired), ("active", &plugin.active)];
    for (name, digest) in digests {
        fact(name, digest.clone().unwrap_or_else(|| "none".to_owned()));
    }
    if let Some(candidate) = &plugin.candidate {
        let how = match (&candidate.problem, candidate.share) {
            (Some(problem), _) => problem.clone(),
            (None, 0) => format!("beside the active version, {} last differences", candidate.differences.len()),
            (None, share) => format!("for {share} of 100 callers"),
        };
        fact("candidate", format!("{}: {how}", candidate.digest.as_deref().unwrap_or("none")));
    }
    if !plugin.withheld.is_empty() {
        fact("granted, not asked for", plugin.withheld.join(", "));
    }
    if !plugin.ungranted.is_empty() {
        fact("asked for, not granted", plugin.ungranted.join(", "));
    }
    if !plugin.previous.is_empty() {
        fact("can go back to", plugin.previous.join(", "));
    }
}

fn tokens(admin: &Admin, key: &ResourceKey, owner: Subject) -> String {
    let all = admin.tokens.list(&key.tenant, Some(&owner));
    let active = all.iter().filter(|t| admin.tokens.status(t) == portcullis_identity::TokenStatus::Active).count();
    format!("{active} active")
}

/// The processes of a server, and what is true of them.
fn processes(admin: &Admin, key: &ResourceKey) -> (usize, Vec<Condition>) {
    let all = admin.orchestrator.status();
    let ours = all.iter().filter(|s| s.key.tenant == key.tenant && s.key.server == key.name);
    let mut running = 0;
    let mut conditions = Vec::new();
    for process in ours {
        running += usize::from(process.pid.is_some());
        let (status, reason, message) = match &process.state {
            Process::Pending => continue,
            Process::Starting => (false, "Starting", "it is running and has not answered yet".to_owned()),
            Process::Ready => (true, "Ready", String::new()),
            Process::Idle => (true, "Idle", "it is not running; the next call starts it".to_owned()),
            Process::Degraded(why) => (false, "Degraded", why.clone()),
            Process::Failed(why) => (false, "Failed", why.clone()),
            Process::Stopped => (false, "Stopped", "somebody stopped it".to_owned()),
        };
        let text = process.key.to_string();
        let under = text.split_once(" under ").map_or_else(String::new, |(_, account)| format!(" under {account}"));
        conditions.push(Condition {
            kind: format!("Process{under}"),
            status,
            reason: reason.to_owned(),
            message: if process.starts > 1 && !status {
                format!("{message}; started {} times", process.starts)
            } else {
                message
            },
        });
    }
    (running, conditions)
}

/// What the processes of a server are kept from, in words; none where none has run.
fn kept_from(admin: &Admin, key: &ResourceKey) -> Option<String> {
    let all = admin.orchestrator.status();
    let mut ours = all.iter().filter(|s| s.key.tenant == key.tenant && s.key.server == key.name);
    let one = ours.find(|s| !s.protections.is_empty())?;
    let say = |p: &portcullis_child::Protection| match &p.missing {
        None => p.name.clone(),
        Some(why) => format!("not {} ({why})", p.name),
    };
    Some(one.protections.iter().map(say).collect::<Vec<_>>().join(", "))
}

/// What is true of a server's deployments in the cluster.
fn deployments(admin: &Admin, key: &ResourceKey) -> Vec<Condition> {
    let Some(workloads) = &admin.workloads else { return Vec::new() };
    let condition = |workload: WorkloadStatus| {
        let WorkloadStatus { identity, name, namespace, observed, .. } = workload;
        let under = identity.connection.map_or_else(String::new, |connection| format!(" under {connection}"));
        let pods = format!("{} of {} pods can be called ({namespace}/{name})", observed.ready, observed.wanted);
        let (reason, message) = match observed.trouble {
            Some(trouble) => (trouble.reason, format!("{}. {} {pods}", trouble.message, trouble.next)),
            None => (observed.phase.as_str().to_owned(), pods),
        };
        let restarts =
            if observed.restarts > 0 { format!("; started anew {} times", observed.restarts) } else { String::new() };
        Condition {
            kind: format!("Deployment{under}"),
            status: matches!(observed.phase, Phase::Ready | Phase::Idle),
            reason,
            message: message + &restarts,
        }
    };
    workloads.status(&key.tenant, &key.name).into_iter().map(condition).collect()
}

fn connection_conditions(admin: &Admin, key: &ResourceKey, operates: bool) -> Vec<Condition> {
    debug_assert_eq!(key.kind, Kind::Connection);
    let condition = |status, reason: &str, message: String| Condition {
        kind: "Usable".to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    };
    if let Some(why) = admin.book.orphaned(&key.tenant, &key.name) {
        let reason = if why == Orphaned::NoOwner { "NoOwner" } else { "EarlierOwner" };
        return vec![condition(false, reason, format!("it serves nobody: {why}"))];
    }
    let Some(now) = admin.book.status(&key.tenant, &key.name) else {
        return vec![condition(false, "NoServer", "the server that it connects does not exist".to_owned())];
    };
    let mut found = Vec::new();
    if now.suspended {
        let message = "the server moved to another origin since: connect it again to approve".to_owned();
        found.push(condition(false, "Suspended", message));
    }
    if operates {
        found.extend(now.unreadable.into_iter().map(|why| condition(false, "Unreadable", why)));
    } else if !now.unreadable.is_empty() {
        found.push(condition(false, "Unreadable", "its secrets can't be read: ask an operator".to_owned()));
    }
    let fleet = admin.registry.snapshot();
    if let Some(connection) = fleet.connection(&key.tenant, &key.name)
        && let Some(server) = fleet.server(&key.tenant, &connection.spec.server)
        && let Some(why) = admin.book.lacks(&key.tenant, &connection.spec.server, server.spec, &key.name)
        // What can't be read is missing as well, and is said already.
        && found.is_empty()
    {
        found.push(condition(false, "Incomplete", format!("no call can be made under it: {why}")));
    }
    let reconnect = now.grant.as_ref().is_some_and(|grant| grant.state == GrantState::Reconnect);
    if let Some(grant) = now.grant {
        let why = grant.why.unwrap_or_default();
        match grant.state {
            GrantState::Reconnect => found.push(condition(false, "Reconnect", why)),
            GrantState::Failing => found.push(condition(false, "NotRenewed", why)),
            GrantState::Ok if !grant.wanted.is_empty() => {
                let message = format!("the server wants more than was granted: {}", grant.wanted.join(" "));
                found.push(condition(false, "MoreScopes", message));
            }
            GrantState::Ok => {}
        }
    }
    // One that has to be connected again is refused for that: it is said already.
    if !now.healthy && !reconnect {
        found.push(condition(false, "Rejected", "the server refused it the last time it was used".to_owned()));
    }
    if found.is_empty() {
        found.push(condition(true, "Ready", String::new()));
    }
    found
}
