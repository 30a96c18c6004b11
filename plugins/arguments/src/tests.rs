//! Schemas keyword by keyword, conditions fact by fact, and what neither can judge.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Decision, Error, Setup, ToolCall, Value, fake};
use serde_json::json;

use crate::Arguments;

fn ann() -> fake::Caller {
    fake::Caller::new("user:ann")
        .team("finance")
        .with_claim("email", Value::from("ann@x.example"))
        .with_claim("level", Value::Number(3.0))
        .with_header("x-region", "eu")
}

fn decide(config: &serde_json::Value, caller: &fake::Caller, arguments: &serde_json::Value) -> Decision {
    let _host = fake::Host::new().config(config).install();
    let call = fake::Call::new("bank", "pay").with_arguments(arguments);
    Arguments::decide(caller.lend(), call.lend()).unwrap()
}

fn refusal(decision: Decision) -> String {
    match decision {
        Decision::Allow => "allowed".to_owned(),
        Decision::Deny(denial) if denial.code == "arguments" => denial.message,
        other => panic!("{other:?}"),
    }
}

/// What a schema says of arguments.
fn fits(schema: serde_json::Value, arguments: serde_json::Value) -> String {
    refusal(decide(&json!({"rules": [{"schema": schema}]}), &ann(), &arguments))
}

/// What a condition says of arguments.
fn holds(condition: &str, arguments: serde_json::Value) -> String {
    refusal(decide(&json!({"rules": [{"conditions": [{"holds": condition}]}]}), &ann(), &arguments))
}

#[test]
fn each_keyword_takes_what_fits_and_refuses_what_does_not() {
    for (schema, good, bad, words) in [
        (json!({"type": "integer"}), json!(1.0), json!(1.5), "must be a whole number"),
        (json!({"type": ["string", "null"]}), json!(null), json!(1), "must be a text or null"),
        (json!({"enum": ["a", 1]}), json!(1.0), json!("b"), "none of the values"),
        (json!({"const": {"a": [1]}}), json!({"a": [1.0]}), json!({"a": [2]}), "none of the values"),
        (json!({"minimum": 1}), json!(1), json!(0.5), "at least 1"),
        (json!({"maximum": 1}), json!("not a number"), json!(2), "at most 1"),
        (json!({"exclusiveMinimum": 1}), json!(1.1), json!(1), "above 1"),
        (json!({"exclusiveMaximum": 1}), json!(0), json!(1), "below 1"),
        (json!({"multipleOf": 0.1}), json!(0.3), json!(0.35), "multiple of 0.1"),
        (json!({"minLength": 2}), json!("éé"), json!("é"), "1 characters"),
        (json!({"maxLength": 2}), json!("éé"), json!("abc"), "3 characters"),
        (json!({"pattern": "^a+$"}), json!("aa"), json!("ab"), "the form"),
        (json!({"minItems": 1}), json!([1]), json!([]), "0 items"),
        (json!({"maxItems": 1}), json!([1]), json!([1, 2]), "2 items"),
        (json!({"uniqueItems": true}), json!([1, "1"]), json!([1, 1.0]), "equal items"),
        (json!({"items": {"type": "string"}}), json!(["a"]), json!(["a", 1]), "/v/1 must be a text"),
        (json!({"prefixItems": [{"const": 1}], "items": false}), json!([1]), json!([1, 2]), "/v/1 may not be there"),
        (json!({"contains": {"const": 1}}), json!([2, 1]), json!([2]), "lacks an item"),
        (json!({"required": ["a"]}), json!({"a": null}), json!({}), "lacks a"),
        (json!({"properties": {"a": {"type": "null"}}}), json!({"b": 1}), json!({"a": 1}), "/v/a must be null"),
        (
            json!({"patternProperties": {"^x": {"type": "null"}}, "additionalProperties": false}),
            json!({"x1": null}),
            json!({"y": 1}),
            "/v/y may not",
        ),
        (json!({"propertyNames": {"maxLength": 1}}), json!({"a": 1}), json!({"ab": 1}), "/v/ab has 2"),
        (json!({"minProperties": 1}), json!({"a": 1}), json!({}), "0 members"),
        (json!({"maxProperties": 1}), json!({"a": 1}), json!({"a": 1, "b": 1}), "2 members"),
        (json!({"dependentRequired": {"a": ["b"]}}), json!({"b": 1}), json!({"a": 1}), "lacks b, which goes with a"),
        (json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}), json!(1), json!(3), "at most 2"),
        (json!({"anyOf": [{"const": 1}, {"const": 2}]}), json!(2), json!(3), "none of the alternatives"),
        (json!({"oneOf": [{"minimum": 1}, {"minimum": 5}]}), json!(2), json!(6), "fits 2"),
        (json!({"not": {"const": 1}}), json!(2), json!(1), "may not be"),
        (
            json!({"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"minimum": 1}}),
            json!("a"),
            json!(0),
            "at least 1",
        ),
        (json!({"format": "date"}), json!("2024-02-29"), json!("2023-02-29"), "must be date"),
        (
            json!({"format": "date-time"}),
            json!("2024-02-29T23:59:60.5+01:00"),
            json!("2024-02-29T24:00:00Z"),
            "must be date-time",
        ),
        (json!({"format": "email"}), json!("a@b.example"), json!("a b@c"), "must be email"),
        (json!({"format": "ipv4"}), json!("10.0.0.1"), json!("010.0.0.1"), "must be ipv4"),
        (json!({"format": "ipv6"}), json!("::1"), json!("::g"), "must be ipv6"),
        (json!({"format": "uri"}), json!("https://a/?b#c"), json!("a b:c"), "must be uri"),
        (json!({"format": "uuid"}), json!("123e4567-e89b-12d3-a456-426614174000"), json!("123e4567"), "must be uuid"),
    ] {
        let whole =
            json!({"properties": {"v": schema}, "required": ["v"], "additionalProperties": false, "title": "t"});
        assert_eq!(fits(whole.clone(), json!({"v": good})), "allowed", "{schema}");
        let refused = fits(whole, json!({"v": bad}));
        assert!(
            refused.starts_with("the arguments of pay do not fit: /v") && refused.contains(words),
            "{schema}: {refused}"
        );
    }
}

#[test]
fn a_schema_may_speak_of_itself() {
    let tree = json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}, "additionalProperties": false}},
    });
    assert_eq!(fits(tree.clone(), json!({"n": 1, "next": {"next": {"n": 2}}})), "allowed");
    assert!(fits(tree.clone(), json!({"next": {"next": {"n": "x"}}})).contains("/next/next/n must be a whole number"));
    let deep = (0..120).fold(json!({}), |inner, _| json!({"next": inner}));
    assert!(fits(tree, deep).contains("nest too deeply"));
    let cycle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}});
    assert!(fits(cycle, json!({})).contains("can't be checked"));
    let never = json!({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/a"}}});
    assert!(fits(never, json!({})).contains("can't be checked"), "that is no answer for `not`");
}

#[test]
fn alternatives_in_alternatives_end() {
    let item = json!({"items": {"$ref": "#/$defs/a"}});
    let schema =
        json!({"properties": {"v": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [item, item, {"const": 1}]}}});
    let arguments = (0..90).fold(json!("x"), |inner, _| json!([inner]));
    assert!(fits(schema, json!({"v": arguments})).contains("can't be checked"));
}

#[test]
fn conditions_judge_arguments_caller_and_call() {
    let arguments = json!({"amount": 1500, "to": {"iban": "DE1"}, "tags": ["a", "b"], "note": "due 2024"});
    for condition in [
        "args.amount <= 1500",
        "args.amount < 1000 || 'finance' in caller.teams",
        "args.amount / 2 == 750 && args.amount == 1500.0",
        "args.to.iban.startsWith('DE')",
        "args.tags.all(tag, tag in ['a', 'b', 'c'])",
        "size(args.tags) == 2 && !has(args.cc)",
        "args.note.matches('[0-9]{4}$')",
        "caller.subject == 'user:ann' && caller.kind == 'user' && caller.tenant == 'default'",
        "call.server == 'bank' && call.tool == 'pay' && call.gateway == 'main'",
        "claims.email.endsWith('@x.example') && claims['level'] == 3.0",
        "has(claims.email) && !has(claims.phone)",
        "headers['x-region'] == 'eu'",
    ] {
        assert_eq!(holds(condition, arguments.clone()), "allowed", "{condition}");
    }
    assert_eq!(
        holds("args.amount < 10", arguments.clone()),
        "condition 1 of rule 1 does not let these arguments of pay pass"
    );
}

#[test]
fn what_can_not_be_judged_is_refused() {
    for (condition, words) in [
        ("args.amount < 10", "there is no amount"),
        ("args.text < 10", "overload"),
        ("args.text", "gives a string"),
        ("args.text.matches('(')", "matches"),
        ("args.text.matches('(?:a{1000}){1000}')", "matches"),
        ("args.text.unheard()", "unheard"),
        ("claims.phone == ''", "there is no phone"),
    ] {
        let refused = holds(condition, json!({"text": "x"}));
        assert!(refused.starts_with("condition 1 of rule 1") && refused.contains(words), "{condition}: {refused}");
    }
}

#[test]
fn every_rule_that_covers_a_tool_has_to_hold() {
    let config = json!({"unmatched": "deny", "rules": [
        {"servers": ["bank"], "conditions": [{"holds": "args.amount < 100", "message": "small amounts only"}]},
        {"tools": ["pay"], "schema": {"required": ["to"]}},
    ]});
    let ask = |arguments| refusal(decide(&config, &ann(), &arguments));
    assert_eq!(ask(json!({"amount": 1, "to": "x"})), "allowed");
    assert_eq!(ask(json!({"amount": 100, "to": "x"})), "small amounts only");
    assert_eq!(ask(json!({"amount": 1})), "the arguments of pay do not fit: they lacks to");
    let _host = fake::Host::new().config(&config).install();
    let other = Arguments::decide(ann().lend(), fake::Call::new("files", "read").lend()).unwrap();
    assert_eq!(refusal(other), "no rule speaks of the tool read");
}

#[test]
fn wrong_configurations_are_refused_naming_the_place() {
    let rule = |rule: serde_json::Value| json!({"rules": [rule]});
    let schema = |schema: serde_json::Value| rule(json!({"schema": schema}));
    let condition = |text: &str| rule(json!({"conditions": [{"holds": text}]}));
    for (config, words) in [
        (json!({"rules": []}), "rules: 1 to 100"),
        (rule(json!({})), "rules[0].schema"),
        (rule(json!({"tools": [], "schema": true})), "tools: is empty"),
        (schema(json!({"properties": {"a": {"typ": "string"}}})), "schema/properties/a: \"typ\" is not checked"),
        (schema(json!({"type": "text"})), "schema/type"),
        (schema(json!({"pattern": "("})), "schema/pattern"),
        (schema(json!({"format": "hostname"})), "one of date"),
        (schema(json!({"$ref": "https://x.example/s"})), "no place in this schema"),
        (schema(json!({"then": true})), "go with if"),
        (schema(json!({"multipleOf": 0})), "above zero"),
        (condition("args.a <"), "rules[0].conditions[0].holds"),
        (condition("arg.a < 1"), "there is no arg; there are args"),
        (condition(&"(".repeat(100)), "holds"),
        (condition(&format!("{}1{}", "[".repeat(40), "]".repeat(40))), "holds"),
        (condition(&" ".repeat(3_000)), "2000 bytes"),
    ] {
        let _host = fake::Host::new().config(&config).install();
        let refused = Arguments::prepare();
        assert!(matches!(&refused, Err(Error::InvalidConfig(why)) if why.contains(words)), "{config}: {refused:?}");
    }
}
