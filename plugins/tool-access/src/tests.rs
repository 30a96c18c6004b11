//! Rule sets, and what they let whom see and do.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{
    Decision, Error, ListFilter, ListKind, PromptGet, ResourceRead, ServerRequest, Setup, ToolCall, fake,
};
use serde_json::{Value, json};

use crate::ToolAccess;

fn caller(subject: &str) -> fake::Caller {
    fake::Caller::new(subject)
}

fn decide(config: &Value, caller: &fake::Caller, tool: &str, arguments: &Value) -> Result<Decision, Error> {
    let _host = fake::Host::new().config(config).install();
    let (server, tool) = tool.split_once('/').unwrap();
    <ToolAccess as ToolCall>::decide(caller.lend(), fake::Call::new(server, tool).with_arguments(arguments).lend())
}

fn allowed(config: &Value, caller: &fake::Caller, tool: &str, arguments: &Value) -> bool {
    decide(config, caller, tool, arguments).unwrap() == Decision::Allow
}

fn message(config: &Value, caller: &fake::Caller, tool: &str, arguments: &Value) -> String {
    match decide(config, caller, tool, arguments).unwrap() {
        Decision::Deny(denial) => {
            assert_eq!(denial.code, "not-allowed");
            denial.message
        }
        other => panic!("{other:?}"),
    }
}

fn listed(config: &Value, caller: &fake::Caller, kind: ListKind, entries: &[&str]) -> Vec<u32> {
    let _host = fake::Host::new().config(config).install();
    let list = entries.iter().fold(fake::List::new(kind), |list, entry| {
        let (server, name) = entry.split_once('/').unwrap();
        list.entry(server, name)
    });
    ToolAccess::filter(caller.lend(), list.lend()).unwrap()
}

fn readable(config: &Value, caller: &fake::Caller, server: &str, uri: &str) -> bool {
    let _host = fake::Host::new().config(config).install();
    let read = fake::Read::new(server, uri);
    let read_it = <ToolAccess as ResourceRead>::decide(caller.lend(), read.lend()).unwrap() == Decision::Allow;
    let hear_of_it = <ToolAccess as ResourceRead>::decide(caller.lend(), read.subscribing().lend()).unwrap();
    assert_eq!(read_it, hear_of_it == Decision::Allow, "who may read it may hear of its changes, and nobody else");
    read_it
}

fn promptable(config: &Value, caller: &fake::Caller, name: &str, arguments: &Value) -> bool {
    let _host = fake::Host::new().config(config).install();
    let prompt = fake::Prompt::new("s", name).with_arguments(arguments);
    <ToolAccess as PromptGet>::decide(caller.lend(), prompt.lend()).unwrap() == Decision::Allow
}

fn askable(config: &Value, caller: &fake::Caller, server: &str, method: &str, params: &Value) -> bool {
    let _host = fake::Host::new().config(config).install();
    let question = fake::Question::new(server, method).with_params(params).during("t");
    <ToolAccess as ServerRequest>::decide(caller.lend(), question.lend()).unwrap() == Decision::Allow
}

#[test]
fn servers_ask_what_the_rules_let_them() {
    let ann = caller("user:ann");
    let form =
        |config: &Value, server: &str| askable(config, &ann, server, "elicitation/create", &json!({"message": "m"}));
    let page = |config: &Value, url: &str| {
        askable(config, &ann, "s", "elicitation/create", &json!({"mode": "url", "url": url}))
    };
    // Who wrote rules of tools alone has not thought of this: whoever may call a tool may be asked in it.
    let tools = json!({"rules": [{"effect": "allow", "tools": ["*"]}]});
    assert!(
        form(&tools, "s") && page(&tools, "https://x.example") && askable(&tools, &ann, "s", "roots/list", &json!({}))
    );
    // Who denies a server means what it asks, too.
    let server = json!({"rules": [{"effect": "deny", "servers": ["evil"]}, {"effect": "allow", "tools": ["*"]}]});
    assert!(!form(&server, "evil") && form(&server, "s"));
    // Where something is said, the rest is up to the default.
    let some = json!({"rules": [
        {"effect": "allow", "requests": ["elicitation/form", "roots"]},
        {"effect": "allow", "requests": ["elicitation/url"], "when": [{"argument": "/url", "startsWith": "https://id.example/"}]},
        {"effect": "allow", "tools": ["*"]},
    ]});
    assert!(form(&some, "s") && askable(&some, &ann, "s", "roots/list", &json!({})));
    assert!(!askable(&some, &ann, "s", "sampling/createMessage", &json!({})));
    assert!(page(&some, "https://id.example/a") && !page(&some, "https://evil.example/a"));
    assert!(!askable(&some, &ann, "s", "later/method", &json!({})));
    let allowed = json!({"default": "allow", "rules": [{"effect": "deny", "requests": ["sampling"]}]});
    assert!(!askable(&allowed, &ann, "s", "sampling/createMessage", &json!({})) && form(&allowed, "s"));
}

#[test]
fn nothing_written_is_nothing_allowed() {
    let nobody = caller("user:ann");
    assert!(!allowed(&json!({}), &nobody, "github/get", &json!({})));
    assert_eq!(listed(&json!({}), &nobody, ListKind::Tools, &["github/get"]), Vec::<u32>::new());
    assert!(allowed(&json!({"default": "allow"}), &nobody, "github/get", &json!({})));
}

#[test]
fn principals_are_matched_by_kind() {
    let ann = || caller("user:ann").team("blue").role("member").group("dev").group("team:x");
    let external = || caller("external:https://idp.example#ann");
    for (principal, who, yes) in [
        ("*", ann(), true),
        ("*", caller("anonymous"), true),
        ("user:ann", ann(), true),
        ("user:an", ann(), false),
        ("user:*", ann(), true),
        ("user:*", caller("agent:ci"), false),
        ("agent:ci", caller("agent:ci"), true),
        ("agent:*", caller("agent:ci"), true),
        ("agent:ann", ann(), false),
        ("team:blue", ann(), true),
        ("team:blue", caller("team:blue"), true),
        ("team:*", caller("user:bob"), false),
        ("team:dev", ann(), false),
        ("team:x", ann(), false),
        ("role:member", ann(), true),
        ("role:admin", ann(), false),
        ("group:dev", ann(), true),
        ("group:blue", ann(), false),
        ("group:team:x", ann(), true),
        ("organization", caller("organization"), true),
        ("organization", ann(), false),
        ("anonymous", caller("anonymous"), true),
        ("anonymous", ann(), false),
        ("external:https://idp.example#ann", external(), true),
        ("external:https://idp.example#an", external(), false),
        ("external:https://idp.example#*", external(), true),
        ("external:https://idp.exampl#*", external(), false),
        ("external:*", external(), true),
        ("external:*", ann(), false),
        ("user:*", external(), false),
    ] {
        let config = json!({"rules": [{"effect": "allow", "principals": [principal]}]});
        assert_eq!(allowed(&config, &who, "s/t", &json!({})), yes, "{principal} {who:?}");
        assert_eq!(
            !listed(&config, &who, ListKind::Tools, &["s/t"]).is_empty(),
            yes,
            "the list says otherwise: {principal}"
        );
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let config = json!({"rules": [
        {"effect": "deny", "principals": ["team:blue"], "servers": ["github"], "tools": ["delete_*"]},
        {"effect": "allow", "principals": ["team:blue"], "servers": ["git*"]},
        {"effect": "deny", "servers": ["github"]},
        {"effect": "allow", "tools": ["get_?"]},
    ]});
    let (blue, red) = (caller("user:ann").team("blue"), caller("user:bob").team("red"));
    for (who, tool, yes) in [
        (&blue, "github/delete_repo", false),
        (&blue, "github/create_repo", true),
        (&blue, "gitlab/delete_repo", true),
        (&red, "github/get_a", false),
        (&red, "gitlab/get_a", true),
        (&red, "gitlab/get_ab", false),
        (&blue, "time/now", false),
    ] {
        assert_eq!(allowed(&config, who, tool, &json!({})), yes, "{tool}");
        assert_eq!(!listed(&config, who, ListKind::Tools, &[tool]).is_empty(), yes, "{tool}");
    }
    let all = ["github/delete_repo", "github/create_repo", "time/now", "gitlab/x"];
    assert_eq!(listed(&config, &blue, ListKind::Tools, &all), [1, 3]);
}

#[test]
fn conditions_judge_the_arguments() {
    let (yes, no, refused) = (Some(true), Some(false), None);
    // `refused`: can't be judged, so it holds in a rule that denies and does not in one that allows.
    for (test, arguments, holds) in [
        (json!({"equals": "prod"}), json!({"a": "prod"}), yes),
        (json!({"equals": "prod"}), json!({"a": "dev"}), no),
        (json!({"equals": "prod"}), json!({}), no),
        (json!({"equals": "prod"}), json!({"a": null}), no),
        (json!({"equals": "prod"}), json!({"a": ["prod"]}), refused),
        (json!({"equals": 1}), json!({"a": 1.0}), yes),
        (json!({"equals": 1}), json!({"a": "1"}), refused),
        (json!({"equals": 9007199254740993_u64}), json!({"a": 9007199254740992_u64}), no),
        (json!({"equals": ["x"]}), json!({"a": ["x"]}), yes),
        (json!({"notEquals": "prod"}), json!({"a": "dev"}), yes),
        (json!({"notEquals": "prod"}), json!({"a": "prod"}), no),
        (json!({"notEquals": "prod"}), json!({}), refused),
        (json!({"notEquals": "prod"}), json!({"a": ["prod"]}), refused),
        (json!({"oneOf": ["a", "b"]}), json!({"a": "b"}), yes),
        (json!({"oneOf": ["a", "b"]}), json!({"a": "c"}), no),
        (json!({"oneOf": ["a", "b"]}), json!({"a": 1}), refused),
        (json!({"startsWith": "/srv/"}), json!({"a": "/srv/x"}), yes),
        (json!({"startsWith": "/srv/"}), json!({"a": "/etc"}), no),
        (json!({"startsWith": "/srv/"}), json!({"a": {}}), refused),
        (json!({"matches": "*.example"}), json!({"a": "a.example"}), yes),
        (json!({"matches": "*.example"}), json!({"a": "a.example.evil"}), no),
        (json!({"exists": true}), json!({"a": false}), yes),
        (json!({"exists": true}), json!({"a": null}), no),
        (json!({"exists": false}), json!({}), yes),
        (json!({"exists": false}), json!({"a": 0}), no),
        (json!({"lessThan": 10}), json!({"a": 9.5}), yes),
        (json!({"lessThan": 10}), json!({"a": 10}), no),
        (json!({"lessThan": 10}), json!({"a": "9"}), refused),
        (json!({"greaterThan": 10}), json!({"a": 11}), yes),
        (json!({"greaterThan": 10}), json!({"a": 10}), no),
        (json!({"greaterThan": 10}), json!({}), no),
    ] {
        let mut condition = test.clone();
        condition["argument"] = "/a".into();
        let ann = caller("user:ann");
        let allow = json!({"rules": [{"effect": "allow", "when": [condition.clone()]}]});
        let deny = json!({"default": "allow", "rules": [{"effect": "deny", "when": [condition]}]});
        assert_eq!(allowed(&allow, &ann, "s/t", &arguments), holds == Some(true), "allow when {test} of {arguments}");
        assert_eq!(allowed(&deny, &ann, "s/t", &arguments), holds == Some(false), "deny when {test} of {arguments}");
    }
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let config = json!({"rules": [{"effect": "allow", "when": [
        {"argument": "/repo/owner", "equals": "acme"},
        {"argument": "/items/0", "lessThan": 5},
    ]}]});
    let ann = caller("user:ann");
    assert!(allowed(&config, &ann, "s/t", &json!({"repo": {"owner": "acme"}, "items": [1]})));
    assert!(!allowed(&config, &ann, "s/t", &json!({"repo": {"owner": "acme"}, "items": [9]})));
    assert!(!allowed(&config, &ann, "s/t", &json!({"repo": {"owner": "evil"}, "items": [1]})));
}

#[test]
fn a_list_shows_what_some_arguments_would_be_allowed_for() {
    let when = json!([{"argument": "/env", "equals": "test"}]);
    let ann = caller("user:ann");
    let see = |rules: Value, default: &str| {
        !listed(&json!({"default": default, "rules": rules}), &ann, ListKind::Tools, &["s/t"]).is_empty()
    };
    // An allow with a condition shows, and hides nothing.
    assert!(see(json!([{"effect": "allow", "when": when}]), "deny"));
    assert!(see(json!([{"effect": "allow", "when": when}, {"effect": "deny"}]), "deny"));
    assert!(see(json!([{"effect": "allow", "when": when}]), "allow"));
    // A deny with a condition hides nothing, and shows nothing.
    assert!(see(json!([{"effect": "deny", "when": when}, {"effect": "allow"}]), "deny"));
    assert!(!see(json!([{"effect": "deny", "when": when}, {"effect": "deny"}]), "allow"));
    assert!(!see(json!([{"effect": "deny", "when": when}]), "deny"));
    // A rule without conditions before them decides.
    assert!(!see(json!([{"effect": "deny"}, {"effect": "allow", "when": when}]), "allow"));
}

#[test]
fn what_is_hidden_cannot_be_called_with_any_arguments() {
    // Small rule sets at random (xorshift, fixed seed), each against all arguments that its conditions can tell apart.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut pick = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    let ann = caller("user:ann");
    let (mut hidden, mut shown) = (0, 0);
    for _ in 0..400 {
        let rules: Vec<Value> = (0..pick(4))
            .map(|_| {
                let mut rule = json!({"effect": if pick(2) == 0 { "allow" } else { "deny" }});
                match pick(4) {
                    0 => rule["when"] = json!([{"argument": "/a", "equals": pick(2)}]),
                    1 => rule["when"] = json!([{"argument": "/a", "notEquals": pick(2)}]),
                    2 => rule["tools"] = json!([if pick(2) == 0 { "t*" } else { "u" }]),
                    _ => {}
                }
                rule
            })
            .collect();
        let config = json!({"default": if pick(2) == 0 { "allow" } else { "deny" }, "rules": rules});
        let callable = [json!({}), json!({"a": 0}), json!({"a": 1}), json!({"a": 2}), json!({"a": "x"})]
            .iter()
            .any(|arguments| allowed(&config, &ann, "s/t", arguments));
        let visible = !listed(&config, &ann, ListKind::Tools, &["s/t"]).is_empty();
        assert!(visible || !callable, "hidden and callable: {config}");
        if visible { shown += 1 } else { hidden += 1 }
    }
    assert!(hidden > 50 && shown > 50, "{hidden} hidden, {shown} shown: the rule sets are too much alike");
}

#[test]
fn a_rule_covers_only_the_kinds_that_it_names() {
    let ann = caller("user:ann");
    let covered = |rule: Value, default: &str| {
        let config = json!({"default": default, "rules": [rule]});
        let shown = |kind, entry: &str| !listed(&config, &ann, kind, &[entry]).is_empty();
        let got = [
            allowed(&config, &ann, "s/x", &json!({})),
            readable(&config, &ann, "s", "x"),
            promptable(&config, &ann, "x", &json!({})),
        ];
        let seen = [shown(ListKind::Tools, "s/x"), shown(ListKind::Resources, "s/x"), shown(ListKind::Prompts, "s/x")];
        assert_eq!(got, seen, "a list says otherwise: {config}");
        assert_eq!(shown(ListKind::Templates, "s/x"), got[1], "{config}");
        got.map(|allowed| allowed == (default == "deny"))
    };
    for (names, allow, deny) in [
        (json!({}), [true, true, true], [true, true, true]),
        (json!({"tools": ["x"]}), [true, false, false], [true, false, false]),
        (json!({"resources": ["x"]}), [false, true, false], [false, true, false]),
        (json!({"prompts": ["x"]}), [false, false, true], [false, false, true]),
        (json!({"tools": ["y"], "prompts": ["x"]}), [false, false, true], [false, false, true]),
        // Who allows every tool has not thought of resources; who denies every tool means the server.
        (json!({"tools": ["*"]}), [true, false, false], [true, true, true]),
        (json!({"tools": ["*"], "resources": ["y"]}), [true, false, false], [true, false, false]),
    ] {
        let rule = |effect: &str| {
            let mut rule = names.clone();
            rule["effect"] = effect.into();
            rule
        };
        assert_eq!(covered(rule("allow"), "deny"), allow, "allow {names}");
        assert_eq!(covered(rule("deny"), "allow"), deny, "deny {names}");
    }
}

#[test]
fn resources_are_matched_by_uri_and_have_no_arguments() {
    let config = json!({"rules": [
        {"effect": "deny", "resources": ["file:///srv/secret/*"]},
        {"effect": "allow", "servers": ["files"], "resources": ["file:///srv/*"]},
        {"effect": "allow", "servers": ["db"], "when": [{"argument": "/table", "equals": "t"}]},
        {"effect": "allow", "servers": ["log"], "when": [{"argument": "/table", "exists": false}]},
    ]});
    let ann = caller("user:ann");
    for (server, uri, yes) in [
        ("files", "file:///srv/a", true),
        ("files", "file:///srv/secret/a", false),
        ("files", "file:///etc/passwd", false),
        ("other", "file:///srv/a", false),
        ("db", "db://t", false),
        ("log", "log://today", true),
    ] {
        assert_eq!(readable(&config, &ann, server, uri), yes, "{server} {uri}");
        let entry = format!("{server}/{uri}");
        assert_eq!(!listed(&config, &ann, ListKind::Resources, &[&entry]).is_empty(), yes, "{entry}");
    }
    let templates = [
        "files/file:///{path}",
        "files/file:///srv/secret/{name}",
        "files/file:///srv/{team}/x",
        "files/file:///etc/{name}",
        "db/db://{table}",
    ];
    assert_eq!(listed(&config, &ann, ListKind::Templates, &templates), [0, 2]);
    let complete = |template: &str| {
        let _host = fake::Host::new().config(&config).install();
        let read = fake::Read::new("files", template).completing();
        <ToolAccess as ResourceRead>::decide(ann.lend(), read.lend()).unwrap() == Decision::Allow
    };
    assert!(complete("file:///{path}") && !complete("file:///srv/secret/{name}"));
}

#[test]
fn a_prompt_is_judged_by_its_arguments_and_completed_where_some_may_be_allowed() {
    let config = json!({"rules": [
        {"effect": "allow", "prompts": ["review_*"], "when": [{"argument": "/lang", "equals": "rust"}]},
    ]});
    let ann = caller("user:ann");
    assert!(promptable(&config, &ann, "review_pr", &json!({"lang": "rust"})));
    assert!(!promptable(&config, &ann, "review_pr", &json!({"lang": "go"})));
    assert!(!promptable(&config, &ann, "deploy", &json!({"lang": "rust"})));
    assert_eq!(listed(&config, &ann, ListKind::Prompts, &["s/review_pr", "s/deploy"]), [0]);
    let _host = fake::Host::new().config(&config).install();
    let complete = |name: &str| {
        let prompt = fake::Prompt::new("s", name).completing();
        <ToolAccess as PromptGet>::decide(ann.lend(), prompt.lend()).unwrap() == Decision::Allow
    };
    assert!(complete("review_pr") && !complete("deploy"));
}

#[test]
fn refusals_name_the_rule_and_nothing_else_of_the_set() {
    let config = json!({"rules": [
        {"effect": "allow", "principals": ["group:secret-project"], "servers": ["github"]},
        {"effect": "deny", "tools": ["drop"], "message": "dropping tables goes through the DBA"},
        {"effect": "deny", "tools": ["delete"]},
        {"effect": "allow", "tools": ["put"], "when": [{"argument": "/to", "equals": "hidden-value"}]},
    ]});
    let ann = caller("user:ann");
    let say = |tool: &str| message(&config, &ann, tool, &json!({"to": "x"}));
    assert_eq!(say("db/drop"), "dropping tables goes through the DBA (rule 2)");
    assert_eq!(say("db/delete"), "rule 3 does not let user:ann use \"delete\" of \"db\" like this");
    assert_eq!(say("db/put"), "no rule lets user:ann use \"put\" of \"db\" with these arguments");
    assert_eq!(say("db/get"), "no rule lets user:ann use \"get\" of \"db\"");
    for tool in ["db/drop", "db/delete", "db/put", "db/get"] {
        assert!(!say(tool).contains("secret-project") && !say(tool).contains("hidden-value"));
    }
}

#[test]
fn a_wrong_config_refuses_calls_and_lists_and_says_where() {
    for (config, place) in [
        (json!({"rule": []}), "rule"),
        (json!({"default": "maybe"}), "maybe"),
        (json!({"rules": [{}]}), "effect"),
        (json!({"rules": [{"effect": "allow", "tool": ["x"]}]}), "tool"),
        (json!({"rules": [{"effect": "allow"}, {"effect": "allow", "principals": []}]}), "rules[1].principals"),
        (json!({"rules": [{"effect": "allow", "servers": []}]}), "rules[0].servers"),
        (json!({"rules": [{"effect": "allow", "tools": ["a", ""]}]}), "rules[0].tools[1]"),
        (json!({"rules": [{"effect": "allow", "resources": []}]}), "rules[0].resources"),
        (json!({"rules": [{"effect": "allow", "prompts": [""]}]}), "rules[0].prompts[0]"),
        (json!({"rules": [{"effect": "allow", "principals": ["ann"]}]}), "rules[0].principals[0]"),
        (json!({"rules": [{"effect": "allow", "principals": ["user:"]}]}), "rules[0].principals[0]"),
        (json!({"rules": [{"effect": "allow", "principals": ["external:https://idp.example"]}]}), "principals[0]"),
        (json!({"rules": [{"effect": "allow", "when": [{"argument": "path", "exists": true}]}]}), "when[0]: argument"),
        (json!({"rules": [{"effect": "allow", "when": [{"argument": "/path"}]}]}), "exactly one"),
        (
            json!({"rules": [{"effect": "allow", "when": [{"argument": "/a", "exists": true, "equals": 1}]}]}),
            "exactly one",
        ),
        (json!({"rules": [{"effect": "allow", "when": [{"argument": "/a", "equals": null}]}]}), "exactly one"),
        (json!({"rules": [{"effect": "allow", "when": [{"argument": "/a", "oneOf": []}]}]}), "oneOf"),
    ] {
        let outcome = decide(&config, &caller("user:ann"), "s/t", &json!({}));
        let Err(Error::InvalidConfig(what)) = outcome else { panic!("{config}: {outcome:?}") };
        assert!(what.contains(place), "{config}: {what}");
        let _host = fake::Host::new().config(&config).install();
        let list = ToolAccess::filter(caller("user:ann").lend(), fake::List::new(ListKind::Tools).lend());
        assert!(matches!(list, Err(Error::InvalidConfig(_))), "{config}");
        assert!(matches!(ToolAccess::prepare(), Err(Error::InvalidConfig(_))), "{config}");
    }
}

#[test]
fn who_may_use_any_tool_of_a_server_may_learn_how_to_connect_it() {
    let stand_in = "s/portcullis.dev/connect";
    let alice = caller("user:alice");
    let check = |rules: Value, wanted: bool| {
        let config = json!({ "rules": rules });
        assert_eq!(allowed(&config, &alice, stand_in, &json!({})), wanted, "{config}");
        let seen = listed(&config, &alice, ListKind::Tools, &[stand_in]);
        assert_eq!(seen.len(), usize::from(wanted), "{config}");
    };
    check(json!([{"effect": "allow", "tools": ["get_*"]}]), true);
    check(json!([{"effect": "allow", "tools": ["get_*"], "when": [{"argument": "/a", "equals": 1}]}]), true);
    check(json!([{"effect": "allow"}]), true);
    check(json!([{"effect": "deny", "tools": ["delete_*"]}, {"effect": "allow"}]), true);
    check(json!([{"effect": "deny", "tools": ["connect"]}, {"effect": "allow"}]), false);
    check(json!([{"effect": "deny", "tools": ["*"]}, {"effect": "allow"}]), false);
    check(json!([{"effect": "deny"}, {"effect": "allow"}]), false);
    check(json!([{"effect": "allow", "servers": ["other"], "tools": ["get_*"]}]), false);
    check(json!([{"effect": "allow", "principals": ["user:bob"], "tools": ["get_*"]}]), false);
    check(json!([{"effect": "allow", "resources": ["*"]}]), false);
    check(json!([]), false);
    // A server's own tool of that name is a tool like others.
    let config = json!({"rules": [{"effect": "allow", "tools": ["get_*"]}]});
    assert!(!allowed(&config, &alice, "s/connect", &json!({})));
}
