//! Who may do what: one table of the four built-in roles, which the pages, the admin API and OAuth ask.
//!
//! A role is held because a `Role` resource of its name lists the principal, or because an auth plugin that was granted the
//! role gave it. `member` is held by every person of the tenant without being given: it covers what is their own.
//! `team-admin` counts for the teams that its holder belongs to, and for those teams' agents. Tokens of teams, agents and
//! the organization are no people: they see what they may run under, and do what a role of theirs says.
//!
//! Everything here is about the principal's own tenant. Whoever asks about another tenant is answered "not found" before
//! anybody asks here.

use portcullis_model::{Kind, Name, Principal, Subject};

/// The role that may do everything in its tenant.
pub const ADMIN: &str = "admin";
/// The role that runs servers, gateways and policies, and sees how they do.
pub const OPERATOR: &str = "operator";
/// The role that acts for the teams that its holder belongs to.
pub const TEAM_ADMIN: &str = "team-admin";

/// Somebody that something may belong to, with what decides about it. [`crate::Directory::whose`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// Who.
    pub subject: Subject,
    /// The team that answers: a team itself, or that of an agent.
    pub team: Option<Name>,
    /// The roles that whoever acts as `subject` has.
    pub roles: Vec<Name>,
}

/// Something that somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Connect a server for somebody, give new secrets, or choose whom a connection of theirs serves.
    Install(&'a Whose),
    /// Remove a connection of somebody.
    Disconnect(&'a Whose),
    /// Open the connect link that somebody's call was answered with (security.md 21). What can be connected there, and for
    /// whom, is [`Action::Install`]'s.
    OpenLink(&'a Whose),
    /// Make a token that acts as somebody. Nobody makes one with a role that they do not have.
    CreateToken(&'a Whose),
    /// Revoke a token of somebody.
    RevokeToken(&'a Whose),
    /// See which tokens somebody has; never their text.
    SeeTokens(&'a Whose),
    /// Make a one-time code that signs a browser in as somebody.
    SignInCode(&'a Whose),
    /// See a resource. `whose` is the owner of a `Connection`, or the `User`, `Team` or `Agent` itself.
    See(Kind, Option<&'a Whose>),
    /// Make, change or delete a resource of this kind. A `Connection` is [`Action::Install`]'s.
    Administer(Kind),
    /// Say who belongs to a team that exists.
    ChangeMembers(&'a Whose),
    /// Change who is believed and what plugins may do beyond deciding: a gateway's auth providers, a plugin's grants.
    Trust,
    /// Name programs, files, variables or other providers' secrets, all of which the gateway uses under its own rights. Only the
    /// default tenant's admins: whoever runs a program on the machine reaches every tenant.
    Machine,
    /// See how the gateway and its servers do, read their logs, restart them.
    Operate,
}

/// What a principal is to somebody.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// The same.
    Own,
    /// Of the team that it is, or that answers for it.
    Mate,
    /// Neither.
    Other,
}

fn relation(principal: &Principal, whose: &Whose) -> Relation {
    if principal.subject == whose.subject {
        Relation::Own
    } else if whose.team.as_ref().is_some_and(|team| principal.teams.contains(team)) {
        Relation::Mate
    } else {
        Relation::Other
    }
}

/// Whether a principal may do something in its own tenant.
pub fn may(principal: &Principal, action: &Action<'_>) -> bool {
    if principal.subject == Subject::Anonymous {
        return false;
    }
    let holds = |role: &str| principal.roles.iter().any(|r| r.as_str() == role);
    let (admin, operator) = (holds(ADMIN), holds(OPERATOR));
    // What is their own counts for people with a `User` resource: others own nothing, or are no people.
    let own =
        |whose: &Whose| matches!(principal.subject, Subject::User(_)) && relation(principal, whose) == Relation::Own;
    let of_own_team = |whose: &Whose| whose.team.as_ref().is_some_and(|team| principal.teams.contains(team));
    let leads = |whose: &Whose| holds(TEAM_ADMIN) && of_own_team(whose);
    match *action {
        Action::Install(whose) => own(whose) || leads(whose) || admin,
        Action::Disconnect(whose) | Action::RevokeToken(whose) => own(whose) || leads(whose) || operator || admin,
        Action::OpenLink(whose) => match &whose.subject {
            // Nobody opens another person's, whatever they may do else.
            Subject::User(_) | Subject::External { .. } => relation(principal, whose) == Relation::Own,
            Subject::Team(_) => person(principal) && (of_own_team(whose) || admin),
            Subject::Agent(_) => person(principal) && (leads(whose) || admin),
            Subject::Organization => person(principal) && admin,
            Subject::Anonymous => false,
        },
        Action::CreateToken(whose) => {
            let has_them = whose.roles.iter().all(|role| principal.roles.contains(role));
            admin || (has_them && (own(whose) || leads(whose)))
        }
        Action::SeeTokens(whose) => own(whose) || leads(whose) || operator || admin,
        Action::SignInCode(_) | Action::Trust => admin,
        Action::Machine => admin && principal.tenant == Name::default_tenant(),
        Action::See(kind, whose) => {
            let open = match (kind, whose) {
                (Kind::McpServer, _) => true,
                (Kind::Connection, Some(whose)) if whose.subject == Subject::Organization => true,
                (Kind::Connection | Kind::User | Kind::Team | Kind::Agent, Some(whose)) => {
                    relation(principal, whose) != Relation::Other
                }
                _ => false,
            };
            open || operator || admin
        }
        Action::Administer(Kind::McpServer | Kind::Gateway | Kind::Plugin) => operator || admin,
        Action::Administer(_) => admin,
        Action::ChangeMembers(whose) => (matches!(whose.subject, Subject::Team(_)) && leads(whose)) || admin,
        Action::Operate => operator || admin,
    }
}

/// Whether a principal is a person, with or without a `User` resource.
fn person(principal: &Principal) -> bool {
    matches!(principal.subject, Subject::User(_) | Subject::External { .. })
}

#[cfg(test)]
mod tests;
