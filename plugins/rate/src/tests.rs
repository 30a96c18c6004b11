//! What callers get, and what is refused.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Decision, Error, Setup, ToolCall, Value, fake};

use crate::{Rate, decide_at};

const SECOND: u64 = 1_000_000;

fn config(rule: &str) -> String {
    format!(r#"{{"rules": [{{"name": "r", "limit": 2, "every": "10s", {rule}}}]}}"#)
}

fn ask(caller: &fake::Caller, tool: &str, at: u64) -> String {
    match decide_at(caller.lend(), fake::Call::new("crm", tool).lend(), at).unwrap() {
        Decision::Allow => "allowed".to_owned(),
        Decision::Deny(denial) if denial.code == "rate-limited" => denial.message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn callers_have_a_bucket_each_and_are_told_when_to_come_back() {
    let _host = fake::Host::new().config(config(r#""per": ["caller"]"#)).install();
    let (ann, bob) = (fake::Caller::new("user:ann"), fake::Caller::new("user:bob"));
    assert_eq!([ask(&ann, "a", SECOND), ask(&ann, "b", SECOND)], ["allowed", "allowed"]);
    assert_eq!(ask(&ann, "c", SECOND), "c may be called 2 times in 10s (r); try again in 5 s");
    assert_eq!(ask(&ann, "c", 2 * SECOND + 1), "c may be called 2 times in 10s (r); try again in 4 s");
    assert_eq!(ask(&bob, "c", SECOND), "allowed");
    assert_eq!(ask(&ann, "c", 6 * SECOND), "allowed");
}

#[test]
fn teams_share_theirs() {
    let _host = fake::Host::new().config(config(r#""per": ["team"], "burst": 1"#)).install();
    let member =
        |name: &str, teams: &[&str]| teams.iter().fold(fake::Caller::new(name), |caller, team| caller.team(team));
    assert_eq!(ask(&member("user:ann", &["blue"]), "a", SECOND), "allowed");
    assert!(ask(&member("user:bob", &["red", "blue"]), "a", SECOND).contains("try again"));
    assert_eq!(ask(&member("user:cat", &["green"]), "a", SECOND), "allowed");
    assert_eq!(ask(&member("user:dan", &[]), "a", SECOND), "allowed");
    assert!(ask(&member("user:eve", &[]), "a", SECOND).contains("try again"), "without a team they share one");
}

#[test]
fn tools_claims_and_attributes_tell_buckets_apart() {
    let rule = r#""burst": 1, "per": ["tool", {"claim": "plan"}, {"attribute": "risk"}]"#;
    let _host = fake::Host::new().config(config(rule)).install();
    let free = fake::Caller::new("user:ann").with_claim("plan", Value::from("free"));
    let paid = fake::Caller::new("user:bob").with_claim("plan", Value::from("paid"));
    let risky = fake::Caller::new("user:cat")
        .with_claim("plan", Value::from("free"))
        .with_attribute("risk", Value::Truth(true));
    assert_eq!([ask(&free, "a", 1), ask(&paid, "a", 1), ask(&free, "b", 1), ask(&risky, "a", 1)], ["allowed"; 4]);
    for caller in [&free, &paid, &risky] {
        assert!(ask(caller, "a", 1).contains("try again"));
    }
}

#[test]
fn gateways_servers_and_rules_have_buckets_of_their_own() {
    for per in ["gateway", "server"] {
        let _host = fake::Host::new().config(config(&format!(r#""burst": 1, "per": ["{per}"]"#))).install();
        let ann = fake::Caller::new("user:ann");
        let through = |server: &str, gateway: &str| {
            let call = fake::Call::new(server, "a").through(gateway);
            matches!(decide_at(ann.lend(), call.lend(), SECOND), Ok(Decision::Allow))
        };
        assert!(through("crm", "main"));
        assert!(!through("crm", "main"), "{per}");
        assert_eq!([through("crm", "other"), through("wiki", "main")], [per == "gateway", per == "server"], "{per}");
    }
    let two = r#"{"rules": [{"name": "one", "limit": 2, "every": "10s", "per": []}, {"name": "two", "limit": 2, "every": "10s", "per": []}]}"#;
    let _host = fake::Host::new().config(two).install();
    let ann = fake::Caller::new("user:ann");
    assert_eq!([ask(&ann, "a", SECOND), ask(&ann, "a", SECOND)], ["allowed", "allowed"], "each rule counts by itself");
}

#[test]
fn every_rule_that_covers_a_tool_counts() {
    let rules = r#"{"rules": [
        {"name": "all", "limit": 10, "every": "1m", "per": []},
        {"name": "deletes", "limit": 1, "every": "1h", "per": ["caller"], "tools": ["delete_*"], "message": "one deletion an hour"}
    ]}"#;
    let _host = fake::Host::new().config(rules).install();
    let ann = fake::Caller::new("user:ann");
    assert_eq!([ask(&ann, "delete_a", 1), ask(&ann, "get_a", 1)], ["allowed", "allowed"]);
    assert_eq!(ask(&ann, "delete_b", 1), "one deletion an hour; try again in 3600 s");
}

#[test]
fn without_room_to_count_nobody_passes() {
    let _host = fake::Host::new().config(config(r#""per": ["caller"]"#)).with_full_state().install();
    let decided = Rate::decide(fake::Caller::new("user:ann").lend(), fake::Call::new("crm", "a").lend());
    assert!(matches!(decided, Err(Error::Unavailable(_))), "{decided:?}");
}

#[test]
fn wrong_configurations_are_refused_naming_the_place() {
    let rule = |rule: &str| format!(r#"{{"rules": [{{"name": "r", "per": [], {rule}}}]}}"#);
    for (config, words) in [
        (r#"{"rules": []}"#.to_owned(), "rules: 1 to 32"),
        (rule(r#""limit": 0, "every": "1m""#), "rules[0].limit"),
        (rule(r#""limit": 1, "burst": 0, "every": "1m""#), "rules[0].limit"),
        (rule(r#""limit": 1, "every": "0s""#), "no period"),
        (rule(r#""limit": 1, "every": "1 minute""#), "no period"),
        (rule(r#""limit": 1, "every": "2d""#), "a day at most"),
        (rule(r#""limit": 1, "every": "1m", "per": ["user"]"#), "duplicate field"),
        (rule(r#""limit": 1, "every": "1m"}, {"name": "r", "per": [], "limit": 1, "every": "1m""#), "rules[1].name"),
        (rule(r#""limit": 1, "every": "1m", "tools": []"#), "tools: is empty"),
        (
            r#"{"rules": [{"name": "r", "limit": 1, "every": "1m", "per": ["team", "caller", "team"]}]}"#.to_owned(),
            "rules[0].per[2]",
        ),
    ] {
        let _host = fake::Host::new().config(&config).install();
        let refused = Rate::prepare();
        assert!(matches!(&refused, Err(Error::InvalidConfig(why)) if why.contains(words)), "{config}: {refused:?}");
    }
}
