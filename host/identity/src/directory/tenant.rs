//! Users, teams, roles and agents of one tenant, and whose word counts about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portcullis_model::{Name, Principal, Subject, spec::Identity};
use portcullis_store::Fleet;

use super::Ambiguous;
use crate::clock::millis;

/// One tenant's people. All lists are sorted and without doubles.
#[derive(Debug, Default)]
pub(super) struct TenantDirectory {
    pub(super) users: HashMap<Name, Person>,
    pub(super) teams: HashMap<Name, Group>,
    pub(super) agents: HashMap<Name, Machine>,
    /// Users and agents by issuer, then by subject; none where several claim one identity.
    identities: HashMap<String, HashMap<String, Option<Subject>>>,
    /// Teams by issuer, then by the issuer's group.
    groups: HashMap<String, HashMap<String, Vec<Name>>>,
    roles_of_users: HashMap<Name, BTreeSet<Name>>,
    roles_of_teams: HashMap<Name, BTreeSet<Name>>,
    roles_of_agents: HashMap<Name, BTreeSet<Name>>,
    pub(super) providers: HashMap<Name, Provider>,
}

/// What an identity provider's word counts for.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) issuer: String,
    pub(super) max_sign_in_age_ms: u64,
    pub(super) anybody: bool,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) display_name: Option<String>,
    pub(super) created_ms: u64,
    pub(super) teams: Vec<Name>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) title: Option<String>,
    pub(super) created_ms: u64,
    pub(super) members: Vec<Name>,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) title: Option<String>,
    pub(super) created_ms: u64,
    pub(super) team: Option<Name>,
}

impl TenantDirectory {
    pub(super) fn compile(fleet: &Fleet, tenant: &Name) -> Self {
        let mut all = Self::default();
        for user in fleet.users(tenant) {
            let name = &user.metadata.name;
            all.claim(&user.spec.identities, &Subject::User(name.clone()));
            let person = Person {
                display_name: user.spec.display_name.clone(),
                created_ms: user.metadata.created_ms.unwrap_or(0),
                teams: Vec::new(),
            };
            all.users.insert(name.clone(), person);
        }
        for team in fleet.teams(tenant) {
            let name = &team.metadata.name;
            let mut members = BTreeSet::new();
            for member in &team.spec.members {
                // A member who does not exist gets the team when it appears: its resource changes the directory.
                if let Some(person) = all.users.get_mut(member)
                    && members.insert(member.clone())
                {
                    // Teams come in the order of their names, so these lists are sorted.
                    person.teams.push(name.clone());
                }
            }
            for group in &team.spec.groups {
                let teams = all.groups.entry(group.issuer.clone()).or_default().entry(group.group.clone()).or_default();
                if teams.last() != Some(name) {
                    teams.push(name.clone());
                }
            }
            let group = Group {
                title: team.spec.title.clone(),
                created_ms: team.metadata.created_ms.unwrap_or(0),
                members: members.into_iter().collect(),
            };
            all.teams.insert(name.clone(), group);
        }
        for agent in fleet.agents(tenant) {
            let machine = Machine {
                title: agent.spec.title.clone(),
                created_ms: agent.metadata.created_ms.unwrap_or(0),
                team: agent.spec.team.clone().filter(|team| all.teams.contains_key(team)),
            };
            all.claim(&agent.spec.identities, &Subject::Agent(agent.metadata.name.clone()));
            all.agents.insert(agent.metadata.name.clone(), machine);
        }
        for provider in fleet.identity_providers(tenant).filter(|p| p.spec.sign_in) {
            let counts = Provider {
                issuer: provider.spec.issuer.clone(),
                max_sign_in_age_ms: millis(provider.spec.max_sign_in_age.get()),
                anybody: provider.spec.anybody,
            };
            all.providers.insert(provider.metadata.name.clone(), counts);
        }
        for role in fleet.roles(tenant) {
            let give = |holders: &[Name], to: &mut HashMap<Name, BTreeSet<Name>>| {
                for holder in holders {
                    to.entry(holder.clone()).or_default().insert(role.metadata.name.clone());
                }
            };
            give(&role.spec.users, &mut all.roles_of_users);
            give(&role.spec.teams, &mut all.roles_of_teams);
            give(&role.spec.agents, &mut all.roles_of_agents);
        }
        all
    }

    fn claim(&mut self, identities: &[Identity], whose: &Subject) {
        for identity in identities {
            self.identities
                .entry(identity.issuer.clone())
                .or_default()
                .entry(identity.subject.clone())
                .and_modify(|claimed| {
                    if claimed.as_ref() != Some(whose) {
                        *claimed = None;
                    }
                })
                .or_insert_with(|| Some(whose.clone()));
        }
    }

    pub(super) fn principal(&self, tenant: &Name, subject: &Subject) -> Option<Principal> {
        let mut principal = Principal::new(tenant.clone(), subject.clone());
        match subject {
            Subject::Organization | Subject::Anonymous => {}
            Subject::User(name) => {
                let person = self.users.get(name)?;
                principal.display_name.clone_from(&person.display_name);
                principal.teams.clone_from(&person.teams);
                principal.roles = self.roles(self.roles_of_users.get(name), &principal.teams);
            }
            Subject::Team(name) => {
                let group = self.teams.get(name)?;
                principal.display_name.clone_from(&group.title);
                principal.teams = vec![name.clone()];
                principal.roles = self.roles(None, &principal.teams);
            }
            Subject::Agent(name) => {
                let machine = self.agents.get(name)?;
                principal.display_name.clone_from(&machine.title);
                principal.teams = machine.team.iter().cloned().collect();
                // The team answers for its agent; the agent is no member, so the roles of members are not its.
                principal.roles = self.roles(self.roles_of_agents.get(name), &[]);
            }
            Subject::External { .. } => return None,
        }
        Some(principal)
    }

    pub(super) fn external(
        &self,
        tenant: &Name,
        issuer: &str,
        subject: &str,
        groups: Vec<String>,
    ) -> Result<Principal, Ambiguous> {
        let claimed = self.identities.get(issuer).and_then(|subjects| subjects.get(subject));
        let known = match claimed {
            Some(None) => return Err(Ambiguous),
            Some(Some(whose)) => self.principal(tenant, whose),
            None => None,
        };
        let mut principal = known.unwrap_or_else(|| {
            let subject = Subject::External { issuer: issuer.to_owned(), subject: subject.to_owned() };
            Principal::new(tenant.clone(), subject)
        });
        let own_roles = match &principal.subject {
            Subject::User(name) => self.roles_of_users.get(name),
            // One team answers for an agent; groups make it no member of others.
            Subject::Agent(_) => {
                principal.groups = groups;
                return Ok(principal);
            }
            _ => None,
        };
        if let Some(known) = self.groups.get(issuer) {
            let teams: BTreeSet<Name> =
                groups.iter().filter_map(|g| known.get(g)).flatten().chain(&principal.teams).cloned().collect();
            principal.teams = teams.into_iter().collect();
            principal.roles = self.roles(own_roles, &principal.teams);
        }
        principal.groups = groups;
        Ok(principal)
    }

    fn roles(&self, own: Option<&BTreeSet<Name>>, teams: &[Name]) -> Vec<Name> {
        let mut roles: BTreeMap<&Name, ()> = own.into_iter().flatten().map(|r| (r, ())).collect();
        roles.extend(teams.iter().filter_map(|t| self.roles_of_teams.get(t)).flatten().map(|r| (r, ())));
        roles.into_keys().cloned().collect()
    }
}
