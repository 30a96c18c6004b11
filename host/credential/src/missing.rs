//! Refusals for want of a credential: what is missing, for whom, and the exact command. Where connecting an account would
//! help, the fault says so by its `need`, of which whoever answers makes a link.

use portcullis_model::{DEFAULT_TENANT, Fault, Principal, Side, Subject, text::deceives};
use portcullis_plugin::{PluginError, PluginFailure};

use crate::{Carried, CredentialPlan, book::Entry};

/// The most characters of a plugin's own words.
const MAX_WORDS: usize = 600;

/// The code where somebody outside does not answer who has to.
pub(crate) const UNAVAILABLE: &str = "credential-unavailable";

/// Who has to own the connection, as `portcullis connect` takes it; none where nobody can.
fn owner(principal: &Principal) -> Option<String> {
    match &principal.subject {
        Subject::User(_) | Subject::Team(_) | Subject::Agent(_) | Subject::Organization => {
            Some(principal.subject_text.to_string())
        }
        // A person without a `User` resource owns nothing; a team of theirs can.
        Subject::External { .. } => {
            Some(principal.teams.first().map_or_else(|| "organization".to_owned(), |t| format!("team:{t}")))
        }
        Subject::Anonymous => None,
    }
}

fn command(plan: &CredentialPlan, owner: &str) -> String {
    let tenant = match plan.tenant.as_str() {
        DEFAULT_TENANT => String::new(),
        tenant => format!(" --tenant {tenant}"),
    };
    format!("Run `portcullis connect {} --owner {owner}{tenant}`, then retry", plan.server)
}

fn fault(plan: &CredentialPlan, side: Side, code: &'static str, message: String) -> Fault {
    Fault::new(side, code, message).server(plan.server.as_str())
}

/// Nothing that this caller may run under.
pub(crate) fn no_connection(
    plan: &CredentialPlan,
    principal: &Principal,
    need: &str,
    suspended: &[std::sync::Arc<Entry>],
) -> Fault {
    if let Some(entry) = suspended.first() {
        let message = format!(
            "the connection {} to {} is suspended: it was made for {}, and the server is at {} now",
            entry.name,
            plan.server,
            entry.origin.as_deref().unwrap_or("a server that did not exist yet"),
            plan.origin
        );
        return fault(plan, Side::Gateway, "connection-suspended", message)
            .next(format!(
                "If the new address is right, approve it: {}",
                command(plan, &entry.owner.subject().to_string())
            ))
            .need(&plan.server, &principal.subject, Some(&entry.name));
    }
    let need = words(need);
    let about = if need.is_empty() { String::new() } else { format!(" ({need})") };
    let message =
        format!("{} has no connected account for {principal}{about}", plan.server, principal = principal.subject_text);
    match owner(principal) {
        Some(owner) => fault(plan, Side::Caller, "missing-credential", message).next(command(plan, &owner)).need(
            &plan.server,
            &principal.subject,
            None,
        ),
        None => fault(plan, Side::Caller, "missing-credential", message)
            .next("Authenticate: nobody in particular can have an account connected".to_owned()),
    }
}

/// The assignment names a connection that does not exist, or that serves others only.
pub(crate) fn named(plan: &CredentialPlan, principal: &Principal, name: &str, exists: bool) -> Fault {
    if exists {
        let message = format!("{}'s connection {name} may not be used for {}", plan.server, principal.subject_text);
        fault(plan, Side::Policy, "connection-not-yours", message)
            .next("Ask its owner or an operator: it serves its owner only, or is a person's own".to_owned())
    } else {
        let message =
            format!("the gateway's assignment names the connection {name} of {}, which does not exist", plan.server);
        let tenant = match plan.tenant.as_str() {
            DEFAULT_TENANT => String::new(),
            tenant => format!(" --tenant {tenant}"),
        };
        fault(plan, Side::Gateway, "missing-credential", message).next(format!(
            "Run `portcullis connect {} --owner organization --name {name}{tenant}`, then retry",
            plan.server
        ))
    }
}

/// A connection without what the server needs. Why a source can't be read names paths, variables and places in Vault: it goes
/// to operators (the log, `describe`, `doctor`), and not to callers and their models.
pub(crate) fn incomplete(plan: &CredentialPlan, principal: &Principal, entry: &Entry, fields: &[&str]) -> Fault {
    let message = format!("the connection {} to {} lacks {}", entry.name, plan.server, fields.join(", "));
    if fields.iter().any(|field| entry.unreadable.contains_key(*field)) {
        // What stands in a variable or a file is mended there, and no page helps.
        return fault(plan, Side::Gateway, "missing-credential", format!("{message}: its secret can't be read"))
            .next("Ask an operator: `portcullis doctor` says why".to_owned());
    }
    let tenant = match plan.tenant.as_str() {
        DEFAULT_TENANT => String::new(),
        tenant => format!(" --tenant {tenant}"),
    };
    let command = format!(
        "Run `portcullis connect {} --owner {} --name {}{tenant}`, then retry",
        plan.server,
        entry.owner.subject(),
        entry.name
    );
    fault(plan, Side::Gateway, "missing-credential", message).next(command).need(
        &plan.server,
        &principal.subject,
        Some(&entry.name),
    )
}

/// A connection of a server with OAuth, without an account.
pub(crate) fn unconnected(plan: &CredentialPlan, entry: &Entry) -> Fault {
    let message = format!("the connection {} to {} has no account signed in", entry.name, plan.server);
    let owner = entry.owner.subject();
    fault(plan, Side::Caller, "missing-credential", message).next(again(plan, &owner, &entry.name)).need(
        &plan.server,
        &owner,
        Some(&entry.name),
    )
}

/// A connection whose access can't be renewed any more.
pub(crate) fn reconnect(plan: &CredentialPlan, carried: &Carried, why: &str) -> Fault {
    let message = format!("{} to {} has to be connected again: {why}", carried.executed_as, plan.server);
    owned(plan, carried, fault(plan, Side::Caller, "missing-credential", message))
}

/// A server that wants more than its connection was granted.
pub(crate) fn scopes(plan: &CredentialPlan, carried: &Carried, wanted: &[String]) -> Fault {
    let wanted = words(&wanted.join(" "));
    let message = format!("{} wants more for this than {} was granted: {wanted}", plan.server, carried.executed_as);
    owned(plan, carried, fault(plan, Side::Caller, "missing-credential", message))
}

/// A token that could not be renewed this time.
pub(crate) fn renewal(plan: &CredentialPlan, why: &str, retry_after_ms: u64) -> Fault {
    let message = format!("the access to {} ended and could not be renewed yet: {why}", plan.server);
    fault(plan, Side::Server, "credential-renewal-failed", message)
        .retry_after_ms(retry_after_ms)
        .next("Try again in a moment; it is tried again by itself as well")
}

/// The token that was kept since the caller signed in has ended, and its identity provider does not answer.
pub(crate) fn sign_in(plan: &CredentialPlan) -> Fault {
    let message = format!("your sign-in could not be renewed at its identity provider, which {} needs", plan.server);
    fault(plan, Side::Gateway, UNAVAILABLE, message)
        .retry_after_ms(1000)
        .next("Try again in a moment; if it lasts, sign in again at this gateway's pages")
}

/// How the owner of what was carried connects it again.
fn owned(plan: &CredentialPlan, carried: &Carried, fault: Fault) -> Fault {
    match (&carried.lent_by, &carried.connection) {
        // The link is the owner's: nobody else can mend it.
        (Some(owner), Some(name)) => fault.next(again(plan, owner, name)).need(&plan.server, owner, Some(name)),
        _ => fault,
    }
}

fn again(plan: &CredentialPlan, owner: &Subject, name: &portcullis_model::Name) -> String {
    let tenant = match plan.tenant.as_str() {
        DEFAULT_TENANT => String::new(),
        tenant => format!(" --tenant {tenant}"),
    };
    format!("Run `portcullis connect {} --owner {owner} --name {name}{tenant}`, then retry", plan.server)
}

/// A resolver without an answer.
pub(crate) fn failed(plan: &CredentialPlan, failure: &PluginFailure) -> Fault {
    match failure {
        PluginFailure::Error(PluginError::Denied { message, .. }) => {
            fault(plan, Side::Policy, "credential-denied", words(message))
        }
        PluginFailure::Error(PluginError::NeedsConsent { url, message }) => {
            fault(plan, Side::Caller, "missing-credential", words(message))
                .next(format!("Go to {}, then retry", words(url)))
        }
        PluginFailure::Timeout
        | PluginFailure::Error(PluginError::Timeout | PluginError::Unavailable(_))
        | PluginFailure::Error(PluginError::Upstream { status: Some(500..), .. }) => {
            let message = format!("what gives out the credential for {} does not answer just now", plan.server);
            fault(plan, Side::Gateway, UNAVAILABLE, message)
                .inside(format!("{}: {failure}", plan.mode))
                .next("Retry; if it lasts, tell the operator with the request id".to_owned())
                .retry_after_ms(1000)
        }
        PluginFailure::PoolFull => fault(
            plan,
            Side::Gateway,
            "credential-resolver-busy",
            "too many credentials are being resolved just now".to_owned(),
        )
        .retry_after_ms(1000),
        // Its way there was told; what follows from it need not fill the log.
        PluginFailure::Quarantined => {
            let message = format!("the credential plugin {} is in quarantine after repeated failures", plan.mode);
            fault(plan, Side::Gateway, "credential-resolver-failed", message)
                .next("Retry in a while; if it lasts, tell the operator with the request id".to_owned())
                .retry_after_ms(1000)
        }
        _ => {
            let message = format!("the credential plugin {} failed ({})", plan.mode, failure.word());
            fault(plan, Side::Gateway, "credential-resolver-failed", message)
                .inside(format!("{}: {failure}", plan.mode))
                .next("Tell the operator, with the request id: the reason is in the gateway's log".to_owned())
        }
    }
}

/// An answer that can't be taken. `why` is for the log.
pub(crate) fn invalid(plan: &CredentialPlan, why: &str) -> Fault {
    fault(plan, Side::Gateway, "credential-invalid", format!("the credential for {} can't be used: {why}", plan.server))
        .inside(format!("what the mode {} gave can't be placed: {why}", plan.mode))
        .next("Tell the operator, with the request id".to_owned())
}

/// What has to be on record can't be.
pub(crate) fn unrecorded(plan: &CredentialPlan) -> Fault {
    let message = format!("passing the caller's token on to {} could not be recorded, so it is refused", plan.server);
    fault(plan, Side::Gateway, "audit-unavailable", message)
        .next("Ask your operator: the audit stream can't be written".to_owned())
}

/// Somebody has to do something before a server takes what a call carries.
pub(crate) fn rejected(plan: &CredentialPlan, what: &str) -> Fault {
    let message = format!("{} refused the credential of this call: {}", plan.server, words(what));
    fault(plan, Side::Caller, "missing-credential", message)
}

/// Another's words, short and on one line.
fn words(text: &str) -> String {
    text.chars().map(|c| if deceives(c) { ' ' } else { c }).take(MAX_WORDS).collect()
}
