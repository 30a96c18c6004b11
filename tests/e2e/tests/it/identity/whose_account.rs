//! security.md 20 as a table: every kind of caller, by what exists, in both modes that choose a connection; with the connection that
//! the server saw, what the caller was told, and what is on record. The modes that carry the caller's own token are in [`tokens`].

mod tokens;

use std::collections::BTreeMap;

use portcullis_e2e::{
    asker::Asker,
    echo::Echo,
    eventually, http,
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

const AUDIENCE: &str = "https://gateway.example/mcp";

/// The callers. Alice and bob are members of blue, carol is not; ci is an agent of blue, lone of nobody. By the identity provider
/// come erin, whom no `User` claims; frank, whom none claims either and who is of blue by a group; and alice herself, by her identity.
const CALLERS: [&str; 10] = [
    "user:alice",
    "user:carol",
    "team:blue",
    "organization",
    "agent:ci",
    "agent:lone",
    "erin",
    "frank",
    "alice by her provider",
    "anonymous",
];

/// What exists, oldest first, and for each caller the connection that the call runs under: by owner, `-` for none. A connection is
/// `OWNER` or `OWNER.NOTE`, with behind it `!` where its owner keeps it to themselves, `?` where its server refuses it, `~` where it was
/// made for another address. `rule` is the registry entry's or the operator's.
struct Row {
    exists: &'static [&'static str],
    /// By CALLERS.
    wanted: [&'static str; 10],
    /// The registry entry keeps every connection of the server to its owner.
    entry_rule: bool,
}

const fn row(exists: &'static [&'static str], wanted: [&'static str; 10]) -> Row {
    Row { exists, wanted, entry_rule: false }
}

const fn ruled(exists: &'static [&'static str], wanted: [&'static str; 10]) -> Row {
    Row { exists, wanted, entry_rule: true }
}

const CALL_TIME: &[Row] = &[
    //   what exists                          alice    carol   blue    organization ci   lone   erin  frank  alice  anonymous
    row(&[], ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-"]),
    row(
        &["org", "red", "blue", "carol", "bob", "alice", "ci", "lone"],
        ["alice", "carol", "blue", "org", "ci", "lone", "org", "blue", "alice", "-"],
    ),
    // Each owner keeps theirs: whoever is no owner falls back on what is shared by its kind, and then to nothing.
    row(
        &["org!", "red!", "blue!", "carol!", "bob!", "alice!", "ci!", "lone!"],
        ["alice!", "carol!", "blue!", "org!", "ci!", "lone!", "org!", "blue!", "alice!", "-"],
    ),
    row(&["blue", "org"], ["blue", "org", "blue", "org", "blue", "-", "org", "blue", "blue", "-"]),
    row(&["bob", "carol"], ["-", "carol", "bob", "bob", "-", "-", "-", "-", "-", "-"]),
    row(&["bob!", "carol!"], ["-", "carol!", "-", "-", "-", "-", "-", "-", "-", "-"]),
    row(&["blue!", "bob!"], ["blue!", "-", "blue!", "-", "-", "-", "-", "blue!", "blue!", "-"]),
    row(&["red", "ci"], ["-", "-", "-", "red", "ci", "-", "-", "-", "-", "-"]),
    // Of one rank, the oldest: by age, not by name.
    row(&["bob.b", "alice.a"], ["alice.a", "-", "bob.b", "bob.b", "-", "-", "-", "-", "alice.a", "-"]),
    row(&["alice.z", "alice.a"], ["alice.z", "-", "alice.z", "alice.z", "-", "-", "-", "-", "alice.z", "-"]),
    // The healthy one first, once its server has refused the other.
    row(&["alice.z?", "alice.a"], ["alice.a", "-", "alice.a", "alice.a", "-", "-", "-", "-", "alice.a", "-"]),
    // Health decides within a rank only.
    row(&["alice?", "blue"], ["alice?", "-", "blue", "blue", "blue", "-", "-", "blue", "alice?", "-"]),
    // A connection that was made for another address serves nobody; the next one does.
    row(&["alice~", "blue"], ["blue", "-", "blue", "blue", "blue", "-", "-", "blue", "blue", "-"]),
    row(&["alice~"], ["-", "-", "-", "-", "-", "-", "-", "-", "-", "-"]),
    // The registry entry's rule is every owner's.
    ruled(&["blue", "bob", "carol", "ci"], ["blue", "carol", "blue", "-", "ci", "-", "-", "blue", "blue", "-"]),
    ruled(&["bob", "org"], ["org", "org", "-", "org", "-", "-", "org", "org", "org", "-"]),
];

/// The connection that an assignment names, and who may run under it. Existing ones are all of the first row.
const STATIC: &[(&str, [&str; 10])] = &[
    ("org", ["org", "org", "org", "org", "org", "org", "org", "org", "org", "org"]),
    ("blue", ["blue", "blue", "blue", "blue", "blue", "blue", "blue", "blue", "blue", "blue"]),
    ("blue.kept!", ["blue.kept!", "-", "blue.kept!", "-", "-", "-", "-", "blue.kept!", "blue.kept!", "-"]),
    // A person's and an agent's never serve others because somebody wrote their name somewhere.
    ("alice", ["alice", "-", "alice", "alice", "-", "-", "-", "-", "alice", "-"]),
    ("alice.kept!", ["alice.kept!", "-", "-", "-", "-", "-", "-", "-", "alice.kept!", "-"]),
    ("ci", ["-", "-", "-", "-", "ci", "-", "-", "-", "-", "-"]),
];
const NAMED: &[&str] = &["org", "blue", "blue.kept!", "alice", "alice.kept!", "ci"];

/// What a connection is called and says: names hold no marks.
fn plain(id: &str) -> String {
    id.trim_end_matches(['!', '?', '~']).replace('.', "-")
}

fn owner(id: &str) -> (Value, String) {
    let who = id.split(['.', '!', '?', '~']).next().unwrap();
    match who {
        "org" => (json!({"organization": true}), "organization".to_owned()),
        "blue" | "red" => (json!({"team": who}), format!("team:{who}")),
        "ci" | "lone" => (json!({"agent": who}), format!("agent:{who}")),
        user => (json!({"user": user}), format!("user:{user}")),
    }
}

/// Whom there is, and that the provider says who they are.
fn people(issuer: &str) -> Vec<Value> {
    let rules = json!({"issuers": [{"issuer": issuer, "audience": [AUDIENCE], "claims": {"groups": "groups"}}]});
    let groups = json!([{"issuer": issuer, "group": "engineering-blue"}]);
    vec![
        resource("Team", "blue", json!({"members": ["alice", "bob"], "groups": groups})),
        resource("Team", "red", json!({"members": []})),
        resource("Agent", "ci", json!({"team": "blue"})),
        resource("Agent", "lone", json!({})),
        resource(
            "Plugin",
            "jwks",
            json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [issuer]}, "config": rules}),
        ),
        resource("User", "alice", json!({"identities": [{"issuer": issuer, "subject": "a-1"}]})),
        resource("User", "bob", json!({})),
        resource("User", "carol", json!({})),
    ]
}

/// What a caller comes with; the provider's tokens are for these.
async fn key(product: &Product, provider: &Running, caller: &str, audiences: &[&str]) -> Option<String> {
    let token = async |subject, more| Some(provider.token(subject, audiences, more).await.unwrap());
    match caller {
        "anonymous" => None,
        // The provider calls her bob.
        "erin" => token("bob", "&group=engineering-red").await,
        "frank" => token("frank", "&group=engineering-blue").await,
        "alice by her provider" => token("a-1", "").await,
        owner => Some(product.token(owner).unwrap().1),
    }
}

struct House {
    product: Product,
    _echo: Echo,
    keys: BTreeMap<&'static str, Option<String>>,
    provider: Running,
}

/// One server for each row, with its own connections; each connection's secret is a file that holds its id.
async fn house(rows: &[Row], more: Value) -> House {
    let echo = Echo::start().await.unwrap();
    let provider = Running::provider(0).await.unwrap();
    let mut resources = people(&provider.url);
    let mut servers = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let mut server = echo.guarded(&format!("s{at}"), "picky");
        if row.entry_rule {
            server["spec"]["credential"]["ownerOnly"] = json!(true);
        }
        resources.push(server);
        servers.push(json!({"server": format!("s{at}")}));
    }
    resources.push(echo.guarded("named", "picky"));
    let auth = json!([{"plugin": "bearer-token"}, {"plugin": "jwks"}]);
    resources.push(resource("Gateway", "main", json!({"auth": auth, "anonymous": true, "servers": servers})));
    for (at, (named, _)) in STATIC.iter().enumerate() {
        let mode = json!({"mode": "static", "connection": format!("named-{}", plain(named))});
        let servers = json!([{"server": "named", "credential": mode}]);
        resources.push(resource(
            "Gateway",
            &format!("static-{at}"),
            json!({"auth": auth, "anonymous": true, "servers": servers}),
        ));
    }
    let mut settings = json!({"allowPrivateIssuers": true});
    for (name, value) in more.as_object().unwrap() {
        settings[name] = value.clone();
    }
    let product = Product::start_with(&resources, &[], settings).await.unwrap();

    // One file after another, so that they are of different ages.
    let most = rows.iter().map(|r| r.exists.len()).max().unwrap_or(0).max(NAMED.len());
    for age in 0..most {
        let mut made = Vec::new();
        let of_rows = rows.iter().enumerate().filter_map(|(at, r)| Some((format!("s{at}"), *r.exists.get(age)?)));
        for (server, id) in of_rows.chain(NAMED.get(age).map(|id| ("named".to_owned(), *id))) {
            let name = format!("{server}-{}", plain(id));
            let secret = product.home().join(&name);
            std::fs::write(&secret, id).unwrap();
            let mut spec = json!({"server": server, "owner": owner(id).0, "ownerOnly": id.ends_with('!'),
                "secrets": {"token": {"file": secret}}});
            if id.ends_with('~') {
                spec["origin"] = json!("https://elsewhere.example");
            }
            made.push(resource("Connection", &name, spec));
        }
        let wanted = made.len();
        product.write(&format!("connections-{age}.yaml"), &made).unwrap();
        eventually("the connections are there", || async {
            let all = product.ask(&["get", "connections"], "").ok()?;
            let all = all["items"].as_array()?.clone();
            let of_age =
                made.iter().filter(|m| all.iter().any(|c| c["metadata"]["name"] == m["metadata"]["name"])).count();
            (of_age == wanted).then_some(())
        })
        .await;
    }
    let mut keys = BTreeMap::new();
    for caller in CALLERS {
        let key = key(&product, &provider, caller, &[AUDIENCE]).await;
        keys.insert(caller, key);
    }
    House { product, _echo: echo, keys, provider }
}

impl House {
    /// Calls, and gives the connection that the server saw, or `-`; and the answer.
    async fn under(&self, gateway: &str, caller: &'static str, tool: &str) -> (String, String) {
        let key = self.keys[caller].as_deref();
        let reply = http::call(&self.product.url(gateway), key, tool, json!({})).await.unwrap();
        let text = reply.text();
        let saw = reply.message()["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        let saw: Value = serde_json::from_str(&saw).unwrap_or_default();
        let id = saw["authorization"].as_str().and_then(|a| a.strip_prefix("Bearer ")).unwrap_or("-");
        (id.to_owned(), text)
    }

    fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.product.data().join("audit/audit.jsonl")).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).map(|r| r["event"].clone()).collect()
    }
}

fn who(caller: &str, issuer: &str) -> String {
    match caller {
        "erin" => format!("external:{issuer}#bob"),
        "frank" => format!("external:{issuer}#frank"),
        "alice by her provider" => "user:alice".to_owned(),
        other => other.to_owned(),
    }
}

#[tokio::test]
async fn whose_account_a_call_runs_under() {
    let house = house(CALL_TIME, json!({})).await;
    let issuer = house.provider.url.clone();
    let mut wrong = Vec::new();
    let mut calls = Vec::new();
    for (at, row) in CALL_TIME.iter().enumerate() {
        for (caller, wanted) in CALLERS.into_iter().zip(row.wanted) {
            let tool = format!("s{at}__whoami");
            let (mut found, mut text) = house.under("main", caller, &tool).await;
            if text.contains("server-refused-credential") {
                // The server has refused it: from now on it comes last among its like.
                (found, text) = house.under("main", caller, &tool).await;
            }
            // What stands alone is used again, and is told to be refused.
            let refused = wanted.ends_with('?') && text.contains("server-refused-credential");
            if found != wanted && !refused {
                wrong.push(format!("{:?} {caller}: {found}, not {wanted}: {text}", row.exists));
                continue;
            }
            if wanted == "-" {
                let code = if row.exists.iter().any(|id| id.ends_with('~'))
                    && (caller == "user:alice" || text.contains("connection-suspended"))
                {
                    "connection-suspended"
                } else {
                    "missing-credential"
                };
                assert!(text.contains(code), "{:?} {caller}: {text}", row.exists);
                // For whom, and where; for nobody in particular there is nothing to connect.
                assert_eq!(text.contains("/connect/"), caller != "anonymous", "{caller}: {text}");
                assert_eq!(text.contains("portcullis connect"), caller != "anonymous", "{caller}: {text}");
            }
            calls.push((who(caller, &issuer), tool, wanted));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Every call is on record: who called, and under whose connection it ran; that of another beforehand.
    eventually("every call is on record", || async {
        let records = house.records();
        let all = calls.iter().all(|(caller, tool, wanted)| {
            let of = |r: &&Value| r["caller"] == *caller && r["tool"] == *tool;
            if *wanted == "-" {
                return records.iter().filter(of).any(|r| r["kind"] == "call" && r["connection"].is_null());
            }
            let connection = format!("{}-{}", tool.split("__").next().unwrap(), plain(wanted));
            let (_, owner) = owner(wanted);
            let ran = records.iter().filter(of).any(|r| {
                r["kind"] == "call"
                    && r["connection"] == *connection
                    && r["executedAs"].as_str().is_some_and(|e| e.ends_with(&owner))
            });
            let borrowed =
                records.iter().filter(of).any(|r| r["kind"] == "borrowed-connection" && r["connection"] == *connection);
            ran && (borrowed == (owner != *caller))
        });
        all.then_some(())
    })
    .await;
    house.product.stop().await;
}

#[tokio::test]
async fn a_connection_that_is_named_serves_whom_its_owner_lets() {
    let house = house(&[], json!({})).await;
    let mut wrong = Vec::new();
    for (at, (named, row)) in STATIC.iter().enumerate() {
        for (caller, wanted) in CALLERS.into_iter().zip(*row) {
            let (found, text) = house.under(&format!("static-{at}"), caller, "named__whoami").await;
            if found != wanted {
                wrong.push(format!("{named} {caller}: {found}, not {wanted}: {text}"));
            } else if wanted == "-" {
                assert!(text.contains("connection-not-yours"), "{named} {caller}: {text}");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    house.product.stop().await;
}

/// The operator's rule, for every server: nobody runs under what is another's to keep.
#[tokio::test]
async fn the_operators_rule_is_every_owners() {
    const ROWS: &[Row] = &[
        row(&["blue", "bob", "carol", "ci"], ["blue", "carol", "blue", "-", "ci", "-", "-", "blue", "blue", "-"]),
        row(&["bob", "org"], ["org", "org", "-", "org", "-", "-", "org", "org", "org", "-"]),
    ];
    let house = house(ROWS, json!({"ownerOnly": true})).await;
    for (at, row) in ROWS.iter().enumerate() {
        for (caller, wanted) in CALLERS.into_iter().zip(row.wanted) {
            let (found, text) = house.under("main", caller, &format!("s{at}__whoami")).await;
            assert_eq!(found, wanted, "{:?} {caller}: {text}", row.exists);
        }
    }
    house.product.stop().await;
}

/// A server that asks in mid-call asks only where the call runs under the caller's own: another's account is no conversation.
#[tokio::test]
async fn nothing_is_asked_under_somebody_elses_connection() {
    let asker = Asker::start().await.unwrap();
    let mut server = asker.resource("asker");
    server["spec"]["fields"] = json!([{"name": "token", "required": true, "sensitive": true}]);
    server["spec"]["credential"] =
        json!({"place": [{"field": "token", "header": "Authorization", "prefix": "Bearer "}]});
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("Team", "blue", json!({"members": ["alice"]})),
        server,
        resource("Gateway", "main", json!({"servers": [{"server": "asker", "bareNames": true}]})),
    ])
    .await
    .unwrap();
    product.ask(&["connect", "asker", "--owner", "user:alice", "--owner-only", "false"], "secret").unwrap();
    let ask = async |owner: &str| {
        let (_, token) = product.token(owner).unwrap();
        let mut message = http::modern("tools/call", json!({"name": "ask", "arguments": {"times": 1}}));
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
        let authorization = format!("Bearer {token}");
        let headers = [
            ("authorization", &*authorization),
            ("mcp-protocol-version", http::MODERN),
            ("mcp-method", "tools/call"),
            ("mcp-name", "ask"),
        ];
        http::post(&product.url("main"), &headers, message.to_string()).await.unwrap().message()
    };
    let own = ask("user:alice").await;
    assert_eq!(own["result"]["resultType"], "input_required", "{own}");
    let borrowed = ask("team:blue").await;
    assert_ne!(borrowed["result"]["resultType"], "input_required", "{borrowed}");
    product.stop().await;
}
