//! Whose account: security.md 20, exactly.
//!
//! Lower ranks come first; within one, healthy ones and then the oldest.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_model::{Name, Principal, Subject, spec::Owner};

/// Who belongs to whom in a tenant, as far as connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct People {
    /// Members of each team that exists.
    pub(crate) teams: BTreeMap<Name, BTreeSet<Name>>,
    /// The owner team of each agent that exists.
    pub(crate) agents: BTreeMap<Name, Option<Name>>,
}

/// The place of a connection of this owner for this caller; none where it may not be used.
///
/// | caller | order |
/// |---|---|
/// | user | own; a team's of theirs; the organization's |
/// | team | the team's; a current member's unless owner-only |
/// | organization | the organization's; a team's unless owner-only; anybody's personal one unless owner-only |
/// | agent | its own; its owner team's unless owner-only |
/// | external | a team's of theirs; the organization's: a person who can own nothing here |
/// | anonymous | none |
pub(crate) fn rank(people: &People, principal: &Principal, owner: &Owner, owner_only: bool) -> Option<u8> {
    let in_team = |team: &Name| people.teams.contains_key(team) && principal.teams.contains(team);
    match (&principal.subject, owner) {
        (Subject::User(user), Owner::User(owner)) => (user == owner).then_some(0),
        (Subject::User(_) | Subject::External { .. }, Owner::Team(team)) => in_team(team).then_some(1),
        (Subject::User(_) | Subject::External { .. }, Owner::Organization(_)) => Some(2),
        (Subject::Team(team), Owner::Team(owner)) => (team == owner).then_some(0),
        (Subject::Team(team), Owner::User(owner)) => {
            (!owner_only && people.teams.get(team).is_some_and(|members| members.contains(owner))).then_some(1)
        }
        (Subject::Organization, Owner::Organization(_)) => Some(0),
        (Subject::Organization, Owner::Team(_)) => (!owner_only).then_some(1),
        (Subject::Organization, Owner::User(_)) => (!owner_only).then_some(2),
        (Subject::Agent(agent), Owner::Agent(owner)) => (agent == owner).then_some(0),
        (Subject::Agent(agent), Owner::Team(owner)) => {
            let team = people.agents.get(agent).and_then(Option::as_ref);
            (!owner_only && team == Some(owner)).then_some(1)
        }
        (Subject::User(_) | Subject::External { .. }, Owner::Agent(_))
        | (Subject::Team(_), Owner::Organization(_) | Owner::Agent(_))
        | (Subject::Organization, Owner::Agent(_))
        | (Subject::Agent(_), Owner::User(_) | Owner::Organization(_))
        | (Subject::External { .. }, Owner::User(_))
        | (Subject::Anonymous, _) => None,
    }
}

/// Whether the operator's naming a connection in an assignment is enough for this caller.
///
/// The organization's serves whoever the gateway lets in. A team's does too, unless it is owner-only. A person's and an
/// agent's never serve others because somebody else wrote their name somewhere: there the ordinary rules hold.
pub(crate) fn named(people: &People, principal: &Principal, owner: &Owner, owner_only: bool) -> bool {
    match owner {
        Owner::Organization(_) => true,
        Owner::Team(_) if !owner_only => true,
        _ => rank(people, principal, owner, owner_only).is_some(),
    }
}
