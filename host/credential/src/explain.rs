//! Under which account a call would run, and why: the same strategy is asked by the same rules, and nothing is fetched, renewed,
//! remembered or recorded.

use std::sync::Arc;

use http::HeaderMap;
use portcullis_model::{Fault, Name, Principal, Subject, spec::Owner};
use portcullis_plugin::Outcome;

use crate::{ConnectionBook, CredentialPlan, GrantState, Resolver, eligible, missing, resolver::now_ms};

/// A connection of the server, as it is for one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Its name.
    pub name: Name,
    /// Whose it is.
    pub owner: Subject,
    /// In which place it comes for this caller; none where it does not serve them at all.
    pub place: Option<&'static str>,
    /// Why it does not serve anybody, or comes later than others of its place.
    pub but: Vec<&'static str>,
}

/// What a strategy would say.
#[derive(Debug)]
pub struct Choice {
    /// The mode.
    pub mode: String,
    /// The connection that the assignment names.
    pub named: Option<Name>,
    /// Every connection of the server: those that serve the caller first, the best first.
    pub considered: Vec<Considered>,
    /// What the strategy chose; none where it was not asked, because it would ask others in the caller's name.
    pub chosen: Option<Result<Outcome, Fault>>,
}

impl Resolver {
    /// What the strategy of a plan would say for a caller.
    pub async fn explain(
        &self,
        plan: &Arc<CredentialPlan>,
        principal: &Arc<Principal>,
        headers: &Arc<HeaderMap>,
    ) -> Choice {
        let named = plan.target.connection.clone();
        let chosen = if plan.resolver.asks_others() {
            None
        } else {
            let answer = plan.resolver.resolve(principal, headers, &plan.target).await;
            Some(match answer {
                // A call needs more than a choice: what is chosen may lack something, or have to be connected again.
                Ok(resolution) => self.carry(plan, principal, &resolution, now_ms()).map(|_| resolution.outcome),
                Err(failure) => Err(missing::failed(plan, &failure)),
            })
        };
        let considered = self.book().considered(principal, &plan.server, named.as_ref());
        Choice { mode: plan.mode.clone(), named, considered, chosen }
    }
}

impl ConnectionBook {
    /// Every connection of a server, as it is for one caller.
    fn considered(&self, principal: &Principal, server: &Name, named: Option<&Name>) -> Vec<Considered> {
        let serving = self.eligible(principal, server, named);
        let mut found: Vec<Considered> = Vec::new();
        for entry in serving.iter().chain(&self.others(principal, server)) {
            if found.iter().any(|f| f.name == entry.name) {
                continue;
            }
            let mut but = Vec::new();
            if entry.suspended {
                but.push("suspended: its server moved to another origin");
            }
            if !entry.health.is_healthy() {
                but.push("the server refused it the last time");
            }
            let grant = self.status(&principal.tenant, &entry.name).and_then(|now| now.grant);
            if grant.is_some_and(|grant| grant.state == GrantState::Reconnect) {
                but.push("its account has to be connected again");
            }
            if !entry.unreadable.is_empty() {
                but.push("its secrets can't be read");
            }
            let place = place(principal, &entry.owner, self.place_of(principal, entry));
            let place =
                place.or_else(|| serving.iter().any(|s| s.name == entry.name).then_some("named by the assignment"));
            if place.is_none() {
                but.push(if entry.owner_only {
                    "owner-only, and the caller is not its owner"
                } else {
                    "not theirs to use"
                });
            }
            found.push(Considered { name: entry.name.clone(), owner: entry.owner.subject(), place, but });
        }
        found
    }

    fn place_of(&self, principal: &Principal, entry: &crate::book::Entry) -> Option<u8> {
        self.people(&principal.tenant, |people| eligible::rank(people, principal, &entry.owner, entry.owner_only))
    }
}

/// A place of security.md 20 in words.
fn place(principal: &Principal, owner: &Owner, rank: Option<u8>) -> Option<&'static str> {
    rank?;
    Some(match (&principal.subject, owner) {
        (Subject::User(_), Owner::User(_)) | (Subject::Agent(_), Owner::Agent(_)) => "1: their own",
        (Subject::Team(_), Owner::Team(_)) => "1: the team's",
        (Subject::Organization, Owner::Organization(_)) => "1: the organization's",
        (Subject::Team(_), _) => "2: a current member's",
        (Subject::Agent(_), _) => "2: its team's",
        (_, Owner::Team(_)) => "2: a team's",
        (Subject::Organization, _) => "3: a person's",
        _ => "3: the organization's",
    })
}
