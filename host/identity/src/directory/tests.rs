//! What a fleet makes of people.

use portcullis_model::{
    Metadata, PrincipalKind, Resource, Spec,
    spec::{Agent, Role, Team, User},
};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn resource(tenant: &str, name_: &str, spec: Spec) -> Resource {
    Resource::new(Metadata::new(name(tenant), name(name_)), spec)
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap()
}

fn people() -> Vec<Resource> {
    let user = |json| Spec::User(read::<User>(json));
    let team = |json| Spec::Team(read::<Team>(json));
    let role = |json| Spec::Role(read::<Role>(json));
    let agent = |json| Spec::Agent(read::<Agent>(json));
    vec![
        resource(
            "default",
            "alice",
            user(r#"{"displayName":"Alice","identities":[{"issuer":"https://i","subject":"1"}]}"#),
        ),
        resource("default", "bob", user("{}")),
        resource("default", "carol", user(r#"{"identities":[{"issuer":"https://i","subject":"2"}]}"#)),
        resource("default", "dave", user(r#"{"identities":[{"issuer":"https://i","subject":"2"}]}"#)),
        resource("default", "blue", team(r#"{"members":["alice","alice","nobody"]}"#)),
        resource(
            "default",
            "red",
            team(
                r#"{"members":["bob"],"groups":[{"issuer":"https://i","group":"reds"},{"issuer":"ca","group":"reds"}]}"#,
            ),
        ),
        resource("default", "pink", team(r#"{"groups":[{"issuer":"ca","group":"pinks"}]}"#)),
        resource("default", "admin", role(r#"{"users":["alice"]}"#)),
        resource("default", "deployer", role(r#"{"teams":["red"],"agents":["ci"]}"#)),
        resource("default", "ci", agent(r#"{"team":"red","identities":[{"issuer":"ca","subject":"spiffe://x/ci"}]}"#)),
        resource("default", "stray", agent(r#"{"team":"gone"}"#)),
        resource("other", "alice", user("{}")),
    ]
}

fn show(principal: &Principal) -> String {
    let list = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(",");
    format!("{} [{}] [{}]", principal.subject_text, list(&principal.teams), list(&principal.roles))
}

#[test]
fn principals_have_teams_and_roles() {
    let directories = Directories::of(&Fleet::of(people()));
    let directory = directories.load_full();
    let check = |tenant: &str, subject: &str, expected: &str| {
        let subject = subject.parse::<Subject>().unwrap();
        let shown = directory.principal(&name(tenant), &subject).map_or("none".to_owned(), |p| show(&p));
        assert_eq!(shown, expected, "{tenant} {subject}");
    };
    check("default", "user:alice", "user:alice [blue] [admin]");
    check("default", "user:bob", "user:bob [red] [deployer]");
    check("default", "team:red", "team:red [red] [deployer]");
    check("default", "agent:ci", "agent:ci [red] [deployer]");
    check("default", "agent:stray", "agent:stray [] []");
    check("default", "organization", "organization [] []");
    check("default", "anonymous", "anonymous [] []");
    check("default", "user:nobody", "none");
    check("default", "team:gone", "none");
    check("other", "user:alice", "user:alice [] []");
    check("other", "user:bob", "none");
    check("nowhere", "user:alice", "none");
    check("nowhere", "organization", "organization [] []");
    assert_eq!(directory.members(&name("default"), &name("blue")), [name("alice")]);
    assert!(directory.members(&name("other"), &name("blue")).is_empty());
}

#[test]
fn people_of_an_issuer_are_users_by_issuer_and_subject() {
    let directories = Directories::of(&Fleet::of(people()));
    let directory = directories.load_full();
    let check = |tenant: &str, issuer: &str, subject: &str, groups: &[&str], expected: &str| {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let shown =
            directory.external(&name(tenant), issuer, subject, groups).map_or_else(|e| e.to_string(), |p| show(&p));
        assert_eq!(shown, expected);
    };
    check("default", "https://i", "1", &[], "user:alice [blue] [admin]");
    check("default", "https://i", "1", &["reds", "others"], "user:alice [blue,red] [admin,deployer]");
    check("default", "https://i", "9", &["reds"], "external:https://i#9 [red] [deployer]");
    check("default", "https://j", "1", &["reds"], "external:https://j#1 [] []");
    check("default", "https://i/", "1", &[], "external:https://i/#1 [] []");
    check("other", "https://i", "1", &["reds"], "external:https://i#1 [] []");
    // An agent's team is the one that answers for it, whatever its provider says.
    check("default", "ca", "spiffe://x/ci", &["pinks"], "agent:ci [red] [deployer]");
    check("default", "ca", "spiffe://x/other", &["pinks"], "external:ca#spiffe://x/other [pink] []");
    check("default", "https://i", "2", &[], "several users or agents claim the same identity of an identity provider");
    let external = directory.external(&name("default"), "https://i", "9", vec!["x".to_owned()]).unwrap();
    assert_eq!((external.subject.kind(), external.groups), (PrincipalKind::External, vec!["x".to_owned()]));
}

#[test]
fn the_generation_grows_only_when_people_change() {
    let mut resources = people();
    let directories = Directories::of(&Fleet::of(resources.clone()));
    assert!(!directories.update(&Arc::new(Fleet::of(resources.clone()))));
    let plugin = r#"{"source":{"builtIn":"jwks"}}"#;
    resources.push(resource("default", "p", Spec::Plugin(read(plugin))));
    assert!(!directories.update(&Arc::new(Fleet::of(resources.clone()))), "a plugin is nobody");
    resources.remove(0);
    assert!(directories.update(&Arc::new(Fleet::of(resources))));
    assert_eq!(directories.load().generation(), 2);
    assert!(directories.load().principal(&name("default"), &"user:alice".parse().unwrap()).is_none());
}
