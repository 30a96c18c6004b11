//! Progressive disclosure: two tools in place of a thousand, and how often the right one is found.

use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    eventually,
    http::{self, LEGACY, MODERN},
    product::{Product, resource},
    servers,
    shelf::{Offered, Shelf},
    wire::Wire,
};
use serde_json::{Value, json};

/// What people ask for, and the tools that would do it.
const WANTED: [(&str, &[&str]); 34] = [
    ("what time is it in Tokyo", &["time__get_current_time"]),
    ("convert 3pm in Vienna to New York time", &["time__convert_time"]),
    ("commit my staged changes", &["git__git_commit"]),
    ("show the commit history", &["git__git_log"]),
    ("which files have I changed in the repository", &["git__git_status", "git__git_diff_unstaged"]),
    ("create a new branch", &["git__git_create_branch"]),
    ("switch to another branch", &["git__git_checkout"]),
    ("list all git branches", &["git__git_branch"]),
    ("stage a file for the next commit", &["git__git_add"]),
    ("unstage everything", &["git__git_reset"]),
    ("differences between two branches", &["git__git_diff"]),
    ("what is in this commit", &["git__git_show"]),
    ("download a web page as markdown", &["fetch__fetch"]),
    ("read a text file", &["filesystem__read_text_file", "filesystem__read_file"]),
    ("read several files at once", &["filesystem__read_multiple_files"]),
    ("save text to a file", &["filesystem__write_file"]),
    ("change some lines of a file", &["filesystem__edit_file"]),
    ("make a folder", &["filesystem__create_directory"]),
    ("what is in this directory", &["filesystem__list_directory", "filesystem__list_directory_with_sizes"]),
    ("recursive tree of a directory as JSON", &["filesystem__directory_tree"]),
    ("rename a file", &["filesystem__move_file"]),
    ("find files by a glob pattern", &["filesystem__search_files"]),
    ("size and modification date of a file", &["filesystem__get_file_info"]),
    ("which directories may I access", &["filesystem__list_allowed_directories"]),
    ("show an image from disk", &["filesystem__read_media_file"]),
    (
        "remember that Alice works at Acme",
        &["memory__add_observations", "memory__create_relations", "memory__create_entities"],
    ),
    ("create entities in the knowledge graph", &["memory__create_entities"]),
    ("forget a relation between two entities", &["memory__delete_relations"]),
    ("search the knowledge graph", &["memory__search_nodes"]),
    ("everything in the knowledge graph", &["memory__read_graph"]),
    ("think step by step about a problem", &["thinking__sequentialthinking"]),
    ("echo a message", &["everything__echo"]),
    ("add two numbers", &["everything__get-sum", "everything__add"]),
    ("compress a file with gzip", &["everything__gzip-file-as-resource"]),
];

/// Tools that make it hard: systems, things and verbs in all their combinations.
fn generated() -> Vec<Value> {
    let systems =
        ["crm", "billing", "warehouse", "payroll", "helpdesk", "calendar", "newsletter", "fleet", "survey", "library"];
    let things =
        ["customer", "invoice", "order", "employee", "ticket", "event", "campaign", "vehicle", "answer", "book"];
    let verbs = [
        ("create", "Creates a new"),
        ("delete", "Deletes a"),
        ("update", "Changes fields of a"),
        ("get", "Gets a single"),
        ("list", "Lists every"),
        ("search", "Searches by text for a"),
        ("archive", "Moves to the archive a"),
        ("export", "Exports as CSV a"),
        ("assign", "Assigns to somebody a"),
        ("notify", "Sends a notification about a"),
    ];
    let mut tools = Vec::new();
    for system in systems {
        for thing in things {
            for (verb, says) in verbs {
                tools.push(json!({
                    "name": format!("{system}_{verb}_{thing}"),
                    "description": format!("{says} {thing} in the {system} system."),
                    "inputSchema": {"type": "object", "properties": {
                        format!("{thing}_id"): {"type": "string", "description": format!("Which {thing}")},
                    }},
                }));
            }
        }
    }
    tools
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the figures are what it is for")]
async fn the_right_tool_of_a_thousand_is_found() {
    let folder = tempfile::tempdir().unwrap();
    servers::prepare(folder.path()).unwrap();
    let all = servers::all(folder.path());
    let mut offered = Offered::modern("many");
    offered.tools = generated();
    let many = Shelf::start(offered).await.unwrap();
    let memory = folder.path().join("memory.json");
    let mut resources: Vec<Value> = all.iter().map(|s| s.resource(&memory)).collect();
    resources.push(many.open("many"));
    let assigned: Vec<Value> = all.iter().map(|s| s.name).chain(["many"]).map(|s| json!({"server": s})).collect();
    let spec = json!({"anonymous": true, "auth": [], "servers": assigned, "exposure": "search"});
    resources.push(resource("Gateway", "main", spec));
    let product = Product::start(&resources).await.unwrap();
    let url = product.url("main");

    let search = async |query: &str, limit: usize| {
        let arguments = json!({"query": query, "limit": limit});
        let found = http::call(&url, None, "search_tools", arguments).await.unwrap().message();
        let tools = found["result"]["structuredContent"]["tools"].clone();
        let tools = tools.as_array().unwrap_or_else(|| panic!("{found}")).clone();
        tools.iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let reply = eventually("all tools are there", || async {
        let reply = http::ask(&url, None, "tools/list", json!({})).await.unwrap();
        let list = reply.message()["result"].clone();
        let count = all.iter().map(|s| s.tools).sum::<usize>() + 1000;
        let all = list["tools"][0]["description"].as_str().unwrap().contains(&format!("{count} tools"));
        all.then_some(reply)
    })
    .await;
    assert!(reply.body.len() < 2048, "the whole list has {} bytes", reply.body.len());

    let (mut first, mut five) = (0, 0);
    for (query, wanted) in WANTED {
        let found = search(query, 5).await;
        let at = found.iter().position(|name| wanted.contains(&name.as_str()));
        first += usize::from(at == Some(0));
        five += usize::from(at.is_some());
        if at != Some(0) {
            println!("{query}: {at:?} {found:?}");
        }
    }
    let generated = [
        ("delete an invoice from billing", "many__billing_delete_invoice"),
        ("export all orders of the warehouse as csv", "many__warehouse_export_order"),
        ("assign a helpdesk ticket to a colleague", "many__helpdesk_assign_ticket"),
        ("search books in the library", "many__library_search_book"),
        ("update a vehicle of the fleet", "many__fleet_update_vehicle"),
        ("many__survey_list_answer", "many__survey_list_answer"),
    ];
    for (query, wanted) in generated {
        let found = search(query, 5).await;
        first += usize::from(found[0] == wanted);
        five += usize::from(found.iter().any(|f| f == wanted));
        if found[0] != wanted {
            println!("{query}: {found:?}");
        }
    }
    let asked = WANTED.len() + generated.len();
    println!(
        "of {asked} questions over 1,052 tools: hit@1 {first}, hit@5 {five}; the list has {} bytes",
        reply.body.len()
    );
    assert!(first * 100 >= asked * 70, "hit@1 {first} of {asked}");
    assert!(five * 100 >= asked * 90, "hit@5 {five} of {asked}");
    product.stop().await;
}

#[tokio::test]
async fn what_is_called_inside_is_judged_as_if_called_directly() {
    let shelf = Shelf::start(Offered::modern("one")).await.unwrap();
    shelf.change(|offered| {
        offered.tools.push(portcullis_e2e::shelf::tool("secret", json!({})));
        offered.tools.push(portcullis_e2e::shelf::tool(
            "where",
            json!({"region": {"type": "string", "x-mcp-header": "Region"}}),
        ));
    });
    let mut one = shelf.open("one");
    one["spec"]["traffic"] = json!({"pinnedArguments": {"echo": {"pinned": true}}});
    let rules = json!({"rules": [{"effect": "deny", "principals": ["*"], "servers": ["one"], "tools": ["secret"]},
        {"effect": "allow", "principals": ["user:alice"], "servers": ["one"]}]});
    let spec = json!({"policies": [{"plugin": "tool-access", "config": rules}], "servers": [{"server": "one"}],
        "exposure": "search"});
    let resources = [resource("User", "alice", json!({})), one, resource("Gateway", "main", spec)];
    let product = Product::start(&resources).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    let url = product.url("main");
    for (sdk, mode) in [(Sdk::Python, MODERN), (Sdk::Node, "legacy")] {
        let mut client = Driver::connect(sdk, &url, Some(&token), mode).await.unwrap();
        assert_eq!(client.names().await.unwrap(), ["call_tool", "search_tools"]);
        let found = client.call("search_tools", json!({"query": "echo"})).await.unwrap();
        assert!(text(&found).contains("one__echo") && !text(&found).contains("secret"), "{found}");
        let called = client.call("call_tool", json!({"name": "one__echo", "arguments": {"text": "x"}})).await.unwrap();
        let said: Value = serde_json::from_str(called["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(said["arguments"], json!({"text": "x", "pinned": true}), "{sdk:?} {mode}");
        // A text that is an object, as some models write it.
        let called = client
            .call("call_tool", json!({"name": "one__echo", "arguments": "{\"text\":\"y\"}"}))
            .await
            .unwrap_or_else(|e| json!({"content": [{"text": e.to_string()}]}));
        assert!(text(&called).contains("\\\"y\\\"") || text(&called).contains("\"y\""), "{called}");
        client.close().await.unwrap();
    }
    let mut wire = Wire::connect(&url, Some(&token), LEGACY).await.unwrap();
    let mut call = async |name: &str, arguments: Value| {
        wire.ask("tools/call", json!({"name": name, "arguments": arguments})).await.unwrap().value()
    };
    let direct = call("one__secret", json!({})).await;
    let inner = call("call_tool", json!({"name": "one__secret", "arguments": {}})).await;
    assert_eq!((&direct["code"], &direct["message"]), (&inner["code"], &inner["message"]), "{direct} {inner}");
    assert!(call("call_tool", json!({"name": "call_tool", "arguments": {}})).await["code"].is_i64(), "not in itself");
    assert_eq!(call("call_tool", json!({})).await["isError"], true);
    assert_eq!(call("search_tools", json!({"query": 7})).await["isError"], true);
    // The header is said to the server although the client could not.
    let reply =
        http::call(&url, Some(&token), "call_tool", json!({"name": "one__where", "arguments": {"region": "eu"}}));
    assert_eq!(reply.await.unwrap().status, 200);
    assert_eq!(shelf.seen("tools/call").pop().unwrap().headers["mcp-param-region"], "eu");
    assert!(shelf.seen("tools/call").iter().all(|s| s.body["params"]["name"] != "secret"));
    product.stop().await;
}
