//! How a connection is doing, in one word and one sentence.

use maud::{Markup, html};
use portcullis_credential::{GrantState, Orphaned};
use portcullis_model::Name;

use super::Web;

/// How a connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It works, as far as anybody knows.
    Ok,
    /// The server refused it the last time it was used.
    Refused,
    /// The server moved to another origin since it was made (security.md 4).
    Suspended,
    /// The authorization server refused to renew its access: why.
    Reconnect(String),
    /// It has not all that its server asks for: what it lacks.
    Incomplete(String),
    /// Its secrets can't be read. Why names paths and variables, which is for operators.
    Unreadable,
    /// Its server does not exist.
    NoServer,
    /// It serves nobody, since it is nobody's: why.
    Orphaned(Orphaned),
}

impl State {
    /// Of a connection, now.
    pub fn of(web: &Web, tenant: &Name, connection: &Name, server: &Name) -> Self {
        let fleet = web.registry.snapshot();
        let Some(found) = fleet.server(tenant, server) else { return Self::NoServer };
        if let Some(why) = web.book.orphaned(tenant, connection) {
            return Self::Orphaned(why);
        }
        match web.book.status(tenant, connection) {
            None => Self::NoServer,
            Some(now) if now.suspended => Self::Suspended,
            Some(now) if !now.unreadable.is_empty() => Self::Unreadable,
            Some(now) if now.grant.as_ref().is_some_and(|g| g.state == GrantState::Reconnect) => {
                Self::Reconnect(now.grant.and_then(|g| g.why).unwrap_or_default())
            }
            Some(now) => match web.book.lacks(tenant, server, found.spec, connection) {
                Some(why) => Self::Incomplete(why),
                None if !now.healthy => Self::Refused,
                None => Self::Ok,
            },
        }
    }

    /// One word, for lists.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ok => "Works",
            Self::Refused => "Refused",
            Self::Suspended => "Suspended",
            Self::Reconnect(_) | Self::Incomplete(_) => "Connect again",
            Self::Unreadable => "Unreadable",
            Self::NoServer => "Server gone",
            Self::Orphaned(Orphaned::NoOwner) => "Owner gone",
            Self::Orphaned(Orphaned::EarlierOwner) => "Connect again",
        }
    }

    /// What that means, and what to do about it.
    pub fn sentence(&self) -> String {
        match self {
            Self::Ok => "Calls can run under it.".to_owned(),
            Self::Refused => {
                "The server refused it the last time it was used. If that goes on, connect again.".to_owned()
            }
            Self::Suspended => "The server moved to another address since this was connected. If the new address is \
                                right, connect again to approve it; until then nothing is sent there."
                .to_owned(),
            Self::Reconnect(why) if why.is_empty() => {
                "The server's authorization server ended its access. Connect again.".to_owned()
            }
            Self::Reconnect(why) => format!("Its access ended: {}. Connect again.", why.trim_end_matches('.')),
            Self::Incomplete(why) => format!("No call can be made under it: {why}. Connect again."),
            Self::Unreadable => "Its secrets can't be read. Ask an operator.".to_owned(),
            Self::NoServer => "The server that it connects does not exist any more.".to_owned(),
            Self::Orphaned(why) => format!("It serves nobody: {why}."),
        }
    }

    /// The word as a mark whose colour says nothing that the word does not.
    pub fn mark(&self) -> Markup {
        let class = match self {
            Self::Ok => "state good",
            Self::Refused
            | Self::Suspended
            | Self::Reconnect(_)
            | Self::Incomplete(_)
            | Self::Orphaned(Orphaned::EarlierOwner) => "state warn",
            Self::Unreadable | Self::NoServer | Self::Orphaned(Orphaned::NoOwner) => "state bad",
        };
        html! { span class=(class) { (self.word()) } }
    }
}
