//! What servers offer, federated: prompts, resources, completion, capabilities, headers, caching, servers that are slow, dead
//! or hidden.

use portcullis_e2e::{
    driver::{Driver, Sdk},
    eventually,
    http::{self, MODERN},
    product::{Product, resource},
    shelf::{Offered, Shelf, tool},
};
use serde_json::{Value, json};

fn gateway(name: &str, spec: Value) -> Value {
    let mut all = json!({"anonymous": true, "auth": []});
    for (key, value) in spec.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    resource("Gateway", name, all)
}

async fn ask(url: &str, method: &str, params: Value) -> Value {
    http::ask(url, None, method, params).await.unwrap().message()
}

/// Waits until everything that is offered has been fetched.
async fn settled(url: &str) {
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        eventually("the lists are there", || async {
            let answer = ask(url, method, json!({})).await;
            answer["result"]["_meta"]["portcullis.dev/servers"].is_null().then_some(())
        })
        .await;
    }
}

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|i| i[key].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn two_servers_are_one_for_the_official_clients() {
    let (one, two) =
        (Shelf::start(Offered::modern("one")).await.unwrap(), Shelf::start(Offered::legacy("two")).await.unwrap());
    let servers = json!({"servers": [{"server": "one"}, {"server": "two"}]});
    let product = Product::start(&[one.open("one"), two.open("two"), gateway("main", servers)]).await.unwrap();
    let url = product.url("main");
    settled(&url).await;
    for (sdk, mode) in [(Sdk::Python, MODERN), (Sdk::Python, "legacy"), (Sdk::Node, MODERN), (Sdk::Node, "legacy")] {
        let mut client = Driver::connect(sdk, &url, None, mode).await.unwrap();
        let offered = client.perform(json!({"do": "offered"})).await.unwrap();
        assert_eq!(names(&offered["prompts"], "name"), ["one__greet", "two__greet"], "{sdk:?} {mode}");
        assert_eq!(names(&offered["resources"], "uri"), ["shelf://one/one", "shelf://two/one"]);
        assert_eq!(names(&offered["templates"], "uriTemplate"), ["shelf://one/{id}", "shelf://two/{id}"]);

        let greeted =
            client.perform(json!({"do": "prompt", "name": "two__greet", "arguments": {"whom": "you"}})).await.unwrap();
        assert_eq!(greeted["messages"][0]["content"]["text"], r#"two "greet" {"whom":"you"}"#, "{sdk:?} {mode}");
        for (uri, by) in [("shelf://one/one", "one"), ("shelf://two/any", "two")] {
            let read = client.perform(json!({"do": "read", "uri": uri})).await.unwrap();
            let text = read["contents"][0]["text"].as_str().unwrap();
            assert!(text.starts_with(by), "{sdk:?} {mode} {uri}: {text}");
            assert_eq!(read["contents"][0]["uri"], uri);
        }
        for (reference, by) in [
            (json!({"type": "ref/prompt", "name": "one__greet"}), "one"),
            (json!({"type": "ref/resource", "uri": "shelf://two/{id}"}), "two"),
        ] {
            let argument = json!({"name": "whom", "value": "y"});
            let completed =
                client.perform(json!({"do": "complete", "ref": reference, "argument": argument})).await.unwrap();
            assert_eq!(completed["completion"]["values"][0], by, "{sdk:?} {mode}");
            let seen: Value = serde_json::from_str(completed["completion"]["values"][1].as_str().unwrap()).unwrap();
            assert!(seen["name"] == "greet" || seen["uri"] == "shelf://two/{id}", "{seen}");
        }
        for wrong in [
            json!({"do": "prompt", "name": "three__greet"}),
            json!({"do": "prompt", "name": "greet"}),
            json!({"do": "read", "uri": "other://x"}),
        ] {
            assert!(client.perform(wrong.clone()).await.is_err(), "{sdk:?} {mode} {wrong}");
        }
        client.close().await.unwrap();
    }
    // Definitions pass byte for byte but for the name.
    let reply = http::ask(&url, None, "prompts/list", json!({})).await.unwrap().text();
    assert!(reply.contains(r#""vendor":1.1"#), "{reply}");
    product.stop().await;
}

#[tokio::test]
async fn clashing_addresses_lead_to_their_own_server() {
    let both = |name: &str| {
        let mut offered = Offered::modern(name);
        offered.resources.push(json!({"uri": "shelf://both", "name": "both"}));
        offered.templates.push(json!({"uriTemplate": "made://{+any}", "name": "made"}));
        offered
    };
    let (one, two) = (Shelf::start(both("one")).await.unwrap(), Shelf::start(both("two")).await.unwrap());
    let servers = json!({"servers": [{"server": "one"}, {"server": "two", "prefix": "zwei"}]});
    let product = Product::start(&[one.open("one"), two.open("two"), gateway("main", servers)]).await.unwrap();
    let url = product.url("main");
    settled(&url).await;
    let listed = ask(&url, "resources/list", json!({})).await;
    let uris = names(&listed["result"]["resources"], "uri");
    assert_eq!(uris, ["shelf://one/one", "shelf://both", "shelf://two/one", "shelf://portcullis.zwei///both"]);
    let templates = ask(&url, "resources/templates/list", json!({})).await;
    let templates = names(&templates["result"]["resourceTemplates"], "uriTemplate");
    assert_eq!(templates[3], "made://portcullis.zwei///{+any}");

    let read = async |uri: &str| ask(&url, "resources/read", json!({"uri": uri})).await;
    for (uri, by) in [
        ("shelf://both", "one to"),
        ("shelf://portcullis.zwei///both", "two to"),
        ("made://x/y", "one to"),
        ("made://portcullis.zwei///x/y", "two to"),
    ] {
        let content = &read(uri).await["result"]["contents"][0];
        assert!(content["text"].as_str().unwrap().starts_with(by), "{uri}: {content}");
        assert_eq!(content["uri"], uri, "what was asked for is what is given");
    }
    // Links in results lead back to the server that gave them.
    for (tool, own) in [("one__echo", "one to"), ("zwei__echo", "two to")] {
        let called = ask(&url, "tools/call", json!({"name": tool, "arguments": {}})).await;
        let content = called["result"]["content"].as_array().unwrap();
        let links = content.iter().filter_map(|b| b["uri"].as_str().or(b["resource"]["uri"].as_str()));
        for link in links {
            let text = read(link).await["result"]["contents"][0]["text"].to_string();
            assert!(text.contains(own), "{tool} {link}: {text}");
        }
    }
    product.stop().await;
}

#[tokio::test]
async fn one_bare_server_says_what_it_says_itself() {
    let mut offered = Offered::legacy("one");
    offered.capabilities = json!({"tools": {"listChanged": true}, "prompts": {}, "experimental": {"x": {"y": 1}}});
    let one = Shelf::start(offered).await.unwrap();
    let two = Shelf::start(Offered::modern("two")).await.unwrap();
    let resources = [
        one.open("one"),
        two.open("two"),
        gateway("bare", json!({"servers": [{"server": "one", "bareNames": true}]})),
        gateway(
            "both",
            json!({"servers": [{"server": "one"}, {"server": "two"}], "instructions": "Be kind.", "title": "Both"}),
        ),
    ];
    let product = Product::start(&resources).await.unwrap();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let initialize = async |gateway: &str| {
        http::post(&product.url(gateway), &[], hello.to_string()).await.unwrap().message()["result"].clone()
    };
    let bare = eventually("the server is known", || async {
        let said = initialize("bare").await;
        (said["serverInfo"]["name"] == "one").then_some(said)
    })
    .await;
    assert_eq!(
        bare["capabilities"],
        json!({"tools": {"listChanged": true}, "prompts": {}, "experimental": {"x": {"y": 1}}})
    );
    assert_eq!(bare["instructions"], "Use one with care.");

    settled(&product.url("both")).await;
    let both = initialize("both").await;
    for capability in ["tools", "prompts", "resources", "completions"] {
        assert!(both["capabilities"][capability].is_object(), "{both}");
    }
    assert!(both["capabilities"]["experimental"].is_null(), "nobody could say whose");
    assert_eq!(both["serverInfo"]["title"], "Both");
    let instructions = both["instructions"].as_str().unwrap();
    assert!(instructions.starts_with("Be kind."), "{instructions}");
    assert!(
        instructions.contains("## one (one__*)\nUse one with care.") && instructions.contains("two"),
        "{instructions}"
    );

    let discovered = ask(&product.url("both"), "server/discover", json!({})).await;
    assert_eq!(discovered["result"]["capabilities"]["resources"]["listChanged"], true);
    assert_eq!(discovered["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["title"], "Both");

    // Methods of extensions go to the only server, and to nobody where there are two.
    let heard = ask(&product.url("bare"), "example.invalid/extension", json!({"word": "x"})).await;
    assert_eq!(heard["result"]["heard"], "x");
    for (gateway, method) in [
        ("both", "example.invalid/extension"),
        ("bare", "ping"),
        ("bare", "initialize"),
        ("bare", "resources/subscribe"),
    ] {
        let reply = http::ask(&product.url(gateway), None, method, json!({"uri": "x"})).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.message()["error"]["code"].as_i64()), (404, Some(-32601)), "{method}");
    }
    product.stop().await;
}

#[tokio::test]
async fn a_slow_server_is_marked_and_a_dead_one_takes_nothing_away() {
    let slow = Offered { delay: std::time::Duration::from_secs(4), ..Offered::modern("slow") };
    let (good, slow) = (Shelf::start(Offered::modern("good")).await.unwrap(), Shelf::start(slow).await.unwrap());
    let servers = json!({"servers": [{"server": "good"}, {"server": "slow"}]});
    let all = [good.open("good"), slow.open("slow"), gateway("main", servers.clone())];
    let product = Product::start(&all).await.unwrap();
    let url = product.url("main");
    let first = ask(&url, "tools/list", json!({})).await["result"].clone();
    assert_eq!(names(&first["tools"], "name"), ["good__echo"]);
    assert_eq!(first["_meta"]["portcullis.dev/servers"]["slow"]["listed"], "not-yet", "{first}");
    assert_eq!(first["ttlMs"], 0, "worth asking again");
    let both = eventually("the slow one is there", || async {
        let list = ask(&url, "tools/list", json!({})).await["result"].clone();
        (list["tools"].as_array().unwrap().len() == 2).then_some(list)
    })
    .await;
    assert!(both["_meta"].is_null(), "{both}");

    let gone = slow.address;
    let mut edited = slow.open("slow");
    edited["spec"]["title"] = json!("Edited");
    drop(slow);
    product
        .write("touch.yaml", &[gateway("again", json!({"servers": [{"server": "good"}, {"server": "slow"}]}))])
        .unwrap();
    let called = ask(&url, "tools/call", json!({"name": "good__echo", "arguments": {}})).await;
    assert!(called["result"]["isError"].is_null(), "{called}");
    let dead = ask(&url, "tools/call", json!({"name": "slow__echo", "arguments": {}})).await;
    assert_eq!(dead["result"]["isError"], true, "{gone}: {dead}");
    let prompts = ask(&url, "prompts/list", json!({})).await["result"].clone();
    assert!(names(&prompts["prompts"], "name").contains(&"good__greet".to_owned()));
    // What was fetched, and what was not, is counted.
    let counted = |page: &str, server: &str, outcome: &str| {
        page.lines().any(|line| {
            let (server, outcome) = (format!("server=\"{server}\""), format!("outcome=\"{outcome}\""));
            line.starts_with("portcullis_catalogue_refreshes_total{")
                && line.contains(&server)
                && line.contains(&outcome)
        })
    };
    let edited = [good.open("good"), edited, gateway("main", servers)];
    product.write("resources.yaml", &edited).unwrap();
    eventually("the metric", || async {
        // Of a server that was edited nothing is known.
        ask(&url, "tools/list", json!({})).await;
        let page = http::get(&product.page("/metrics"), &[]).await.ok()?.text();
        let all =
            [("good", "fetched", true), ("slow", "fetched", true), ("slow", "failed", true), ("good", "failed", false)];
        all.iter().all(|(server, outcome, there)| counted(&page, server, outcome) == *there).then_some(())
    })
    .await;
    product.stop().await;
}

fn headed(url: &str, headers: &[(&str, &str)], name: &str, arguments: Value) -> impl Future<Output = http::Reply> {
    let message = http::modern("tools/call", json!({"name": name, "arguments": arguments})).to_string();
    let mut all = vec![("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", name)];
    all.extend_from_slice(headers);
    let all: Vec<(String, String)> = all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let url = url.to_owned();
    async move {
        let all: Vec<(&str, &str)> = all.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        http::post(&url, &all, message).await.unwrap()
    }
}

#[tokio::test]
async fn arguments_in_headers_are_checked_and_said_again() {
    let mut offered = Offered::modern("one");
    offered.tools = vec![
        tool("query", json!({"region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer"}})),
        tool("bad", json!({"x": {"type": "number", "x-mcp-header": "X"}})),
        tool("late", json!({"region": {"type": "string"}})),
    ];
    let one = Shelf::start(offered).await.unwrap();
    let mut pinned = one.open("pinned");
    pinned["spec"]["traffic"] = json!({"pinnedArguments": {"query": {"region": "höher"}}});
    let resources =
        [one.open("one"), pinned, gateway("main", json!({"servers": [{"server": "one"}, {"server": "pinned"}]}))];
    let product = Product::start(&resources).await.unwrap();
    let url = product.url("main");
    settled(&url).await;
    let listed = ask(&url, "tools/list", json!({})).await;
    let listed = names(&listed["result"]["tools"], "name");
    assert!(!listed.iter().any(|n| n.ends_with("bad")), "an invalid annotation takes its tool away: {listed:?}");

    let region = json!({"region": "us-west1"});
    for (headers, arguments, status) in [
        (vec![("mcp-param-region", "us-west1")], region.clone(), 200),
        (vec![("mcp-param-region", "=?base64?dXMtd2VzdDE=?=")], region.clone(), 200),
        (vec![], json!({"n": 1}), 200),
        (vec![], region.clone(), 400),
        (vec![("mcp-param-region", "eu")], region.clone(), 400),
        (vec![("mcp-param-region", "us-west1"), ("mcp-param-region", "us-west1")], region.clone(), 400),
        (vec![("mcp-param-region", "us-west1")], json!({}), 400),
    ] {
        let reply = headed(&url, &headers, "one__query", arguments.clone()).await;
        assert_eq!(reply.status.as_u16(), status, "{headers:?} {arguments}: {}", reply.text());
        if status == 400 {
            assert_eq!(reply.message()["error"]["code"], -32020);
        }
    }
    let sent = one.seen("tools/call");
    assert_eq!(sent.len(), 3, "what does not agree never leaves");
    assert_eq!(sent[0].headers["mcp-param-region"], "us-west1");
    assert_eq!(sent[0].headers["mcp-name"], "query");

    // What the operator pins is what the header says.
    let reply = headed(&url, &[("mcp-param-region", "us-west1")], "pinned__query", region.clone()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(one.seen("tools/call").pop().unwrap().headers["mcp-param-region"], "=?base64?aMO2aGVy?=");

    // A definition that changed after it was fetched: the server refuses, the definition is fetched, the call is made again.
    one.change(|offered| {
        offered.tools[2] = tool("late", json!({"region": {"type": "string", "x-mcp-header": "Region"}}));
        offered.demands = Some("mcp-param-region");
    });
    let reply = headed(&url, &[], "one__late", region).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let calls = one.seen("tools/call");
    assert_eq!(calls[calls.len() - 2].headers.get("mcp-param-region"), None);
    assert_eq!(calls[calls.len() - 1].headers["mcp-param-region"], "us-west1");
    product.stop().await;
}

#[tokio::test]
async fn what_may_be_kept_is_kept_for_whom_it_may() {
    let cached = |name: &str, cache| Offered { cache, ..Offered::modern(name) };
    let public = Shelf::start(cached("public", (60_000, "public"))).await.unwrap();
    let private = Shelf::start(cached("private", (60_000, "private"))).await.unwrap();
    let never = Shelf::start(cached("never", (0, "public"))).await.unwrap();
    let all = json!([{"server": "public"}, {"server": "private"}, {"server": "never"}]);
    let resources = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        public.open("public"),
        private.open("private"),
        never.open("never"),
        gateway("open", json!({"servers": [{"server": "public"}]})),
        resource("Gateway", "main", json!({"servers": all})),
    ];
    let product = Product::start(&resources).await.unwrap();
    let (alice, bob) = (product.token("user:alice").unwrap().1, product.token("user:bob").unwrap().1);
    let url = product.url("main");
    let read = async |token: &str, server: &str| {
        let uri = format!("shelf://{server}/one");
        let reply = http::ask(&url, Some(token), "resources/read", json!({"uri": uri})).await.unwrap().message();
        let result = reply["result"].clone();
        (result["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned(), result)
    };
    let (first, said) = read(&alice, "public").await;
    assert_eq!(said["cacheScope"], "private", "others may be refused what alice may read");
    let (again, said) = read(&bob, "public").await;
    assert_eq!(first, again, "public: read once");
    assert!(said["ttlMs"].as_u64().unwrap() <= 60_000);
    let (mine, _) = read(&alice, "private").await;
    assert_eq!(read(&alice, "private").await.0, mine, "kept for whoever got it");
    assert_ne!(read(&bob, "private").await.0, mine, "and for nobody else");
    assert_ne!(read(&alice, "never").await.0, read(&alice, "never").await.0);

    // Lists: the least of what was merged, public only where everybody gets the same.
    let list = async |gateway: &str, token: Option<&str>| {
        let reply = http::ask(&product.url(gateway), token, "tools/list", json!({})).await.unwrap();
        reply.message()["result"].clone()
    };
    let open = list("open", None).await;
    assert_eq!(open["cacheScope"], "public");
    assert!((1..=60_000).contains(&open["ttlMs"].as_u64().unwrap()), "{open}");
    let merged = list("main", Some(&alice)).await;
    assert_eq!((&merged["cacheScope"], &merged["ttlMs"]), (&json!("private"), &json!(0)));
    product.stop().await;
}

#[tokio::test]
async fn policies_decide_about_everything_that_is_offered() {
    let (one, two) =
        (Shelf::start(Offered::modern("one")).await.unwrap(), Shelf::start(Offered::modern("two")).await.unwrap());
    let rules = json!({"rules": [{"effect": "allow", "principals": ["user:alice"], "servers": ["one"]}]});
    let servers = json!([{"server": "one", "prompts": {"exclude": ["*"]}}, {"server": "two"}]);
    let resources = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        one.open("one"),
        two.open("two"),
        resource(
            "Gateway",
            "main",
            json!({"policies": [{"plugin": "tool-access", "config": rules}], "servers": servers}),
        ),
    ];
    let product = Product::start(&resources).await.unwrap();
    let (alice, bob) = (product.token("user:alice").unwrap().1, product.token("user:bob").unwrap().1);
    let url = product.url("main");
    let ask = async |token: &str, method: &str, params: Value| {
        http::ask(&url, Some(token), method, params).await.unwrap().message()
    };
    let uris = eventually("alice sees one", || async {
        let list = ask(&alice, "resources/list", json!({})).await;
        let uris = names(&list["result"]["resources"], "uri");
        (!uris.is_empty()).then_some(uris)
    })
    .await;
    assert_eq!(uris, ["shelf://one/one"]);
    assert_eq!(ask(&alice, "prompts/list", json!({})).await["result"]["prompts"], json!([]), "excluded and denied");
    let read = ask(&alice, "resources/read", json!({"uri": "shelf://one/one"})).await;
    assert!(read["result"]["contents"].is_array(), "{read}");

    // What somebody may not use looks like what is not there.
    let missing = ask(&bob, "resources/read", json!({"uri": "shelf://one/one"})).await["error"].clone();
    for (token, method, params) in [
        (&alice, "resources/read", json!({"uri": "shelf://two/one"})),
        (&alice, "resources/read", json!({"uri": "other://x"})),
        (&alice, "prompts/get", json!({"name": "two__greet"})),
        (&alice, "prompts/get", json!({"name": "one__greet"})),
        (
            &bob,
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": "shelf://one/{id}"}, "argument": {"name": "id", "value": ""}}),
        ),
    ] {
        let error = ask(token, method, params.clone()).await["error"].clone();
        assert_eq!((&error["code"], &error["data"]["side"]), (&missing["code"], &json!("caller")), "{params}: {error}");
    }
    assert!(two.seen("resources/read").is_empty() && two.seen("prompts/get").is_empty());

    // And whoever may use nothing of a server hears nothing of it.
    let said = ask(&bob, "server/discover", json!({})).await["result"].to_string();
    assert!(!said.contains("with care"), "{said}");
    let said = ask(&alice, "server/discover", json!({})).await["result"].to_string();
    assert!(said.contains("Use one with care") && !said.contains("Use two with care"), "{said}");
    product.stop().await;
}
