//! The order, as a table: who calls, what is offered, what is chosen.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{
    Resolver,
    fake::{self, Connection},
};

use crate::CallTime;

/// `id owner [owner-only] [unhealthy] [@created]`
fn connection(text: &str) -> Connection {
    let mut words = text.split_whitespace();
    let mut made = Connection::new(words.next().unwrap(), words.next().unwrap());
    for word in words {
        made = match word {
            "owner-only" => made.owner_only(),
            "unhealthy" => made.unhealthy(),
            at => made.created_ms(at.strip_prefix('@').unwrap().parse().unwrap()),
        };
    }
    made
}

/// `subject [team..]`
fn resolve(caller: &str, offered: &[&str]) -> fake::Resolution {
    let mut words = caller.split_whitespace();
    let subject = words.next().unwrap();
    let caller = words.fold(fake::Caller::new(subject), fake::Caller::team);
    let host = offered.iter().fold(fake::Host::new(), |host, text| host.connection(connection(text)));
    let _host = host.install();
    let into = fake::Resolution::new();
    CallTime::resolve(caller.lend(), fake::Target::new("github").lend(), into.lend()).unwrap();
    into
}

#[track_caller]
fn check(caller: &str, offered: &[&str], chosen: Option<&str>) {
    // Whatever order the host offers them in.
    let mut offered = offered.to_vec();
    for _ in 0..offered.len().max(1) {
        let answer = resolve(caller, &offered);
        assert_eq!(answer.chosen().as_deref(), chosen, "{caller} offered {offered:?}");
        assert_eq!(answer.missed().is_some(), chosen.is_none());
        if !offered.is_empty() {
            offered.rotate_left(1);
        }
    }
}

#[test]
fn a_user_has_their_own_then_a_teams_then_the_organizations() {
    let all = ["org organization", "blue team:blue", "ann user:ann", "bob user:bob"];
    check("user:ann blue", &all, Some("ann"));
    check("user:ann blue", &["org organization", "blue team:blue", "bob user:bob"], Some("blue"));
    check("user:ann blue", &["org organization", "red team:red", "bob user:bob"], Some("org"));
    check("user:ann", &["org organization", "blue team:blue"], Some("org"));
    check("user:ann blue", &["ann user:ann owner-only", "blue team:blue"], Some("ann"));
    check("user:ann blue red", &["red team:red @5", "blue team:blue @6"], Some("red"));
}

#[test]
fn a_user_never_has_another_persons() {
    check("user:ann blue", &["bob user:bob"], None);
    check("user:ann blue", &["agent agent:ann", "red team:red"], None);
    // Names alike, kinds not.
    check("user:blue", &["team team:blue"], None);
    check("user:ann", &[], None);
}

#[test]
fn a_team_token_has_the_teams_then_a_members() {
    let all = ["org organization", "blue team:blue", "ann user:ann"];
    check("team:blue", &all, Some("blue"));
    check("team:blue", &["org organization", "ann user:ann"], Some("ann"));
    check("team:blue", &["ann user:ann owner-only", "bob user:bob @9000"], Some("bob"));
    check("team:blue", &["ann user:ann owner-only"], None);
    check("team:blue", &["blue team:blue owner-only", "ann user:ann"], Some("blue"));
    check("team:blue", &["red team:red", "org organization", "ci agent:ci"], None);
}

#[test]
fn an_organization_token_has_the_organizations_then_a_teams_then_a_persons() {
    let all = ["org organization", "blue team:blue", "ann user:ann"];
    check("organization", &all, Some("org"));
    check("organization", &all[1..], Some("blue"));
    check("organization", &all[2..], Some("ann"));
    check("organization", &["org organization owner-only", "blue team:blue"], Some("org"));
    check("organization", &["blue team:blue owner-only", "ann user:ann"], Some("ann"));
    check("organization", &["ann user:ann owner-only", "bob user:bob @9000"], Some("bob"));
    check("organization", &["ann user:ann owner-only", "ci agent:ci"], None);
}

#[test]
fn an_agent_has_its_own_then_its_teams() {
    check("agent:ci blue", &["ci agent:ci", "blue team:blue"], Some("ci"));
    check("agent:ci blue", &["other agent:other", "blue team:blue"], Some("blue"));
    check("agent:ci blue", &["org organization", "ann user:ann", "red team:red", "ci user:ci"], None);
    check("agent:ci", &["blue team:blue"], None);
}

#[test]
fn somebody_external_has_a_teams_then_the_organizations() {
    check("external:https://i.example#ann blue", &["org organization", "blue team:blue"], Some("blue"));
    check("external:https://i.example#ann", &["org organization", "blue team:blue"], Some("org"));
    check("external:https://i.example#ann", &["ann user:ann", "x user://i.example#ann"], None);
}

#[test]
fn nobody_in_particular_has_none() {
    check("anonymous", &["org organization", "blue team:blue", "ann user:ann"], None);
}

#[test]
fn ties_go_to_the_healthy_then_to_the_oldest_then_by_name() {
    check("user:ann", &["new user:ann @2", "old user:ann @1"], Some("old"));
    check("user:ann", &["new user:ann @2", "old user:ann @1 unhealthy"], Some("new"));
    check("user:ann", &["b user:ann @1", "a user:ann @1"], Some("a"));
    check("user:ann", &["only user:ann unhealthy"], Some("only"));
    // Health decides within a step, never between steps: the caller's own account stays theirs.
    check("user:ann blue", &["own user:ann unhealthy", "blue team:blue"], Some("own"));
}

#[test]
fn owner_only_keeps_out_tokens_that_stand_for_more_than_the_owner() {
    check("agent:ci blue", &["blue team:blue owner-only"], None);
    check("organization", &["blue team:blue owner-only"], None);
    check("team:blue", &["ann user:ann owner-only"], None);
    // Members are their team, and the organization's people are the organization.
    check("user:ann blue", &["blue team:blue owner-only"], Some("blue"));
    check("external:https://i.example#ann blue", &["blue team:blue owner-only"], Some("blue"));
    check("user:ann", &["org organization owner-only"], Some("org"));
}

#[test]
fn what_is_missing_is_said_for_whom() {
    let said = |caller: &str| resolve(caller, &[]).missed().unwrap();
    assert_eq!(
        said("user:ann blue red"),
        "a connection to \"github\" of user:ann, of one of their teams (blue, red) or of the organization"
    );
    assert_eq!(said("user:ann"), "a connection to \"github\" of user:ann or of the organization");
    assert_eq!(
        said("team:blue"),
        "a connection to \"github\" of team:blue or of a member who shares theirs with the team"
    );
    assert_eq!(said("agent:ci"), "a connection to \"github\" of agent:ci");
    assert!(said("organization").ends_with("of a person who shares theirs"));
    assert!(said("anonymous").starts_with("a caller with a name"));
}
