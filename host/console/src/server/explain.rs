//! What a call would meet, for whoever may know that: operators of anybody, everybody else of themselves.

use std::sync::Arc;

use axum::{Json, extract::State};
use portcullis_identity::Action;
use portcullis_model::{
    Kind, Principal, ResourceKey, Side, Subject,
    explain::{Explanation, Step, Stop},
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
    let caller = caller(&admin, &tenant, &who, request.caller.as_deref())?;
    let operates = who.may(&Action::Operate);
    if !operates && !matches!(&who, Who::Caller(own) if own.subject == caller.subject) {
        return Err(who.forbidden(&format!("see what a call of {} would meet", caller.subject_text)).into());
    }
    let arguments = request.arguments.unwrap_or_else(|| serde_json::json!({})).to_string();
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::Gateway, name: request.gateway.clone() };
    let wanted = Explain { tenant, gateway: request.gateway, tool: request.tool, principal: caller, arguments };
    let told = admin.view.explain(wanted).await.ok_or_else(|| not_found(&key))?;
    Ok(Json(if operates { told } else { for_the_caller(told) }))
}

/// Who would call, as they are now.
fn caller(
    admin: &Admin,
    tenant: &portcullis_model::Name,
    who: &Who,
    named: Option<&str>,
) -> Result<Arc<Principal>, ApiError> {
    let Some(named) = named else {
        return match who {
            Who::Caller(principal) => Ok(Arc::clone(principal)),
            Who::Local(_) => Err(ApiError::new(Side::Caller, "invalid-request", "nobody said who would call")
                .next("Say it with --as user:NAME, team:NAME, agent:NAME, organization or anonymous.")),
        };
    };
    let subject: Subject = named.parse().map_err(|e: portcullis_model::principal::InvalidSubject| {
        ApiError::new(Side::Caller, "invalid-owner", e.to_string())
    })?;
    if subject == Subject::Anonymous {
        return Ok(Arc::new(Principal::anonymous(tenant.clone())));
    }
    let known = admin.directories.load().principal(tenant, &subject);
    let known = known.ok_or_else(|| ApiError::new(Side::Caller, "not-found", format!("{subject} does not exist")))?;
    Ok(Arc::new(known))
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
