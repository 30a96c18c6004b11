//! Whose connection a call runs under where that follows from who is calling.
//!
//! | caller | order |
//! |---|---|
//! | user | their own; then one of a team of theirs; then the organization's; never another person's |
//! | team token | the team's; then a current member's personal one that is not owner-only |
//! | organization token | the organization's; then a team's; then a personal one; neither if owner-only |
//! | agent | its own; then its owner team's, unless owner-only |
//! | external | one of a team of theirs; then the organization's |
//!
//! Within one step: healthy before unhealthy, then the oldest, then by name, so that the choice is the same every time.
//!
//! The host offers only what the caller may run under; this takes no more than the order allows even where it was offered more.

use portcullis_sdk::{Caller, Connection, Kind, Owner, connections};

/// The connection by its name, or what is missing, in words for whoever is calling.
///
/// # Errors
/// Where there is none that fits.
pub fn choose(caller: Caller<'_>, server: &str) -> Result<String, String> {
    let who = Who::read(caller);
    let best = connections()
        .iter()
        .filter_map(|connection| Some((who.step(&connection)?, connection)))
        .min_by(|(a_step, a), (b_step, b)| rank(*a_step, a).cmp(&rank(*b_step, b)));
    best.map(|(_, connection)| connection.id).ok_or_else(|| who.need(server))
}

/// Less is better: the step of the order, then healthy, then oldest, then by name.
fn rank(step: u8, connection: &Connection) -> (u8, bool, u64, &str) {
    (step, !connection.healthy, connection.created_ms, &connection.id)
}

/// What the order depends on.
struct Who {
    kind: Kind,
    /// The name behind the kind in the subject: `alice` of `user:alice`.
    name: String,
    subject: String,
    teams: Vec<String>,
}

impl Who {
    fn read(caller: Caller<'_>) -> Self {
        let subject = caller.subject();
        let name = subject.split_once(':').map_or("", |(_, name)| name).to_owned();
        Self { kind: caller.kind(), name, subject, teams: caller.teams() }
    }

    /// Which step of the caller's order a connection belongs to, from 0; none where it may not be used at all.
    fn step(&self, connection: &Connection) -> Option<u8> {
        let in_my_teams = |team: &String| self.teams.contains(team);
        // "Owner-only" keeps a connection from tokens that stand for more than its owner. A team's members and the
        // organization's people are its owner.
        let shared = !connection.owner_only;
        match (self.kind, &connection.owner) {
            (Kind::User, Owner::User(owner)) => (*owner == self.name).then_some(0),
            (Kind::User | Kind::External, Owner::Team(team)) => in_my_teams(team).then_some(1),
            (Kind::User | Kind::External, Owner::Organization) => Some(2),

            (Kind::Team, Owner::Team(team)) => (*team == self.name).then_some(0),
            // Membership is the host's to know, and it offers none but current members' connections.
            (Kind::Team, Owner::User(_)) => shared.then_some(1),

            (Kind::Organization, Owner::Organization) => Some(0),
            (Kind::Organization, Owner::Team(_)) => shared.then_some(1),
            (Kind::Organization, Owner::User(_)) => shared.then_some(2),

            (Kind::Agent, Owner::Agent(owner)) => (*owner == self.name).then_some(0),
            (Kind::Agent, Owner::Team(team)) => (shared && in_my_teams(team)).then_some(1),

            // Nobody in particular, kinds unknown to this version, and everything that the order does not name.
            _ => None,
        }
    }

    /// What is missing, in words for whoever is calling.
    fn need(&self, server: &str) -> String {
        let teams = self.teams.join(", ");
        let owners = match self.kind {
            Kind::User if teams.is_empty() => format!("of {} or of the organization", self.subject),
            Kind::User => format!("of {}, of one of their teams ({teams}) or of the organization", self.subject),
            Kind::Team => format!("of {} or of a member who shares theirs with the team", self.subject),
            Kind::Organization => "of the organization, of a team or of a person who shares theirs".to_owned(),
            Kind::Agent if teams.is_empty() => format!("of {}", self.subject),
            Kind::Agent => format!("of {} or of its team ({teams})", self.subject),
            Kind::External if teams.is_empty() => {
                format!("of the organization, which alone may serve {}", self.subject)
            }
            Kind::External => format!("of one of the teams ({teams}) of {} or of the organization", self.subject),
            _ => {
                return format!(
                    "a caller with a name: {} may not run under anybody's connection to \"{server}\"",
                    self.subject
                );
            }
        };
        format!("a connection to \"{server}\" {owners}")
    }
}
