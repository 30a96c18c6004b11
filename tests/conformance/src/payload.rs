//! Our own comparison, since the suite is lenient about what is in an answer: everything that the fixture offers, asked
//! directly and through, compared member by member as it was written.

use std::{collections::BTreeMap, time::Duration};

use portcullis_e2e::http::{LEGACY, MODERN};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;

use crate::{
    compare::Difference,
    ordered,
    talk::{End, Exchange, TASKS, Talk},
};

/// Members that one era has and the other has not, and in which the gateway speaks for itself.
const OURS: [&str; 5] = ["resultType", "ttlMs", "cacheScope", "io.modelcontextprotocol/serverInfo", "requestState"];
/// The same, and what is made anew for each task.
const TASK: [&str; 9] = [
    "resultType",
    "ttlMs",
    "cacheScope",
    "io.modelcontextprotocol/serverInfo",
    "requestState",
    "taskId",
    "io.modelcontextprotocol/related-task",
    "createdAt",
    "lastUpdatedAt",
];
/// How long notifications may take that nobody waits for.
const SOON: Duration = Duration::from_secs(4);

/// A request, and how strictly its answers are compared.
struct Case {
    name: String,
    method: &'static str,
    params: Value,
    /// The gateway may find the fault itself: only that there is an error, and its code, are the same.
    own_words: bool,
}

fn case(name: &str, method: &'static str, params: Value) -> Case {
    Case { name: format!("{method} {name}"), method, params, own_words: false }
}

fn tool(name: &str, arguments: Value) -> Case {
    case(name, "tools/call", json!({"name": name, "arguments": arguments}))
}

fn wrong(name: &str, method: &'static str, params: Value) -> Case {
    Case { own_words: true, ..case(name, method, params) }
}

/// What both eras have.
fn cases() -> Vec<Case> {
    let plain = [
        "test_simple_text",
        "test_image_content",
        "test_audio_content",
        "test_embedded_resource",
        "test_multiple_content_types",
        "test_tool_with_logging",
        "test_error_handling",
        "test_elicitation_sep1034_defaults",
        "test_elicitation_sep1330_enums",
        "test_reconnection",
        "test_missing_capability",
        "test_streaming_elicitation",
        "test_logging_tool",
        "test_input_required_result_elicitation",
        "test_input_required_result_sampling",
        "test_input_required_result_list_roots",
        "test_input_required_result_request_state",
        "test_input_required_result_multiple_inputs",
        "test_input_required_result_multi_round",
        "test_input_required_result_tampered_state",
        "test_input_required_result_capabilities",
        "protocol_error_job",
        "fixture_odd",
    ];
    let mut all: Vec<Case> = plain.into_iter().map(|name| tool(name, json!({}))).collect();
    let echoed = json!({"z": 1, "a": {"deep": [1.5, null, "\u{2028}\u{1f600}"]}, "text": "\u{fc}"});
    all.extend([
        tool("greet", json!({"name": "Ada"})),
        tool("slow_compute", json!({"seconds": 0.05, "label": "x"})),
        tool("test_sampling", json!({"prompt": "Say something"})),
        tool("test_elicitation", json!({"message": "Who?"})),
        tool("json_schema_2020_12_tool", json!({"email": "a@example.invalid", "contactMethod": "email"})),
        tool("test_custom_header", json!({"value": "plain", "count": 3})),
        tool("fixture_echo", echoed.clone()),
        case(
            "test_tool_with_progress",
            "tools/call",
            json!({"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": "a-token"}}),
        ),
        case(
            "test_tool_with_progress, numbered",
            "tools/call",
            json!({"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": 7}}),
        ),
        case(
            "fixture_echo, with more in _meta",
            "tools/call",
            json!({"name": "fixture_echo", "arguments": echoed, "_meta": {"example.invalid/vendor": {"b": 1, "a": 2}}}),
        ),
        case("arguments left out", "tools/call", json!({"name": "fixture_echo"})),
    ]);
    for name in ["test_simple_prompt", "test_prompt_with_image", "test_input_required_result_prompt"] {
        all.push(case(name, "prompts/get", json!({"name": name})));
    }
    all.extend([
        case(
            "test_prompt_with_arguments",
            "prompts/get",
            json!({"name": "test_prompt_with_arguments", "arguments": {"arg1": "one", "arg2": "two"}}),
        ),
        case(
            "test_prompt_with_embedded_resource",
            "prompts/get",
            json!({"name": "test_prompt_with_embedded_resource", "arguments": {"resourceUri": "test://else"}}),
        ),
    ]);
    for uri in [
        "test://static-text",
        "test://static-binary",
        "test://watched-resource",
        "test://%C3%BCn%C3%AFcode/a?q=a%20b&r=%2F#c",
        "test://template/42/data",
        "test://template/a%2Fb/data",
    ] {
        all.push(case(uri, "resources/read", json!({"uri": uri})));
    }
    let argument = json!({"name": "arg1", "value": "par"});
    let prompt = json!({"type": "ref/prompt", "name": "test_prompt_with_arguments"});
    let template = json!({"type": "ref/resource", "uri": "test://template/{id}/data"});
    all.extend([
        case("of a prompt", "completion/complete", json!({"ref": prompt, "argument": argument})),
        case("of a template", "completion/complete", json!({"ref": template, "argument": argument})),
        case("a method of no revision", "example.invalid/unheard", json!({"word": "x"})),
        wrong("that is not there", "tools/call", json!({"name": "no_such_tool", "arguments": {}})),
        wrong("that is not there", "prompts/get", json!({"name": "no_such_prompt"})),
        wrong("that is not there", "resources/read", json!({"uri": "test://nothing"})),
        wrong("with a cursor that nobody gave", "tools/list", json!({"cursor": "invented"})),
    ]);
    all
}

/// Tools that refuse whoever does not know tasks; the era without them has nobody to refuse.
const TASKS_ONLY: [&str; 4] = ["failing_job", "confirm_delete", "multi_input", "test_tool_with_task"];

/// Tools that answer a task to a client that knows tasks.
fn tasks() -> Vec<Case> {
    let with = |name: &str, arguments: Value| Case { name: format!("task {name}"), ..tool(name, arguments) };
    vec![
        with("greet", json!({"name": "Ada"})),
        with("slow_compute", json!({"seconds": 0.05, "label": "x"})),
        with("failing_job", json!({})),
        with("protocol_error_job", json!({})),
        with("confirm_delete", json!({"filename": "f"})),
        with("multi_input", json!({})),
        with("test_tool_with_task", json!({})),
    ]
}

const LISTS: [(&str, &str, &str); 4] = [
    ("tools/list", "tools", "name"),
    ("prompts/list", "prompts", "name"),
    ("resources/list", "resources", "uri"),
    ("resources/templates/list", "resourceTemplates", "uriTemplate"),
];

/// Everything that a server said to a client of one era.
pub struct Transcript {
    exchanges: BTreeMap<String, (bool, anyhow::Result<Exchange>)>,
    /// Each item of each list, by list and key, in order.
    lists: BTreeMap<&'static str, anyhow::Result<Vec<(String, String)>>>,
    /// What was told without being asked, each once.
    told: anyhow::Result<Vec<(String, String)>>,
    /// The capabilities that the server says it has.
    capabilities: anyhow::Result<String>,
}

/// Asks for everything.
pub async fn transcript(url: &str, version: &'static str) -> anyhow::Result<Transcript> {
    let capabilities = json!({"elicitation": {}, "sampling": {}, "roots": {}});
    let mut exchanges = BTreeMap::new();
    let mut talk = Talk::open(url, version, capabilities.clone()).await?;
    if version == LEGACY {
        let level = talk.ask("logging/setLevel", json!({"level": "info"})).await;
        exchanges.insert("logging/setLevel".to_owned(), (false, level));
        exchanges.insert("ping".to_owned(), (false, talk.ask("ping", json!({})).await));
    }
    for Case { name, method, mut params, own_words } in cases() {
        if version == MODERN && params["name"].as_str().is_some_and(|n| n.contains("logging")) {
            params["_meta"]["io.modelcontextprotocol/logLevel"] = json!("info");
        }
        exchanges.insert(name, (own_words, talk.ask(method, params).await));
    }
    if version == LEGACY {
        for name in ["slow_compute", "protocol_error_job"] {
            for (what, exchange) in tasks_2025(&mut talk, name).await {
                // Which task is nobody's may be known to the gateway already.
                exchanges.insert(format!("task {name}: {what}"), (what.ends_with("another"), exchange));
            }
        }
    }
    if version == MODERN {
        for name in TASKS_ONLY {
            let Case { name, method, params, .. } = tool(name, json!({}));
            exchanges.insert(name, (false, talk.ask(method, params).await));
        }
        let mut knowing = capabilities;
        knowing["extensions"] = json!({TASKS: {}});
        let mut talk = Talk::open(url, version, knowing).await?;
        for Case { name, method, params, .. } in tasks() {
            exchanges.insert(name, (false, followed(&mut talk, method, params).await));
        }
    }
    let mut lists = BTreeMap::new();
    for (method, member, key) in LISTS {
        lists.insert(method, list(&mut talk, method, member, key).await);
    }
    let told = changes(&mut talk, version).await;
    let said = match version {
        LEGACY => Ok(End::Result(talk.greeting.clone())),
        _ => talk.ask("server/discover", json!({})).await.map(|e| e.end),
    };
    Ok(Transcript { exchanges, lists, told, capabilities: said.and_then(|end| member(&end, "capabilities")) })
}

fn member(end: &End, name: &str) -> anyhow::Result<String> {
    let End::Result(text) = end else { anyhow::bail!("{end:?}") };
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)?;
    members.remove(name).map(|v| v.get().to_owned()).ok_or_else(|| anyhow::anyhow!("no {name} in {text}"))
}

/// Follows a task to its end, and answers what it asks on the way.
async fn followed(talk: &mut Talk, method: &str, params: Value) -> anyhow::Result<Exchange> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Task {
        task_id: Option<String>,
        status: Option<String>,
        #[serde(default)]
        input_requests: BTreeMap<String, Value>,
    }
    let mut exchange = talk.ask(method, params).await?;
    loop {
        let End::Result(text) = &exchange.end else { return Ok(exchange) };
        let task: Task = serde_json::from_str(text)?;
        let (Some(id), Some(status)) = (task.task_id, task.status) else { return Ok(exchange) };
        if ["completed", "failed", "cancelled"].contains(&&*status) {
            return Ok(exchange);
        }
        let mut answers = json!({});
        for (key, request) in task.input_requests {
            let params = request["params"].to_string();
            answers[key] = crate::talk::canned("elicitation/create", &params);
            exchange.asked.insert(("elicitation/create".to_owned(), params));
        }
        if answers != json!({}) {
            let updated = talk.ask("tasks/update", json!({"taskId": id, "inputResponses": answers})).await?;
            if let End::Error(_) = updated.end {
                return Ok(updated);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        exchange.end = talk.ask("tasks/get", json!({"taskId": id})).await?.end;
    }
}

/// A call as a task, the way of revision 2025-11-25, and what can be asked about it.
async fn tasks_2025(talk: &mut Talk, name: &str) -> Vec<(&'static str, anyhow::Result<Exchange>)> {
    let call = json!({"name": name, "arguments": {"seconds": 0.3, "label": "x"}, "task": {"ttl": 60000}});
    let made = talk.ask("tools/call", call).await;
    let id = made.as_ref().ok().and_then(|made| match &made.end {
        End::Result(text) => parsed(text)["task"]["taskId"].as_str().map(str::to_owned),
        End::Error(_) => None,
    });
    let mut all = vec![("created", made)];
    if let Some(id) = id {
        let of = json!({"taskId": id});
        all.push(("tasks/get", talk.ask("tasks/get", of.clone()).await));
        all.push(("tasks/result", talk.ask("tasks/result", of.clone()).await));
        all.push(("tasks/get, at the end", talk.ask("tasks/get", of.clone()).await));
        all.push(("tasks/list", talk.ask("tasks/list", json!({})).await));
        all.push(("tasks/cancel, too late", talk.ask("tasks/cancel", of).await));
        all.push(("tasks/get of another", talk.ask("tasks/get", json!({"taskId": "invented"})).await));
    }
    all
}

async fn list(talk: &mut Talk, method: &str, items_of: &str, key: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    let mut params = json!({});
    loop {
        let end = talk.ask(method, params).await?.end;
        let items: Vec<Box<RawValue>> = serde_json::from_str(&member(&end, items_of)?)?;
        for item in items {
            let value: Value = serde_json::from_str(item.get())?;
            all.push((value[key].as_str().unwrap_or_default().to_owned(), item.get().to_owned()));
        }
        match member(&end, "nextCursor") {
            Ok(cursor) => params = json!({"cursor": serde_json::from_str::<Value>(&cursor)?}),
            Err(_) => return Ok(all),
        }
    }
}

/// What a client is told that listens while lists and a resource change.
async fn changes(talk: &mut Talk, version: &'static str) -> anyhow::Result<Vec<(String, String)>> {
    const URI: &str = "test://watched-resource";
    let filter = json!({"toolsListChanged": true, "promptsListChanged": true, "resourceSubscriptions": [URI]});
    let mut events = talk.listen(filter).await?;
    if version == LEGACY {
        talk.ask("resources/subscribe", json!({"uri": URI})).await?;
    } else {
        // The first message says that the subscription stands.
        timeout(SOON, events.next()).await??;
    }
    for (name, arguments) in [
        ("test_trigger_tool_change", json!({})),
        ("test_trigger_prompt_change", json!({})),
        ("test_touch_resource", json!({"uri": URI})),
    ] {
        talk.ask("tools/call", json!({"name": name, "arguments": arguments})).await?;
    }
    let mut told: Vec<(String, String)> = Vec::new();
    let until = tokio::time::Instant::now() + SOON;
    while told.len() < 3 {
        let Ok(event) = tokio::time::timeout_at(until, events.next()).await else { break };
        let Some(text) = event? else { break };
        let message: Value = serde_json::from_str(&text)?;
        let mut params = message["params"].clone();
        if let Some(params) = params.as_object_mut() {
            params.remove("_meta");
        }
        let params = if params.as_object().is_none_or(serde_json::Map::is_empty) { json!({}) } else { params };
        let one = (message["method"].as_str().unwrap_or_default().to_owned(), params.to_string());
        if !told.contains(&one) {
            told.push(one);
        }
    }
    told.sort();
    Ok(told)
}

/// Compares what was said directly and through. `shared`: other servers may be in the lists too.
pub fn compare(direct: &Transcript, through: &Transcript, shared: bool) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut add = |check: &str, what: Option<String>| {
        let what = what.map(|what| Difference { scenario: "payload".to_owned(), check: check.to_owned(), what });
        differences.extend(what);
    };
    for (name, (own_words, wanted)) in &direct.exchanges {
        let found = through.exchanges.get(name).map(|(_, found)| found);
        add(name, exchange(wanted, found, *own_words, name.starts_with("task ")));
    }
    for (method, wanted) in &direct.lists {
        add(method, lists(wanted, through.lists.get(method), shared));
    }
    add(
        "notifications of changes",
        both(&direct.told, &through.told, |wanted, found| {
            (wanted != found).then(|| format!("{found:?}, not {wanted:?}"))
        }),
    );
    add(
        "capabilities",
        both(&direct.capabilities, &through.capabilities, |wanted, found| {
            let (wanted, found): (Value, Value) = (parsed(wanted), parsed(found));
            (wanted != found).then(|| crate::compare::first_difference(&wanted, &found))
        }),
    );
    differences
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn both<T>(
    wanted: &anyhow::Result<T>,
    found: &anyhow::Result<T>,
    compare: impl FnOnce(&T, &T) -> Option<String>,
) -> Option<String> {
    match (wanted, found) {
        (Ok(wanted), Ok(found)) => compare(wanted, found),
        (Err(error), _) => Some(format!("directly: {error:#}")),
        (_, Err(error)) => Some(format!("through: {error:#}")),
    }
}

fn exchange(
    wanted: &anyhow::Result<Exchange>,
    found: Option<&anyhow::Result<Exchange>>,
    own_words: bool,
    task: bool,
) -> Option<String> {
    let Some(found) = found else { return Some("not asked through".to_owned()) };
    both(wanted, found, |wanted, found| {
        let but: &[&str] = if task { &TASK } else { &OURS };
        if wanted.asked != found.asked {
            return Some(format!("asked {:?}, not {:?}", found.asked, wanted.asked));
        }
        if wanted.told.len() != found.told.len() {
            return Some(format!("told {:?}, not {:?}", found.told, wanted.told));
        }
        let told = wanted.told.iter().zip(&found.told).find_map(|(a, b)| {
            if a.0 != b.0 {
                return Some(format!("told {}, not {}", b.0, a.0));
            }
            ordered::difference(&a.1, &b.1, but).map(|d| format!("{}{d}", a.0))
        });
        told.or_else(|| match (&wanted.end, &found.end) {
            (End::Result(wanted), End::Result(found)) => {
                ordered::difference(wanted, found, but).map(|d| format!("result{d}"))
            }
            (End::Error(wanted), End::Error(found)) if own_words => {
                let code = |text: &str| parsed(text)["code"].clone();
                (code(wanted) != code(found)).then(|| format!("error {found}, not {wanted}"))
            }
            (End::Error(wanted), End::Error(found)) => {
                ordered::difference(wanted, found, but).map(|d| format!("error{d}"))
            }
            (wanted, found) => Some(format!("{found:?}, not {wanted:?}")),
        })
    })
}

type Items = anyhow::Result<Vec<(String, String)>>;

fn lists(wanted: &Items, found: Option<&Items>, shared: bool) -> Option<String> {
    let Some(found) = found else { return Some("not listed through".to_owned()) };
    both(wanted, found, |wanted, found| {
        let ours: Vec<&(String, String)> =
            found.iter().filter(|(key, _)| !shared || wanted.iter().any(|(k, _)| k == key)).collect();
        let keys = |of: &mut dyn Iterator<Item = &String>| of.cloned().collect::<Vec<_>>();
        let (a, b) = (keys(&mut wanted.iter().map(|(k, _)| k)), keys(&mut ours.iter().map(|(k, _)| k)));
        if a != b {
            return Some(format!("{b:?}, not {a:?}"));
        }
        let mut pairs = wanted.iter().zip(ours);
        pairs.find_map(|((key, a), (_, b))| ordered::difference(a, b, &[]).map(|d| format!("{key}{d}")))
    })
}
