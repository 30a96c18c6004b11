//! The whole table, written out: who, what, about whom.

use portcullis_model::{Kind, Name, Principal, Subject};

use super::{Action, Whose, may};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn principal(subject: &str, teams: &[&str], roles: &[&str]) -> Principal {
    let mut principal = Principal::new(Name::default_tenant(), subject.parse().unwrap());
    principal.teams = teams.iter().map(|t| name(t)).collect();
    principal.roles = roles.iter().map(|r| name(r)).collect();
    principal
}

fn whose(text: &str) -> Whose {
    let subject: Subject = text.parse().unwrap();
    let team = match &subject {
        Subject::Team(team) => Some(team.clone()),
        Subject::Agent(agent) if agent.as_str() == "blues" => Some(name("blue")),
        Subject::Agent(agent) if agent.as_str() == "reds" => Some(name("red")),
        _ => None,
    };
    Whose { subject, team, roles: Vec::new() }
}

/// The columns: alice and whoever she is about to be, a team-admin of blue, an operator, an admin, a person of an identity
/// provider in blue, and tokens of blue, of an agent of blue and of the organization; nobody.
fn callers() -> [Principal; 9] {
    [
        principal("user:alice", &["blue"], &[]),
        principal("user:alice", &["blue"], &["team-admin"]),
        principal("user:alice", &["blue"], &["operator"]),
        principal("user:alice", &["blue"], &["admin"]),
        principal("external:https://i.example#9", &["blue"], &[]),
        principal("team:blue", &["blue"], &[]),
        principal("agent:blues", &["blue"], &[]),
        principal("organization", &[], &[]),
        principal("anonymous", &[], &[]),
    ]
}

const OWNERS: [&str; 9] = [
    "user:alice",
    "user:bob",
    "team:blue",
    "team:red",
    "agent:blues",
    "agent:reds",
    "agent:lone",
    "organization",
    "external:https://i.example#9",
];

/// For each action and owner: one letter a caller, in the order of [`callers`]; `y` where they may.
const OWNED: [(&str, [&str; 9]); 12] = [
    // about        alice        bob          blue         red          blues        reds         lone         organization external
    (
        "install",
        [
            "yyyy.....",
            "...y.....",
            ".y.y.....",
            "...y.....",
            ".y.y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
        ],
    ),
    (
        "disconnect",
        [
            "yyyy.....",
            "..yy.....",
            ".yyy.....",
            "..yy.....",
            ".yyy.....",
            "..yy.....",
            "..yy.....",
            "..yy.....",
            "..yy.....",
        ],
    ),
    (
        "open-link",
        [
            "yyyy.....",
            ".........",
            "yyyyy....",
            "...y.....",
            ".y.y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "....y....",
        ],
    ),
    (
        "create-token",
        [
            "yyyy.....",
            "...y.....",
            ".y.y.....",
            "...y.....",
            ".y.y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
        ],
    ),
    (
        "revoke-token",
        [
            "yyyy.....",
            "..yy.....",
            ".yyy.....",
            "..yy.....",
            ".yyy.....",
            "..yy.....",
            "..yy.....",
            "..yy.....",
            "..yy.....",
        ],
    ),
    (
        "see-tokens",
        [
            "yyyy.....",
            "..yy.....",
            ".yyy.....",
            "..yy.....",
            ".yyy.....",
            "..yy.....",
            "..yy.....",
            "..yy.....",
            "..yy.....",
        ],
    ),
    (
        "sign-in-code",
        [
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
        ],
    ),
    (
        "see-conn",
        [
            "yyyy.....",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "..yy.....",
            "yyyyyyyy.",
            "..yyy....",
        ],
    ),
    (
        "see-user",
        [
            "yyyy.....",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "..yy.....",
            "..yy...y.",
            "..yyy....",
        ],
    ),
    (
        "see-team",
        [
            "yyyy.....",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "..yy.....",
            "..yy...y.",
            "..yyy....",
        ],
    ),
    (
        "see-agent",
        [
            "yyyy.....",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "yyyyyyy..",
            "..yy.....",
            "..yy.....",
            "..yy...y.",
            "..yyy....",
        ],
    ),
    (
        "members",
        [
            "...y.....",
            "...y.....",
            ".y.y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
            "...y.....",
        ],
    ),
];

fn owned<'a>(action: &str, whose: &'a Whose) -> Action<'a> {
    match action {
        "install" => Action::Install(whose),
        "disconnect" => Action::Disconnect(whose),
        "open-link" => Action::OpenLink(whose),
        "create-token" => Action::CreateToken(whose),
        "revoke-token" => Action::RevokeToken(whose),
        "see-tokens" => Action::SeeTokens(whose),
        "sign-in-code" => Action::SignInCode(whose),
        "see-conn" => Action::See(Kind::Connection, Some(whose)),
        "see-user" => Action::See(Kind::User, Some(whose)),
        "see-team" => Action::See(Kind::Team, Some(whose)),
        "see-agent" => Action::See(Kind::Agent, Some(whose)),
        "members" => Action::ChangeMembers(whose),
        other => panic!("{other}"),
    }
}

/// What concerns nobody in particular.
fn general() -> Vec<(Action<'static>, &'static str)> {
    vec![
        (Action::See(Kind::McpServer, None), "yyyyyyyy."),
        (Action::See(Kind::Gateway, None), "..yy....."),
        (Action::See(Kind::Plugin, None), "..yy....."),
        (Action::See(Kind::Role, None), "..yy....."),
        // Without an owner nothing says that it is theirs.
        (Action::See(Kind::Connection, None), "..yy....."),
        (Action::See(Kind::User, None), "..yy....."),
        (Action::Administer(Kind::McpServer), "..yy....."),
        (Action::Administer(Kind::Gateway), "..yy....."),
        (Action::Administer(Kind::Plugin), "..yy....."),
        (Action::Administer(Kind::User), "...y....."),
        (Action::Administer(Kind::Team), "...y....."),
        (Action::Administer(Kind::Role), "...y....."),
        (Action::Administer(Kind::Agent), "...y....."),
        (Action::Administer(Kind::IdentityProvider), "...y....."),
        (Action::Administer(Kind::OAuthClient), "...y....."),
        (Action::See(Kind::IdentityProvider, None), "..yy....."),
        (Action::See(Kind::OAuthClient, None), "..yy....."),
        (Action::Administer(Kind::Connection), "...y....."),
        (Action::Trust, "...y....."),
        (Action::Machine, "...y....."),
        (Action::Operate, "..yy....."),
    ]
}

fn row(action: &Action<'_>) -> String {
    callers().iter().map(|caller| if may(caller, action) { 'y' } else { '.' }).collect()
}

#[test]
fn the_table_of_roles_is_this_one() {
    for (action, rows) in OWNED {
        for (owner, wanted) in OWNERS.iter().zip(rows) {
            let whose = whose(owner);
            assert_eq!(row(&owned(action, &whose)), wanted, "{action} {owner}");
        }
    }
    for (action, wanted) in general() {
        assert_eq!(row(&action), wanted, "{action:?}");
    }
}

#[test]
fn nobody_makes_a_token_with_a_role_that_they_do_not_have() {
    let mut agent = whose("agent:blues");
    agent.roles = vec![name("admin")];
    let lead = principal("user:alice", &["blue"], &["team-admin"]);
    assert!(!may(&lead, &Action::CreateToken(&agent)));
    agent.roles = vec![name("team-admin")];
    assert!(may(&lead, &Action::CreateToken(&agent)));
    agent.roles = vec![name("deployers")];
    assert!(!may(&lead, &Action::CreateToken(&agent)), "a role of the operator's own counts too");
}

#[test]
fn only_the_default_tenants_admins_name_what_is_on_the_machine() {
    let mut admin = principal("user:alice", &[], &["admin"]);
    admin.tenant = name("acme");
    assert!(may(&admin, &Action::Trust) && !may(&admin, &Action::Machine));
}

#[test]
fn a_team_admin_of_no_team_administers_none() {
    let lead = principal("user:alice", &[], &["team-admin"]);
    assert!(!may(&lead, &Action::Install(&whose("team:blue"))));
    assert!(!may(&lead, &Action::ChangeMembers(&whose("team:blue"))));
    // A role given to a token of a team lets that token act for its team, and for no other.
    let token = principal("team:blue", &["blue"], &["team-admin"]);
    assert!(may(&token, &Action::Install(&whose("team:blue"))));
    assert!(!may(&token, &Action::Install(&whose("team:red"))));
    assert!(!may(&token, &Action::OpenLink(&whose("team:blue"))), "a link is for people");
}
