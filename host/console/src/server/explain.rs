//! What a call would meet, for whoever may know that: operators of anybody, everybody else of themselves.

use std::sync::Arc;

use axum::{Json, extract::State};
use portcullis_identity::{Action, Remembered, remembered};
use portcullis_model::{
    Kind, Name, Principal, ResourceKey, Side, Subject,
    explain::{Explanation, Step, Stop},
    spec::Identity,
};

use super::{
    Admin, Tenant, Who,
    reply::{Answer, Body, not_found},
};
use crate::{
    api::{ApiError, ExplainRequest},
    server::Explain,
};

/// What callers are told of a tool that is hidden from them.
const UNKNOWN: &str = "there is no such tool at this gateway";

pub(super) async fn explain(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<ExplainRequest>,
) -> Answer<Explanation> {
    let operates = who.may(&Action::Operate);
    if request.groups.is_some() && !operates {
        // What somebody else's groups would give is nobody else's to find out.
        return Err(who.forbidden("say which groups somebody would have").into());
    }
    let asked = Asked { tenant: &tenant, named: request.caller.as_deref(), groups: request.groups };
    let (caller, said) = caller(&admin, &who, asked).await?;
    if !operates && !matches!(&who, Who::Caller(own) if own.subject == caller.subject) {
        return Err(who.forbidden(&format!("see what a call of {} would meet", caller.subject_text)).into());
    }
    let arguments = request.arguments.unwrap_or_else(|| serde_json::json!({})).to_string();
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::Gateway, name: request.gateway.clone() };
    let wanted = Explain { tenant, gateway: request.gateway, tool: request.tool, principal: caller, arguments };
    let mut told = admin.view.explain(wanted).await.ok_or_else(|| not_found(&key))?;
    let behind = told.steps.iter().rposition(|step| step.phase == "authenticate").map_or(0, |at| at + 1);
    told.steps.splice(behind..behind, said);
    Ok(Json(if operates { told } else { for_the_caller(told) }))
}

/// Who is asked about.
struct Asked<'a> {
    tenant: &'a Name,
    named: Option<&'a str>,
    groups: Option<Vec<String>>,
}

/// Who would call, as they are now, and what is to be said of how that is known.
async fn caller(admin: &Admin, who: &Who, asked: Asked<'_>) -> Result<(Arc<Principal>, Option<Step>), ApiError> {
    let Asked { tenant, named, groups } = asked;
    let wrong = |message: &str, next: &str| ApiError::new(Side::Caller, "invalid-request", message).next(next);
    let Some(named) = named else {
        return match who {
            _ if groups.is_some() => Err(wrong("nobody said whose groups they are", "Say it with --as.")),
            Who::Caller(principal) => Ok((Arc::clone(principal), None)),
            Who::Local(_) => Err(wrong(
                "nobody said who would call",
                "Say it with --as user:NAME, team:NAME, agent:NAME, organization, external:ISSUER#SUBJECT or anonymous.",
            )),
        };
    };
    let subject: Subject = named.parse().map_err(|e: portcullis_model::principal::InvalidSubject| {
        ApiError::new(Side::Caller, "invalid-owner", e.to_string())
    })?;
    if let Who::Caller(own) = who
        && own.subject == subject
        && groups.is_none()
    {
        // With what they came with.
        return Ok((Arc::clone(own), None));
    }
    let identities = identities(admin, tenant, &subject);
    let (identity, groups, said) = match (groups, identities.as_slice()) {
        (None, []) => return plain(admin, tenant, &subject).map(|principal| (principal, None)),
        (Some(_), []) => {
            let next = "Ask without --groups, or of external:ISSUER#SUBJECT.";
            return Err(wrong(&format!("no identity provider says anything of {subject}"), next));
        }
        (Some(groups), [identity]) => (identity, groups, "given with the question".to_owned()),
        (Some(_), _) => {
            let message = format!("{subject} has several identities, whose groups are not the same");
            return Err(wrong(&message, "Name one with --as external:ISSUER#SUBJECT."));
        }
        (None, all) => {
            let mut newest: Option<(&(String, String), Remembered)> = None;
            for identity in all {
                let found = remembered(&admin.signin, &admin.tokens, tenant, (&identity.0, &identity.1)).await?;
                if let Some(found) = found
                    && newest.as_ref().is_none_or(|(_, other)| other.at_ms < found.at_ms)
                {
                    newest = Some((identity, found));
                }
            }
            match newest {
                Some((identity, Remembered { groups, at_ms, of })) => {
                    let when = portcullis_telemetry::rfc3339(std::time::Duration::from_millis(at_ms));
                    (identity, groups, format!("as {} said, remembered of {of} since {when}", identity.0))
                }
                None => {
                    let detail = "nothing is remembered of a sign-in of theirs: say which with --groups";
                    let step = Step::new("authenticate", "groups", "not known", detail);
                    return Ok((known(admin, tenant, &all[0], Vec::new())?, Some(step)));
                }
            }
        }
    };
    let shown = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
    let detail = format!("{said}; claims of their token are not known");
    let step = Step::new("authenticate", "groups", shown, detail);
    Ok((known(admin, tenant, identity, groups)?, Some(step)))
}

/// As whom identity providers know somebody: issuer and subject.
fn identities(admin: &Admin, tenant: &Name, subject: &Subject) -> Vec<(String, String)> {
    let fleet = admin.registry.snapshot();
    let of = |identities: &[Identity]| identities.iter().map(|i| (i.issuer.clone(), i.subject.clone())).collect();
    match subject {
        Subject::External { issuer, subject } => vec![(issuer.clone(), subject.clone())],
        Subject::User(name) => fleet.user(tenant, name).map(|u| of(&u.spec.identities)).unwrap_or_default(),
        Subject::Agent(name) => fleet.agent(tenant, name).map(|a| of(&a.spec.identities)).unwrap_or_default(),
        Subject::Team(_) | Subject::Organization | Subject::Anonymous => Vec::new(),
    }
}

/// Somebody of whom no identity provider says anything.
fn plain(admin: &Admin, tenant: &Name, subject: &Subject) -> Result<Arc<Principal>, ApiError> {
    if *subject == Subject::Anonymous {
        return Ok(Arc::new(Principal::anonymous(tenant.clone())));
    }
    let known = admin.directories.load().principal(tenant, subject);
    let known = known.ok_or_else(|| ApiError::new(Side::Caller, "not-found", format!("{subject} does not exist")))?;
    Ok(Arc::new(known))
}

/// Whom an identity provider means, with these groups.
fn known(
    admin: &Admin,
    tenant: &Name,
    (issuer, subject): &(String, String),
    groups: Vec<String>,
) -> Result<Arc<Principal>, ApiError> {
    let known = admin.directories.load().external(tenant, issuer, subject, groups);
    known.map(Arc::new).map_err(|error| {
        ApiError::new(Side::Caller, "not-found", format!("nobody can be told from {issuer}#{subject}: {error}"))
    })
}

/// The answer for callers about themselves: what they could find out by calling. Which policies there are, and other people's connections,
/// are for operators.
fn for_the_caller(mut told: Explanation) -> Explanation {
    let unknown = told.stopped.as_ref().is_some_and(|stop| stop.code == "unknown-tool");
    let hidden = unknown || told.steps.iter().any(|step| step.phase == "decide" && step.says == "hides it");
    let own = told.connection.clone();
    let theirs = |step: &Step| match step.phase.as_str() {
        "route" | "admit" => true,
        "decide" => step.changes.is_empty() && step.says != "hides it" && step.says != "failed",
        "resolve" => own.as_ref().is_some_and(|own| own.as_str() == step.name),
        _ => false,
    };
    if hidden {
        // In the same words, and with as little beside them.
        told.stopped = told.stopped.map(|_| Stop {
            phase: "route".to_owned(),
            code: "unknown-tool".to_owned(),
            message: UNKNOWN.to_owned(),
            next: None,
        });
        (told.server, told.connection, told.executed_as) = (None, None, None);
    }
    // A list says which servers there are, also those of which nothing is shown.
    if hidden || told.tool.is_none() {
        told.steps.clear();
        return told;
    }
    told.steps.retain(theirs);
    for step in told.steps.iter_mut().filter(|step| step.phase == "decide") {
        "a policy".clone_into(&mut step.name);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(steps: Vec<Step>) -> Explanation {
        Explanation {
            gateway: "main".parse().unwrap(),
            tool: Some("s__t".to_owned()),
            caller: "user:alice".to_owned(),
            runs: false,
            stopped: Some(Stop {
                phase: "decide".to_owned(),
                code: "denied".to_owned(),
                message: "rule 3 does not let you".to_owned(),
                next: None,
            }),
            executed_as: None,
            connection: Some("s-alice".parse().unwrap()),
            server: Some("s".parse().unwrap()),
            steps,
        }
    }

    #[test]
    fn callers_learn_what_calling_would_tell_them() {
        let steps = vec![
            Step::new("authenticate", "bearer-token", "not asked", ""),
            Step::new("route", "s", "has it", "its tool t"),
            Step::new("decide", "secret-policy", "deny", "rule 3 does not let you"),
            Step::new("resolve", "s-bob", "does not serve", "of user:bob"),
            Step::new("resolve", "s-alice", "1: their own", "of user:alice"),
        ];
        let seen = for_the_caller(told(steps.clone()));
        let text = serde_json::to_string(&seen).unwrap();
        assert!(text.contains("rule 3") && text.contains("s-alice"), "{text}");
        assert!(!text.contains("secret-policy") && !text.contains("bob") && !text.contains("bearer"), "{text}");
        // Hidden: as if there were none, and as where there is none.
        let hiding = [steps, vec![Step::new("decide", "secret-policy", "hides it", "")]].concat();
        let seen = for_the_caller(told(hiding));
        let text = serde_json::to_string(&seen).unwrap();
        assert!(text.contains("unknown-tool") && !text.contains("rule 3") && !text.contains("s-alice"), "{text}");
        let mut none = told(vec![Step::new("route", "s", "no such tool", "it has no tool t")]);
        none.stopped =
            none.stopped.map(|stop| Stop { code: "unknown-tool".to_owned(), next: Some("x".to_owned()), ..stop });
        assert_eq!(serde_json::to_string(&for_the_caller(none)).unwrap(), text);
        let list = Explanation { tool: None, ..told(vec![Step::new("route", "hidden", "4 tools", "")]) };
        assert!(for_the_caller(list).steps.is_empty());
    }
}
