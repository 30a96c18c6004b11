//! Phase 6 for what is no tool call: what policies say of lists, resources, prompts and methods that nobody here knows.
//!
//! Where a gateway has policies and none of them decides about resources (or prompts), nobody may use them: whoever wrote
//! rules about tools did not mean that everything else is open. Decision 9.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_model::{Fault, Principal, Side, spec::Failure};
use portcullis_plugin::{
    Decision, Item, ListKind, PluginFailure, PromptFacts, PromptPurpose, ReadFacts, ReadPurpose, RequestFacts,
};
use portcullis_protocol::{ParseLimits, strict};

use crate::{asked::Asked, catalogue::Kind, conversation::Who, failure, policy::Policy, view::View};

/// The code of a refusal that a person could lift.
pub const APPROVAL: &str = "approval-required";
/// How the audit calls such a decision.
pub const REQUIRE_APPROVAL: &str = "require-approval";
/// How long the policies may take over a list.
const LIST_TIME: Duration = Duration::from_secs(10);

/// The request as policies are told of it.
pub fn request_facts(asked: &Asked<'_>, deadline: Instant) -> RequestFacts {
    RequestFacts {
        gateway: asked.view.name.clone(),
        request_id: Arc::clone(asked.request_id),
        headers: Arc::clone(asked.headers),
        deadline,
        attributes: asked.attributes.clone(),
    }
}

fn list_kind(kind: Kind) -> ListKind {
    match kind {
        Kind::Tools => ListKind::Tools,
        Kind::Prompts => ListKind::Prompts,
        Kind::Resources => ListKind::Resources,
        Kind::Templates => ListKind::Templates,
    }
}

/// The rows of a list that every policy leaves in it; each policy is asked once. `item` gives a row's server and own name.
///
/// # Errors
/// A policy's refusal, or its failure.
pub async fn filter<'r, R: Copy>(
    asked: &Asked<'_>,
    kind: Kind,
    mut rows: Vec<R>,
    item: impl Fn(R) -> Item<'r>,
) -> Result<Vec<R>, Fault> {
    if kind != Kind::Tools && !asked.view.policies.decide_about(kind) {
        return Ok(Vec::new());
    }
    let request = request_facts(asked, asked.started + LIST_TIME);
    for policy in asked.view.policies.iter().filter(|p| p.hooks().list_filter) {
        let applies = |about: &Item<'_>| {
            policy.applies_to_all() || policy.applies(asked.principal, kind, about.server, about.name)
        };
        let kept = {
            // It is not told of what it is not asked about.
            let items: Vec<Item<'_>> = rows.iter().map(|row| item(*row)).filter(applies).collect();
            if items.is_empty() && !rows.is_empty() {
                continue;
            }
            policy.filter(asked.principal, &request, list_kind(kind), &items).await
        };
        match kept {
            Ok(kept) => {
                let mut kept = kept.into_iter().peekable();
                let mut at = 0u32;
                rows.retain(|row| {
                    if !applies(&item(*row)) {
                        return true;
                    }
                    let stays = kept.next_if_eq(&at).is_some();
                    at += 1;
                    stays
                });
            }
            Err(_) if policy.on_error == Failure::Allow => {}
            Err(error) => {
                tracing::warn!(request = &**asked.request_id, policy = policy.name(), failure = %error, "list filter failed");
                return Err(failure::meaning(&error).unwrap_or_else(|| failure::fault("policy", policy.name(), &error)));
            }
        }
    }
    Ok(rows)
}

/// Whether a policy leaves this out of this caller's list, so that a refusal must not tell that there is such a thing. A
/// filter that fails hides nothing here: then the list is refused as a whole, and says so.
pub async fn is_hidden(asked: &Asked<'_>, kind: Kind, server: &str, name: &str, deadline: Instant) -> bool {
    let request = request_facts(asked, deadline);
    let policies = asked.view.policies.enforced(asked.principal, kind, server, name);
    for policy in policies.filter(|p| p.hooks().list_filter) {
        let kept = policy.filter(asked.principal, &request, list_kind(kind), &[Item { server, name }]).await;
        if kept.is_ok_and(|kept| kept.is_empty()) {
            return true;
        }
    }
    false
}

/// Whether arguments can be read in one way only.
pub fn is_readable(arguments: &[u8]) -> bool {
    let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
    arguments.starts_with(b"{") && strict::check(arguments, &limits).is_ok()
}

/// What a policy's answer means: nothing, something in the old one's place, or a refusal.
///
/// # Errors
/// The refusal.
pub fn meaning(
    asked: &Asked<'_>,
    policy: &Policy,
    decision: Result<Decision, PluginFailure>,
) -> Result<Option<Bytes>, Fault> {
    meaning_for(asked.request_id, policy, decision)
}

/// The same for a request of which only its id is at hand.
///
/// # Errors
/// The refusal.
pub fn meaning_for(
    request_id: &str,
    policy: &Policy,
    decision: Result<Decision, PluginFailure>,
) -> Result<Option<Bytes>, Fault> {
    match decision {
        Ok(Decision::Allow) => Ok(None),
        Ok(Decision::Modify(new)) => Ok(Some(new)),
        Ok(Decision::Deny { code, message }) => {
            tracing::debug!(request = request_id, policy = policy.name(), code, "denied");
            Err(Fault::new(Side::Policy, "denied", message).next("Ask your operator if you need this"))
        }
        Ok(Decision::RequireApproval(what)) => {
            Err(Fault::new(Side::Policy, APPROVAL, format!("this call needs an approval: {what}"))
                .next("Ask your operator: nobody can approve single calls yet, so the rule has to change"))
        }
        Err(error) => match failure::meaning(&error) {
            Some(refusal) => Err(refusal),
            None if policy.on_error == Failure::Allow => Ok(None),
            None => {
                tracing::warn!(request = request_id, policy = policy.name(), failure = %error, "policy failed");
                Err(failure::fault("policy", policy.name(), &error))
            }
        },
    }
}

/// What a policy puts in the place of what was asked, where everybody reads it the same way. The next policy judges by it and the
/// server gets it, so a key that stands twice would let the one read what the other does not (security decision 14).
///
/// # Errors
/// `plugin-invalid`, whatever the policy's failures mean.
pub fn unambiguous(policy: &str, new: Bytes) -> Result<Bytes, Fault> {
    let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
    match strict::check(&new, &limits) {
        Ok(()) => Ok(new),
        Err(error) => {
            tracing::warn!(policy, %error, "a policy put something in place that can be read in two ways");
            Err(Fault::new(
                Side::Gateway,
                "plugin-invalid",
                "a policy answered with something that can be read in two ways",
            ))
        }
    }
}

/// Whether everybody reads a server's result the same way: a policy judges by it, and the client gets it.
///
/// # Errors
/// `server-protocol`.
pub fn result_reads_one_way(result: &[u8]) -> Result<(), Fault> {
    let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
    strict::check(result, &limits).map_err(|_| {
        Fault::new(
            Side::Server,
            "server-protocol",
            "the server's result can be read in two ways, and a policy judges it",
        )
    })
}

/// Whether what a policy puts in the place of a tool's result is one: clients read its `content` where the server's had some
/// (2025-11-25, `CallToolResult`).
///
/// # Errors
/// `plugin-invalid`.
pub fn is_still_a_result(policy: &str, before: &[u8], new: &[u8]) -> Result<(), Fault> {
    #[derive(serde::Deserialize)]
    struct Contents {
        content: Option<Vec<serde::de::IgnoredAny>>,
    }
    let read = |text: &[u8]| {
        let object = text.trim_ascii_start().starts_with(b"{").then_some(text)?;
        serde_json::from_slice::<Contents>(object).ok().map(|found| found.content.is_some())
    };
    match (read(before), read(new)) {
        (_, Some(true)) | (Some(false), Some(false)) => Ok(()),
        _ => {
            tracing::warn!(policy, "a policy's new result has no content");
            Err(Fault::new(Side::Gateway, "plugin-invalid", "a policy answered with an invalid result"))
        }
    }
}

/// Whether a resource may be read (or subscribed to, or its template completed).
///
/// # Errors
/// The refusal.
pub async fn read(
    asked: &Asked<'_>,
    server: &portcullis_model::Name,
    uri: &str,
    exposed: &str,
    purpose: ReadPurpose,
    deadline: Instant,
) -> Result<(), Fault> {
    read_by(&Who::of(asked), server, uri, exposed, purpose, deadline).await
}

/// The same where a request is not at hand any more.
///
/// # Errors
/// The refusal.
pub async fn read_by(
    who: &Who,
    server: &portcullis_model::Name,
    uri: &str,
    exposed: &str,
    purpose: ReadPurpose,
    deadline: Instant,
) -> Result<(), Fault> {
    let kind = if purpose == ReadPurpose::Complete { Kind::Templates } else { Kind::Resources };
    if !who.view.policies.decide_about(kind) {
        return Err(undecided("resources"));
    }
    let request = RequestFacts {
        gateway: who.view.name.clone(),
        request_id: Arc::clone(&who.request_id),
        headers: Arc::clone(&who.headers),
        deadline,
        attributes: who.attributes.clone(),
    };
    let facts = ReadFacts { server: server.clone(), uri: Arc::from(uri), exposed_uri: Arc::from(exposed), purpose };
    for policy in who.view.policies.about(&who.principal, kind, server.as_str(), uri) {
        let hooks = policy.hooks();
        if hooks.resource_read {
            meaning_for(&who.request_id, policy, policy.read(&who.principal, &request, &facts).await)?;
        } else if hooks.list_filter {
            listed(&who.principal, policy, kind, &request, server.as_str(), uri).await?;
        }
    }
    Ok(())
}

/// Whether a prompt may be fetched (or an argument of it completed), and with which arguments, where a policy changed them.
///
/// # Errors
/// The refusal.
pub async fn prompt(
    asked: &Asked<'_>,
    server: &portcullis_model::Name,
    prompt: &str,
    exposed: &str,
    purpose: PromptPurpose,
    arguments: Bytes,
    deadline: Instant,
) -> Result<Option<Bytes>, Fault> {
    if !asked.view.policies.decide_about(Kind::Prompts) {
        return Err(undecided("prompts"));
    }
    let request = request_facts(asked, deadline);
    let (prompt, exposed_prompt) = (Arc::from(prompt), Arc::from(exposed));
    let mut facts = PromptFacts { server: server.clone(), prompt, exposed_prompt, arguments, purpose };
    let mut changed = None;
    let own = Arc::clone(&facts.prompt);
    for policy in asked.view.policies.about(asked.principal, Kind::Prompts, server.as_str(), &own) {
        let hooks = policy.hooks();
        if hooks.prompt_get {
            let decision = policy.prompt(asked.principal, &request, &facts).await;
            if let Some(new) = meaning(asked, policy, decision)?.filter(|_| purpose == PromptPurpose::Get) {
                let new = unambiguous(policy.name(), new)?;
                facts.arguments = new.clone();
                changed = Some(new);
            }
        } else if hooks.list_filter {
            listed(asked.principal, policy, Kind::Prompts, &request, server.as_str(), &facts.prompt).await?;
        }
    }
    Ok(changed)
}

/// A policy that filters lists and has no hook of its own for this decides by its list: what is not in it may not be used.
async fn listed(
    principal: &Arc<Principal>,
    policy: &Policy,
    kind: Kind,
    request: &RequestFacts,
    server: &str,
    name: &str,
) -> Result<(), Fault> {
    let kept = policy.filter(principal, request, list_kind(kind), &[Item { server, name }]).await;
    match kept {
        Ok(kept) if kept.is_empty() => {
            Err(Fault::new(Side::Policy, "denied", "no rule lets you use this").next("Ask your operator"))
        }
        Ok(_) => Ok(()),
        Err(error) => meaning_for(&request.request_id, policy, Err(error)).map(drop),
    }
}

/// Whether a method that nobody here knows may pass: no policy can say what it does.
///
/// # Errors
/// A refusal where there are policies.
pub fn unknown_method(view: &View) -> Result<(), Fault> {
    if !view.policies.enforce() { Ok(()) } else { Err(undecided("this method")) }
}

fn undecided(what: &str) -> Fault {
    Fault::new(Side::Policy, "undecided", format!("no policy of this gateway decides about {what}, so it is refused"))
        .next("Ask your operator for a policy that does")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_puts_in_place_reads_one_way() {
        let judged = |text: &'static str| unambiguous("p", Bytes::from_static(text.as_bytes())).map_err(|f| f.code);
        assert!(judged(r#"{"path":"/ok","more":[{"a":1}]}"#).is_ok());
        for twice in [r#"{"path":"/ok","path":"/etc"}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#, r#"{"a":"\ud800"}"#, "{"] {
            assert_eq!(judged(twice), Err("plugin-invalid"), "{twice}");
            assert_eq!(result_reads_one_way(twice.as_bytes()).map_err(|f| f.code), Err("server-protocol"), "{twice}");
        }
    }

    #[test]
    fn what_takes_the_place_of_a_result_has_content_as_it_had() {
        let fits = |before: &str, new: &str| is_still_a_result("p", before.as_bytes(), new.as_bytes()).is_ok();
        let before = r#"{"content":[{"type":"text","text":"x"}],"isError":false}"#;
        assert!(fits(before, r#"{"content":[]}"#) && fits(before, before));
        for bad in [r#"{"content":7}"#, "{}", "[]", "[[]]", "7", r#"{"content":null}"#] {
            assert!(!fits(before, bad), "{bad}");
        }
        assert!(fits(r#"{"task":{"taskId":"1"}}"#, r#"{"task":{"taskId":"2"}}"#), "other kinds of results have none");
        assert!(!fits(r#"{"task":{}}"#, r#"{"content":7}"#));
    }
}
