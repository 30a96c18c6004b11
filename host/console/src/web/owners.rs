//! For whom somebody may connect a server, in the words of a page. Who may is `permission`'s to say.

use portcullis_identity::{
    Whose,
    permission::{Action, may},
};
use portcullis_model::{Name, Principal, Subject};

use super::Web;

/// The most owners that a page offers. The command line knows the others.
const MOST: usize = 200;

/// A possible owner of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who.
    pub owner: Subject,
    /// What people read, such as `Me` or `Team blue`.
    pub label: String,
    /// What that means.
    pub hint: &'static str,
}

impl Choice {
    /// How a choice of this owner is shown to a person.
    pub fn of(principal: &Principal, owner: &Subject) -> Self {
        let (label, hint) = match owner {
            _ if *owner == principal.subject => ("Me".to_owned(), "Your own account, for your own calls."),
            Subject::User(name) => (format!("User {name}"), "Another person's own account."),
            Subject::Team(name) => (format!("Team {name}"), "An account that everybody in the team works with."),
            Subject::Agent(name) => (format!("Agent {name}"), "An account for a program that is no person."),
            Subject::Organization => ("The organization".to_owned(), "An account that everybody here works with."),
            Subject::External { .. } | Subject::Anonymous => ("Nobody".to_owned(), ""),
        };
        Self { owner: owner.clone(), label, hint }
    }
}

/// The subject with what decides about it; none where it does not exist.
pub fn whose(web: &Web, tenant: &Name, subject: &Subject) -> Option<Whose> {
    web.directories.load().whose(tenant, subject)
}

/// Whether somebody may connect a server for an owner.
pub fn may_install(web: &Web, principal: &Principal, owner: &Subject) -> bool {
    whose(web, &principal.tenant, owner).is_some_and(|whose| may(principal, &Action::Install(&whose)))
}

/// Everybody for whom a person may connect a server, themselves first.
pub fn choices(web: &Web, principal: &Principal) -> Vec<Choice> {
    let (tenant, fleet) = (&principal.tenant, web.registry.snapshot());
    let mut owners = vec![principal.subject.clone()];
    owners.extend(fleet.teams(tenant).map(|t| Subject::Team(t.metadata.name.clone())));
    owners.push(Subject::Organization);
    owners.extend(fleet.agents(tenant).map(|a| Subject::Agent(a.metadata.name.clone())));
    let allowed = owners.into_iter().filter(|owner| may_install(web, principal, owner));
    allowed.take(MOST).map(|owner| Choice::of(principal, &owner)).collect()
}

/// Of those, the ones whose connection would serve the caller that a link was made for (security.md 20): connecting another
/// would leave the call where it was.
pub fn serving(web: &Web, principal: &Principal, wanted: &Subject) -> Vec<Choice> {
    let team = whose(web, &principal.tenant, wanted).and_then(|whose| whose.team);
    let mut found = choices(web, principal);
    found.retain(|choice| match (wanted, &choice.owner) {
        (Subject::User(_), owner) => owner == wanted,
        (Subject::External { .. }, Subject::Team(team)) => principal.teams.contains(team),
        (Subject::External { .. } | Subject::Organization, Subject::Organization) => true,
        (Subject::Team(wanted), Subject::User(_)) => principal.teams.contains(wanted),
        (Subject::Team(wanted), Subject::Team(owner)) => wanted == owner,
        (Subject::Agent(wanted), Subject::Agent(owner)) => wanted == owner,
        (Subject::Agent(_), Subject::Team(owner)) => team.as_ref() == Some(owner),
        _ => false,
    });
    found
}
