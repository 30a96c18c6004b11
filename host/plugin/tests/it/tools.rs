//! Components as tools: what each type of WIT looks like as JSON, calls of every shape, and tools that misbehave.

use std::sync::Arc;

use portcullis_model::{
    Secret, Span,
    spec::{Grants, Limits},
};
use portcullis_plugin::{
    GrantedSecret, Host, LoadError, LoadPlan, PluginFailure, Services, ToolAnswer, ToolError, Toolbox,
};
use serde_json::{Value, json};

use super::{built::guest, guests};

async fn load(wasm: Arc<[u8]>, change: impl FnOnce(&mut LoadPlan)) -> Result<Arc<Toolbox>, LoadError> {
    let host: Arc<Host> = guests::host();
    let component = host.compile_tools(Arc::clone(&wasm)).await?;
    let mut plan = LoadPlan {
        config: r#"{"hello": "world"}"#.into(),
        limits: Limits { cpu: Span::millis(500), wait: Span::seconds(20), ..Limits::default() },
        ..guests::plan(component)
    };
    change(&mut plan);
    host.toolbox(plan, &wasm).await
}

/// The trial toolbox, which may send requests to nobody real.
async fn toolbox() -> Arc<Toolbox> {
    let wasm = guest("toolbox");
    load(wasm, |plan| {
        plan.grants = Grants { http: vec!["https://granted.example".into()], ..Grants::default() };
        let value = Secret::new("k3y");
        plan.secrets = [("KEY".to_owned(), GrantedSecret { value, origins: plan.grants.http.clone() })].into();
        plan.services = Services { http: Some(portcullis_outbound::Client::new().unwrap()), ..Services::default() };
    })
    .await
    .unwrap()
}

async fn call(toolbox: &Toolbox, tool: &str, arguments: Value) -> Result<ToolAnswer, ToolError> {
    toolbox.call(tool, arguments.as_object().unwrap()).await
}

#[tokio::test]
async fn types_become_schemas() {
    let toolbox = toolbox().await;
    let names: Vec<&str> = toolbox.tools().map(|tool| tool.name.as_str()).collect();
    assert_eq!(
        names,
        ["area", "count", "fetch", "flood", "greeting", "grow", "maybe", "mix", "nothing", "reverse", "spin"]
    );
    let tool = |name: &str| toolbox.tools().find(|tool| tool.name == name).unwrap();
    let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    assert_eq!(tool("count").input, object(json!({"text": {"type": "string"}}), json!(["text"])));
    let counts = json!({
        "words": {"type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32},
        "longest": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    });
    assert_eq!(tool("count").output, Some(object(counts, json!(["words"]))));
    let case = |name: &str| object(json!({name: {"type": "number"}}), json!([name]));
    let shape = json!({"oneOf": [{"const": "point"}, case("circle"), case("square")]});
    assert_eq!(tool("area").input["properties"]["of"], shape);
    assert_eq!(tool("area").output.as_ref().unwrap()["properties"]["result"], json!({"type": "number"}));
    let mix = &tool("mix").input["properties"];
    assert_eq!(mix["colours"]["items"]["enum"], json!(["red", "green", "blue"]));
    assert_eq!(mix["marks"]["uniqueItems"], true);
    assert_eq!(mix["pair"]["prefixItems"][1], json!({"type": "string", "minLength": 1, "maxLength": 1}));
    assert_eq!(tool("reverse").input["properties"]["bytes"]["contentEncoding"], "base64");
    assert_eq!(tool("maybe").input["required"], json!([]));
    assert_eq!(tool("nothing").output, None);
}

#[tokio::test]
async fn values_go_there_and_back() {
    let toolbox = toolbox().await;
    for (tool, arguments, value) in [
        ("count", json!({"text": "a bb"}), json!({"words": 2, "longest": "bb"})),
        ("count", json!({"text": ""}), json!({"words": 0, "longest": null})),
        ("area", json!({"of": "point"}), json!({"result": 0.0})),
        ("area", json!({"of": {"circle": 2}}), json!({"result": 12.0})),
        (
            "mix",
            json!({"colours": ["red", "blue"], "marks": ["bold"], "pair": [-5, "é"]}),
            json!({"result": [["blue", "red"], ["bold"], [-5, "é"]]}),
        ),
        ("reverse", json!({"bytes": "AQID"}), json!({"result": "AwIB"})),
        ("reverse", json!({"bytes": ""}), json!({"result": ""})),
        ("maybe", json!({}), json!({"result": null})),
        ("maybe", json!({"number": u64::MAX}), json!({"result": u64::MAX})),
        ("greeting", json!({}), json!({"result": "{\"hello\": \"world\"}"})),
    ] {
        let answer = call(&toolbox, tool, arguments.clone()).await;
        assert_eq!(answer, Ok(ToolAnswer { value: Some(value), is_error: false }), "{tool} {arguments}");
    }
    assert_eq!(call(&toolbox, "nothing", json!({})).await, Ok(ToolAnswer { value: None, is_error: false }));
    let error = call(&toolbox, "area", json!({"of": {"circle": -1}})).await;
    assert_eq!(error, Ok(ToolAnswer { value: Some(json!("a circle inside out")), is_error: true }));
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_named() {
    let toolbox = toolbox().await;
    for (tool, arguments, words) in [
        ("count", json!({}), "/text: is missing"),
        ("count", json!({"text": 1}), "/text: must be a text"),
        ("count", json!({"text": "a", "more": 1}), "/more: there is no such parameter"),
        ("area", json!({"of": "circle"}), "/of: must be one of point, circle, square"),
        ("area", json!({"of": {"circle": "x"}}), "/of/circle: must be a number"),
        ("area", json!({"of": {"point": null}}), "/of: must be one of"),
        (
            "mix",
            json!({"colours": ["pink"], "marks": [], "pair": [0, "a"]}),
            "/colours/0: must be one of red, green, blue",
        ),
        ("mix", json!({"colours": [], "marks": ["bold", "bold"], "pair": [0, "a"]}), "/marks: must be"),
        ("mix", json!({"colours": [], "marks": [], "pair": [128, "a"]}), "/pair/0: must be between -128 and 127"),
        ("mix", json!({"colours": [], "marks": [], "pair": [0, "ab"]}), "/pair/1: must be one character"),
        ("mix", json!({"colours": [], "marks": [], "pair": [0]}), "/pair: must be an array of 2"),
        ("reverse", json!({"bytes": "!"}), "/bytes: must be base64"),
        ("maybe", json!({"number": -1}), "/number: must be between 0"),
        ("maybe", json!({"number": 1.5}), "/number: must be a whole number"),
    ] {
        let answer = call(&toolbox, tool, arguments.clone()).await;
        assert!(matches!(&answer, Err(ToolError::Arguments(why)) if why.contains(words)), "{arguments}: {answer:?}");
    }
    assert_eq!(call(&toolbox, "gone", json!({})).await, Err(ToolError::Unknown));
}

#[tokio::test]
async fn a_tool_that_misbehaves_ends_alone() {
    let toolbox = load(guest("toolbox"), |plan| {
        plan.grants = Grants { http: vec!["https://granted.example".into()], ..Grants::default() };
        plan.services = Services { http: Some(portcullis_outbound::Client::new().unwrap()), ..Services::default() };
        plan.limits = Limits { cpu: Span::millis(2), wait: Span::seconds(20), ..Limits::default() };
    })
    .await
    .unwrap();
    let spinning = {
        let toolbox = Arc::clone(&toolbox);
        tokio::spawn(async move { call(&toolbox, "spin", json!({})).await })
    };
    let fine = call(&toolbox, "count", json!({"text": "a"})).await.unwrap();
    assert_eq!(fine.value, Some(json!({"words": 1, "longest": "a"})));
    assert_eq!(spinning.await.unwrap(), Err(ToolError::Failed(PluginFailure::Cpu)));
    let grown = call(&toolbox, "grow", json!({"mebibytes": 64})).await;
    assert_eq!(grown, Err(ToolError::Failed(PluginFailure::Memory)));
    let flood = call(&toolbox, "flood", json!({"count": 1_500_000})).await;
    assert!(matches!(flood, Err(ToolError::Failed(_))), "more than an answer may have");
    assert!(call(&toolbox, "flood", json!({"count": 3})).await.is_ok());
}

#[tokio::test]
async fn grants_hold_for_tools_as_for_plugins() {
    let refused = load(guest("toolbox"), |_| {}).await.unwrap_err();
    assert!(matches!(&refused, LoadError::Ungranted { interface, .. } if interface.contains("host/http")), "{refused}");
    let toolbox = toolbox().await;
    let elsewhere = call(&toolbox, "fetch", json!({"url": "https://elsewhere.example/"})).await.unwrap();
    assert!(elsewhere.is_error && elsewhere.value.unwrap().as_str().unwrap().contains("not granted"));
}

#[tokio::test]
async fn what_can_be_no_tool_is_refused_by_name() {
    for (text, words) in [
        (r#"(component)"#, "no function that could be a tool"),
        (
            r#"(component
                (core module $m (func (export "f") (param i32)))
                (core instance $i (instantiate $m))
                (type $t (resource (rep i32)))
                (export $thing "thing" (type $t))
                (func (export "take") (param "x" (own $thing)) (canon lift (core func $i "f"))))"#,
            "the function take takes a resource",
        ),
    ] {
        let refused = load(wat::parse_str(text).unwrap().into(), |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
}

#[tokio::test]
async fn a_type_that_doubles_itself_is_not_written_out() {
    let component = |times: u32| {
        let doubled = |n: u32| {
            let inner = if n == 0 { "u8".to_owned() } else { format!("$t{}", n - 1) };
            format!(
                r#"(type $r{n} (record (field "a" {inner}) (field "b" {inner}))) (export $t{n} "t{n}" (type $r{n}))"#
            )
        };
        let types: String = (0..=times).map(doubled).collect();
        let text = format!(
            r#"(component
                (core module $m
                    (memory (export "memory") 1)
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
                    (func (export "f") (param i32)))
                (core instance $i (instantiate $m))
                {types}
                (func (export "take") (param "x" $t{times}) (canon lift (core func $i "f")
                    (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
        );
        load(wat::parse_str(text).unwrap().into(), |_| {})
    };
    assert_eq!(component(6).await.unwrap().tools().count(), 1);
    let refused = component(16).await.unwrap_err();
    assert!(refused.to_string().contains("the function take takes types whose schema is longer"), "{refused}");
}
