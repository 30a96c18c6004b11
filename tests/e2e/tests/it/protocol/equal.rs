//! The seven real servers: every tool, resource and prompt gives the same through the gateway as directly. Identical bytes
//! within an era; across eras equal JSON but for [`ACROSS`]; what varies by nature is listed in [`VARIES`] and compared by
//! its shape.

use std::{ffi::OsString, path::Path};

use portcullis_e2e::{
    eventually,
    http::{LEGACY, MODERN},
    product::{Product, resource},
    servers::{self, Server},
    wire::{Answer, Wire},
};
use serde_json::{Value, json};

/// Members of a result that one era has and the other has not (2026-07-28: `resultType`, caching hints, the server's name).
const ACROSS: [&str; 4] = ["resultType", "ttlMs", "cacheScope", "_meta"];

/// Calls whose answer holds the time of day, or the environment that the process was started with.
const VARIES: [&str; 8] = [
    "get_current_time",
    "convert_time",
    "get_file_info",
    // It counts what it was told since it started.
    "sequentialthinking",
    "get-env",
    "get-resource-reference",
    "gzip-file-as-resource",
    "resource-prompt",
];

/// One request to a server.
struct Request {
    method: &'static str,
    params: Value,
}

impl Request {
    fn name(&self) -> &str {
        self.params["name"].as_str().or(self.params["uri"].as_str()).unwrap_or_default()
    }

    fn varies(&self) -> bool {
        VARIES.contains(&self.name()) || self.name().starts_with("demo://resource/dynamic/")
    }
}

fn tools(calls: &[(&'static str, Value)]) -> Vec<Request> {
    let request = |(name, arguments): &(&str, Value)| Request {
        method: "tools/call",
        params: json!({"name": name, "arguments": arguments}),
    };
    calls.iter().map(request).collect()
}

/// What each server is asked, in this order: each of its tools, and what else it has.
fn requests(server: &str, folder: &Path) -> Vec<Request> {
    let inside = |file: &str| folder.join("files").join(file).display().to_string();
    let repository = folder.join("repository").display().to_string();
    let prompt = |name: &str, arguments: Value| Request {
        method: "prompts/get",
        params: json!({"name": name, "arguments": arguments}),
    };
    let read = |uri: &str| Request { method: "resources/read", params: json!({"uri": uri}) };
    match server {
        "everything" => {
            let mut all = tools(&[
                ("echo", json!({"message": "gr\u{fc}\u{df} \u{1f600}"})),
                ("get-annotated-message", json!({"messageType": "error", "includeImage": true})),
                ("get-env", json!({})),
                ("get-resource-links", json!({"count": 3})),
                ("get-resource-reference", json!({"resourceType": "Text", "resourceId": 1})),
                ("get-structured-content", json!({"location": "Chicago"})),
                ("get-sum", json!({"a": 1.5, "b": 2})),
                ("get-sum", json!({"a": "not a number"})),
                ("get-tiny-image", json!({})),
                (
                    "gzip-file-as-resource",
                    json!({"name": "a.gz", "data": "data:text/plain;base64,YQ==", "outputType": "resource"}),
                ),
                // Twice each: on and off again, since the child is shared.
                ("toggle-simulated-logging", json!({})),
                ("toggle-simulated-logging", json!({})),
                ("toggle-subscriber-updates", json!({})),
                ("toggle-subscriber-updates", json!({})),
                ("trigger-long-running-operation", json!({"duration": 0.1, "steps": 2})),
                ("simulate-research-query", json!({"topic": "gates"})),
            ]);
            all.push(prompt("simple-prompt", json!({})));
            all.push(prompt("args-prompt", json!({"city": "Vienna", "state": "Vienna"})));
            all.push(prompt("completable-prompt", json!({"department": "Engineering", "name": "Alice"})));
            all.push(prompt("resource-prompt", json!({"resourceType": "Text", "resourceId": "1"})));
            all.push(prompt("no-such-prompt", json!({})));
            for file in
                ["architecture", "extension", "features", "how-it-works", "instructions", "startup", "structure"]
            {
                all.push(read(&format!("demo://resource/static/document/{file}.md")));
            }
            all.push(read("demo://resource/dynamic/text/7"));
            all.push(read("demo://resource/dynamic/blob/8"));
            let completion = |r: Value, name: &str, value: &str| Request {
                method: "completion/complete",
                params: json!({"ref": r, "argument": {"name": name, "value": value}}),
            };
            all.push(completion(json!({"type": "ref/prompt", "name": "completable-prompt"}), "department", "E"));
            let template = json!({"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"});
            all.push(completion(template, "resourceId", "1"));
            all
        }
        "filesystem" => tools(&[
            ("list_allowed_directories", json!({})),
            ("read_file", json!({"path": inside("public.txt")})),
            ("read_text_file", json!({"path": inside("public.txt"), "head": 1})),
            ("read_text_file", json!({"path": inside("missing.txt")})),
            ("read_text_file", json!({"path": "/etc/passwd"})),
            ("read_media_file", json!({"path": inside("public.txt")})),
            ("read_multiple_files", json!({"paths": [inside("public.txt"), inside("secret.txt")]})),
            ("create_directory", json!({"path": inside("made")})),
            ("write_file", json!({"path": inside("made/a.txt"), "content": "one\ntwo\n"})),
            ("edit_file", json!({"path": inside("made/a.txt"), "edits": [{"oldText": "two", "newText": "three"}]})),
            ("list_directory", json!({"path": inside("made")})),
            ("list_directory_with_sizes", json!({"path": inside("made")})),
            ("directory_tree", json!({"path": inside("")})),
            ("move_file", json!({"source": inside("made/a.txt"), "destination": inside("made/b.txt")})),
            ("search_files", json!({"path": inside(""), "pattern": "**/b.txt"})),
            ("get_file_info", json!({"path": inside("public.txt")})),
        ]),
        "memory" => {
            let entity = |name: &str| json!({"name": name, "entityType": "thing", "observations": ["it stands"]});
            let relation = json!({"relations": [{"from": "gate", "to": "wall", "relationType": "is in"}]});
            let mut all = tools(&[
                ("create_entities", json!({"entities": [entity("gate"), entity("wall")]})),
                ("create_relations", relation.clone()),
                ("add_observations", json!({"observations": [{"entityName": "gate", "contents": ["it closes"]}]})),
                ("read_graph", json!({})),
                ("search_nodes", json!({"query": "closes"})),
                ("open_nodes", json!({"names": ["wall"]})),
                ("delete_observations", json!({"deletions": [{"entityName": "gate", "observations": ["it closes"]}]})),
                ("delete_relations", relation),
            ]);
            all.push(read("memory://knowledge-graph"));
            all.extend(tools(&[
                ("delete_entities", json!({"entityNames": ["gate", "wall"]})),
                ("read_graph", json!({})),
            ]));
            all
        }
        "thinking" => tools(&[(
            "sequentialthinking",
            json!({"thought": "one", "nextThoughtNeeded": false, "thoughtNumber": 1, "totalThoughts": 1}),
        )]),
        "time" => tools(&[
            ("get_current_time", json!({"timezone": "Europe/Vienna"})),
            ("get_current_time", json!({"timezone": "Nowhere/None"})),
            ("convert_time", json!({"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"})),
        ]),
        "git" => {
            let at = |mut more: Value| {
                more["repo_path"] = json!(repository);
                more
            };
            tools(&[
                ("git_status", at(json!({}))),
                ("git_add", at(json!({"files": ["a.txt"]}))),
                ("git_diff_staged", at(json!({}))),
                ("git_commit", at(json!({"message": "first"}))),
                ("git_diff_unstaged", at(json!({}))),
                ("git_reset", at(json!({}))),
                ("git_create_branch", at(json!({"branch_name": "side"}))),
                ("git_checkout", at(json!({"branch_name": "side"}))),
                ("git_diff", at(json!({"target": "side"}))),
                ("git_log", at(json!({"max_count": 1}))),
                ("git_show", at(json!({"revision": "HEAD"}))),
                ("git_branch", at(json!({"branch_type": "local"}))),
            ])
        }
        // Its only tool and prompt fetch a page; a port that nobody listens at answers the same to everybody.
        _ => {
            let mut all = tools(&[("fetch", json!({"url": "http://127.0.0.1:1/page"}))]);
            all.push(prompt("fetch", json!({"url": "http://127.0.0.1:1/page"})));
            all
        }
    }
}

/// Everything that one server said: its lists, and the answers to [`requests`].
struct Said {
    lists: Vec<(&'static str, Vec<String>)>,
    answers: Vec<Answer>,
}

const LISTS: [(&str, &str); 4] = [
    ("tools/list", "tools"),
    ("prompts/list", "prompts"),
    ("resources/list", "resources"),
    ("resources/templates/list", "resourceTemplates"),
];

async fn everything(wire: &mut Wire, requests: &[Request]) -> anyhow::Result<Said> {
    let mut lists = Vec::new();
    for (method, member) in LISTS {
        let items = wire.list(method, member).await?;
        // What a former run had made (`gzip-file-as-resource`) stays in the shared child, and is no part of what it offers.
        let offered = items.iter().map(|i| i.get()).filter(|i| !i.contains("demo://resource/session/"));
        lists.push((member, offered.map(str::to_owned).collect()));
    }
    let mut answers = Vec::new();
    for request in requests {
        answers.push(wire.ask(request.method, request.params.clone()).await?);
    }
    Ok(Said { lists, answers })
}

/// The state that a run starts from; the same for each run.
fn afresh(folder: &Path) {
    for name in ["files", "repository"] {
        let _ = std::fs::remove_dir_all(folder.join(name));
    }
    let _ = std::fs::remove_file(folder.join("memory.json"));
    servers::prepare(folder).unwrap();
    std::fs::write(folder.join("repository/a.txt"), "a\n").unwrap();
}

/// What commits depend on besides their content, held still.
fn environment(folder: &Path) -> Vec<(&'static str, OsString)> {
    let person = ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|n| (n, OsString::from("Gate")));
    let mail = ["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|n| (n, OsString::from("gate@example.com")));
    let date = ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|n| (n, OsString::from("1767225600 +0000")));
    let memory = [("MEMORY_FILE_PATH", folder.join("memory.json").into_os_string())];
    person.into_iter().chain(mail).chain(date).chain(memory).collect()
}

/// The shape of a value: its members and types, without what it says.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(n, v)| (n.clone(), shape(v))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        other => other.clone(),
    }
}

fn without_era(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.retain(|name, _| !ACROSS.contains(&name.as_str()));
    }
    value
}

fn compare(server: &Server, client: &str, requests: &[Request], direct: &Said, through: &Said) -> Vec<String> {
    let mut differences = Vec::new();
    let same_era = client == server.version;
    for ((member, wanted), (_, found)) in direct.lists.iter().zip(&through.lists) {
        if wanted != found {
            differences.push(format!("{member}:\n direct  {wanted:?}\n through {found:?}"));
        }
    }
    for ((request, wanted), found) in requests.iter().zip(&direct.answers).zip(&through.answers) {
        let same = if request.varies() {
            shape(&without_era(wanted.value())) == shape(&without_era(found.value()))
        } else if same_era {
            wanted.raw() == found.raw()
        } else {
            without_era(wanted.value()) == without_era(found.value())
        };
        if !same {
            let (wanted, found) = (wanted.raw(), found.raw());
            differences.push(format!("{} {}:\n direct  {wanted}\n through {found}", request.method, request.params));
        }
    }
    differences.into_iter().map(|d| format!("{} by a {client} client: {d}", server.name)).collect()
}

/// Nothing that a server has is left out of what it is asked.
fn complete(server: &Server, requests: &[Request], said: &Said) {
    for (member, items) in &said.lists {
        for item in items {
            let item: Value = serde_json::from_str(item).unwrap();
            let key = if *member == "resources" { "uri" } else { "name" };
            let name = item[key].as_str().unwrap();
            let asked = *member == "resourceTemplates" || requests.iter().any(|r| r.name() == name);
            assert!(asked, "{} has {member} {name}, which nobody asks for", server.name);
        }
    }
}

#[tokio::test]
async fn seven_real_servers_say_the_same_through_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    afresh(folder.path());
    let servers = servers::all(folder.path());
    let environment = environment(folder.path());
    let mut resources = Vec::new();
    for server in &servers {
        let mut made = server.resource(&folder.path().join("memory.json"));
        for (name, value) in &environment {
            made["spec"]["process"]["env"][name] = json!(value.to_string_lossy());
        }
        resources.push(made);
        let assigned = json!({"anonymous": true, "servers": [{"server": server.name, "bareNames": true}]});
        resources.push(resource("Gateway", server.name, assigned));
    }
    let product = Product::start(&resources).await.unwrap();

    let mut differences = Vec::new();
    for server in &servers {
        let requests = requests(server.name, folder.path());
        afresh(folder.path());
        let mut wire = Wire::spawn(&server.command, &server.args, &environment, server.version).await.unwrap();
        let direct = everything(&mut wire, &requests).await.unwrap_or_else(|e| panic!("{}: {e:#}", server.name));
        complete(server, &requests, &direct);
        drop(wire);
        for client in [LEGACY, MODERN] {
            afresh(folder.path());
            let url = product.url(server.name);
            let mut wire = Wire::connect(&url, None, client).await.unwrap();
            // The server is started by the first list.
            eventually("its tools are listed", || async {
                let mut wire = Wire::connect(&url, None, client).await.ok()?;
                wire.list("tools/list", "tools").await.ok().filter(|l| !l.is_empty())
            })
            .await;
            match everything(&mut wire, &requests).await {
                Ok(through) => differences.extend(compare(server, client, &requests, &direct, &through)),
                Err(error) => differences.push(format!("{} by a {client} client: {error:#}", server.name)),
            }
        }
    }
    product.stop().await;
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}
