//! Tasks where client and server are of different eras and both have them: each is told in its own words (decision 15).

use portcullis_conformance::{
    fixture::{Eras, Fixture},
    talk::{End, TASKS, Talk},
};
use portcullis_e2e::{
    eventually,
    http::{LEGACY, MODERN},
    product::Product,
};
use serde_json::{Value, json};

use super::pairings::gateways;

/// Whose task a result or a question is, for a client of 2025-11-25.
const RELATED: &str = "io.modelcontextprotocol/related-task";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The result of a request.
async fn result(talk: &mut Talk, method: &str, params: Value) -> Value {
    match talk.ask(method, params.clone()).await.unwrap_or_else(|e| panic!("{method} {params}: {e:#}")).end {
        End::Result(text) => parsed(&text),
        End::Error(text) => panic!("{method} {params}: {text}"),
    }
}

/// The error of a request.
async fn error(talk: &mut Talk, method: &str, params: Value) -> Value {
    match talk.ask(method, params.clone()).await.unwrap_or_else(|e| panic!("{method} {params}: {e:#}")).end {
        End::Error(text) => parsed(&text),
        End::Result(text) => panic!("{method} {params}: {text}"),
    }
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}"))
}

async fn house() -> (Fixture, Fixture, Product) {
    let legacy = Fixture::start(Eras::Legacy).await.unwrap();
    let modern = Fixture::start(Eras::Modern).await.unwrap();
    let product = Product::start(&gateways(&legacy, &modern)).await.unwrap();
    (legacy, modern, product)
}

#[tokio::test]
async fn a_client_of_2025_has_tasks_of_a_server_of_2026() {
    let (_legacy, _modern, product) = house().await;
    let url = product.url("modern");
    let mut talk = eventually("tasks are offered", || async {
        let talk = Talk::open(&url, LEGACY, json!({"elicitation": {}})).await.ok()?;
        parsed(&talk.greeting)["capabilities"]["tasks"]["requests"]["tools"]["call"].is_object().then_some(talk)
    })
    .await;
    let call = |name: &str, arguments: Value| json!({"name": name, "arguments": arguments, "task": {"ttl": 60_000}});
    let id = async |talk: &mut Talk, name: &str, arguments: Value| {
        let made = result(talk, "tools/call", call(name, arguments)).await;
        let task = &made["task"];
        assert!(made["resultType"].is_null() && task["ttl"].is_number() && task["ttlMs"].is_null(), "{made}");
        (task["taskId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned(), task["status"].clone())
    };
    let (slow, status) = id(&mut talk, "slow_compute", json!({"seconds": 0.3, "label": "x"})).await;
    assert_eq!(status, "working");
    let of = json!({"taskId": slow});
    let seen = result(&mut talk, "tasks/get", of.clone()).await;
    assert_eq!(seen["taskId"], slow.as_str(), "{seen}");
    let brought = result(&mut talk, "tasks/result", of.clone()).await;
    assert_eq!((text(&brought), &brought["_meta"][RELATED]["taskId"]), ("x took 0.3 s", &json!(slow)), "{brought}");
    assert_eq!(result(&mut talk, "tasks/get", of.clone()).await["status"], "completed");
    assert_eq!(error(&mut talk, "tasks/cancel", of).await["code"], -32602, "it has ended");
    let listed = result(&mut talk, "tasks/list", json!({})).await;
    assert_eq!(listed["tasks"][0]["taskId"], slow.as_str(), "{listed}");
    let mut other = Talk::open(&url, LEGACY, json!({})).await.unwrap();
    assert_eq!(result(&mut other, "tasks/list", json!({})).await["tasks"], json!([]), "each session has its own");
    for invented in ["invented", "", &slow[1..]] {
        let refused = error(&mut talk, "tasks/get", json!({"taskId": invented})).await;
        assert_eq!(refused["data"]["code"], "unknown-task", "{invented}: {refused}");
    }

    // What a task wants to know is asked on the stream of `tasks/result`, and says whose question it is.
    for (name, arguments, questions, said) in [
        ("confirm_delete", json!({"filename": "f"}), 1, "f: deleted"),
        ("multi_input", json!({}), 2, "canned and canned"),
    ] {
        let (task, _) = id(&mut talk, name, arguments).await;
        let brought = talk.ask("tasks/result", json!({"taskId": task})).await.unwrap();
        assert_eq!(brought.asked.len(), questions, "{name}: {brought:?}");
        for (method, params) in &brought.asked {
            assert_eq!(method, "elicitation/create");
            assert_eq!(parsed(params)["_meta"][RELATED]["taskId"], task.as_str(), "{name}: {params}");
        }
        let End::Result(brought) = &brought.end else { panic!("{name}: {brought:?}") };
        assert_eq!(text(&parsed(brought)), said);
    }

    // Cancelled, failed as a tool fails, failed as a protocol fails, and over before it began.
    let (long, _) = id(&mut talk, "slow_compute", json!({"seconds": 30})).await;
    assert_eq!(result(&mut talk, "tasks/cancel", json!({"taskId": long})).await["status"], "cancelled");
    assert!(error(&mut talk, "tasks/result", json!({"taskId": long})).await["message"].is_string());
    let (failing, _) = id(&mut talk, "failing_job", json!({})).await;
    assert_eq!(result(&mut talk, "tasks/result", json!({"taskId": failing})).await["isError"], true);
    let (broken, _) = id(&mut talk, "protocol_error_job", json!({})).await;
    assert_eq!(error(&mut talk, "tasks/result", json!({"taskId": broken})).await["code"], -32603);
    assert_eq!(result(&mut talk, "tasks/get", json!({"taskId": broken})).await["status"], "failed");
    let (greeted, status) = id(&mut talk, "greet", json!({"name": "ada"})).await;
    assert_eq!(status, "completed", "its server makes no task of it");
    let brought = result(&mut talk, "tasks/result", json!({"taskId": greeted})).await;
    assert_eq!((text(&brought), &brought["_meta"][RELATED]["taskId"]), ("Hello, ada!", &json!(greeted)));
    product.stop().await;
}

#[tokio::test]
async fn a_client_of_2026_has_tasks_of_a_server_of_2025() {
    let (_legacy, _modern, product) = house().await;
    let url = product.url("legacy");
    let knows = json!({"elicitation": {}, "extensions": {TASKS: {}}});
    let mut talk = Talk::open(&url, MODERN, knows).await.unwrap();
    let locked = tokio::sync::Mutex::new(&mut talk);
    eventually("tasks are offered, and the tools listed", || async {
        let mut talk = locked.lock().await;
        let offered = result(&mut talk, "server/discover", json!({})).await;
        let tools = result(&mut talk, "tools/list", json!({})).await;
        let there = tools["tools"].as_array()?.iter().any(|tool| tool["name"] == "slow_compute");
        (offered["capabilities"]["extensions"][TASKS].is_object() && there).then_some(())
    })
    .await;
    let call = |name: &str, arguments: Value| json!({"name": name, "arguments": arguments});
    let id = async |talk: &mut Talk, name: &str, arguments: Value| {
        let made = result(talk, "tools/call", call(name, arguments)).await;
        assert_eq!(made["resultType"], "task", "{made}");
        assert!(made["ttlMs"].is_number() && made["task"].is_null() && made["ttl"].is_null(), "{made}");
        made["taskId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    };
    let over = async |talk: &mut Talk, task: &str| {
        let talk = tokio::sync::Mutex::new(talk);
        eventually("it ends", || async {
            let seen = result(*talk.lock().await, "tasks/get", json!({"taskId": task})).await;
            assert_eq!((&seen["resultType"], &seen["taskId"]), (&json!("complete"), &json!(task)), "{seen}");
            (seen["status"] != "working").then_some(seen)
        })
        .await
    };
    let slow = id(&mut talk, "slow_compute", json!({"seconds": 0.3, "label": "x"})).await;
    let seen = over(&mut talk, &slow).await;
    assert_eq!((&seen["status"], text(&seen["result"])), (&json!("completed"), "x took 0.3 s"), "{seen}");
    assert!(seen["result"]["_meta"].is_null(), "that era does not say whose result it is: {seen}");
    let broken = id(&mut talk, "protocol_error_job", json!({})).await;
    let seen = over(&mut talk, &broken).await;
    assert_eq!((&seen["status"], &seen["error"]["code"]), (&json!("failed"), &json!(-32603)), "{seen}");
    let long = id(&mut talk, "slow_compute", json!({"seconds": 30})).await;
    assert_eq!(result(&mut talk, "tasks/cancel", json!({"taskId": long})).await["resultType"], "complete");
    assert_eq!(over(&mut talk, &long).await["status"], "cancelled");
    assert_eq!(error(&mut talk, "tasks/get", json!({"taskId": "invented"})).await["data"]["code"], "unknown-task");
    let plain = result(&mut talk, "tools/call", call("greet", json!({"name": "ada"}))).await;
    assert_eq!((&plain["resultType"], text(&plain)), (&json!("complete"), "Hello, ada!"), "no task by its definition");

    // A client that knows none gets none, and learns nothing of another's.
    let mut plain = Talk::open(&url, MODERN, json!({})).await.unwrap();
    let done = result(&mut plain, "tools/call", call("slow_compute", json!({"seconds": 0.1, "label": "y"}))).await;
    assert_eq!((&done["resultType"], text(&done)), (&json!("complete"), "y took 0.1 s"));
    let refused = error(&mut plain, "tasks/get", json!({"taskId": slow})).await;
    assert!(refused["data"]["requiredCapabilities"]["extensions"][TASKS].is_object(), "{refused}");
    product.stop().await;
}
