//! The admin API over TCP: who may do what, as one table of role and route; tokens by API and command line.

use portcullis_e2e::{
    echo::Echo,
    eventually,
    http::{self, Reply},
    product::{Product, resource},
};
use serde_json::{Value, json};

struct House {
    echo: Echo,
    product: Product,
    /// Where the admin API is served.
    base: String,
}

fn in_tenant(tenant: &str, mut resource: Value) -> Value {
    resource["metadata"]["namespace"] = json!(tenant);
    resource
}

async fn house() -> House {
    let echo = Echo::start().await.unwrap();
    let product = Product::start_with(
        &[
            resource("User", "alice", json!({})),
            resource("User", "bob", json!({})),
            resource("User", "tara", json!({})),
            resource("User", "olga", json!({})),
            resource("User", "ada", json!({})),
            resource("Team", "blue", json!({"members": ["alice", "tara"]})),
            resource("Team", "red", json!({"members": ["bob"]})),
            resource("Agent", "ci", json!({"team": "blue"})),
            resource("Agent", "boss", json!({"team": "blue"})),
            resource("Role", "team-admin", json!({"users": ["tara"]})),
            resource("Role", "operator", json!({"users": ["olga"]})),
            resource("Role", "admin", json!({"users": ["ada"], "agents": ["boss"]})),
            echo.guarded("vault", "modern"),
            resource(
                "McpServer",
                "signing",
                json!({"remote": {"url": echo.url("modern")}, "credential": {"oauth": {}}}),
            ),
            resource("Gateway", "main", json!({"servers": [{"server": "vault"}]})),
            resource("Gateway", "side", json!({"servers": [{"server": "vault"}]})),
            in_tenant("acme", resource("User", "zoe", json!({}))),
            in_tenant("acme", resource("Role", "admin", json!({"users": ["zoe"]}))),
        ],
        &[],
        json!({"adminListen": "127.0.0.1:0"}),
    )
    .await
    .unwrap();
    let log = product.log();
    let line = log.lines().find(|l| l.contains("the admin API is served")).expect("it says where");
    let address = line.split_once("address=").unwrap().1.split_whitespace().next().unwrap();
    let base = format!("http://{address}");
    House { echo, product, base }
}

impl House {
    /// A token for the admin API.
    fn key(&self, owner: &str, tenant: &str) -> String {
        let args = ["token", "create", "--owner", owner, "--admin-api", "--tenant", tenant];
        self.product.ask(&args, "").unwrap()["token"].as_str().unwrap().to_owned()
    }

    async fn ask(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let bearer = format!("Bearer {key}");
        let headers: Vec<(&str, &str)> = if key.is_empty() { vec![] } else { vec![("authorization", &bearer)] };
        let body = body.map(Value::to_string).unwrap_or_default();
        http::send(method, &format!("{}{path}", self.base), &headers, body).await.unwrap()
    }
}

fn apply(resources: &[Value]) -> Value {
    json!({"resources": resources})
}

fn connect(owner: &str, name: &str) -> Value {
    json!({"server": "vault", "owner": owner, "name": name, "secrets": {"token": "t"}, "ownerOnly": true})
}

fn sign_in(owner: &str) -> Value {
    json!({"server": "signing", "owner": owner, "ownerOnly": true})
}

/// What is asked: method, path, body (`NEW` in it is a name that nobody has), and for each caller `y` done, `.` forbidden,
/// `-` not there. The callers: alice (a member of blue), tara (team-admin, of blue), olga (operator), ada (admin), an agent of
/// blue, blue itself, the organization.
fn table(echo: &Echo) -> Vec<(&'static str, &'static str, Option<Value>, &'static str)> {
    let one = |kind: &str, spec: Value| Some(apply(&[resource(kind, "NEW", spec)]));
    let remote = json!({"remote": {"url": echo.url("modern"), "allowPrivate": true}});
    vec![
        ("GET", "/v1/status", None, "..yy..."),
        ("GET", "/v1/doctor", None, "..yy..."),
        ("POST", "/v1/explain", Some(json!({"gateway": "main", "tool": "vault__whoami"})), "yyyyyyy"),
        ("POST", "/v1/explain", Some(json!({"gateway": "main", "as": "user:bob"})), "..yy..."),
        ("GET", "/v1/resources", None, "yyyyyyy"),
        ("GET", "/v1/resources/servers/vault", None, "yyyyyyy"),
        ("GET", "/v1/resources/servers/vault/describe", None, "yyyyyyy"),
        ("GET", "/v1/resources/gateways/main", None, "--yy---"),
        ("GET", "/v1/resources/gateways/main/describe", None, "--yy---"),
        ("GET", "/v1/resources/roles/admin", None, "--yy---"),
        ("GET", "/v1/resources/users/alice", None, "y-yy---"),
        ("GET", "/v1/resources/users/bob", None, "--yy---"),
        ("GET", "/v1/resources/teams/blue", None, "yyyyyy-"),
        ("GET", "/v1/resources/teams/red", None, "--yy---"),
        ("GET", "/v1/resources/agents/ci", None, "yyyyyy-"),
        ("POST", "/v1/apply", one("McpServer", remote.clone()), "..yy..."),
        ("POST", "/v1/apply", one("McpServer", json!({"process": {"command": "true"}})), "...y..."),
        ("POST", "/v1/apply", one("Gateway", json!({"servers": []})), "..yy..."),
        ("POST", "/v1/apply", one("Gateway", json!({"servers": [], "anonymous": true})), "...y..."),
        ("POST", "/v1/apply", one("Gateway", json!({"auth": []})), "...y..."),
        ("POST", "/v1/apply", one("Plugin", json!({"source": {"builtIn": "tool-access"}})), "..yy..."),
        (
            "POST",
            "/v1/apply",
            one("Plugin", json!({"source": {"builtIn": "jwks"}, "grants": {"roles": ["admin"]}})),
            "...y...",
        ),
        ("POST", "/v1/apply", one("Plugin", json!({"source": {"file": {"path": "x.wasm"}}})), "...y..."),
        ("POST", "/v1/apply", one("User", json!({})), "...y..."),
        ("POST", "/v1/apply", one("Team", json!({"members": ["alice"]})), "...y..."),
        ("POST", "/v1/apply", one("Role", json!({"users": ["alice"]})), "...y..."),
        ("POST", "/v1/apply", one("Agent", json!({"team": "blue"})), "...y..."),
        (
            "POST",
            "/v1/apply",
            one(
                "Connection",
                json!({"server": "vault", "owner": {"user": "alice"}, "ownerOnly": true,
                "secrets": {"token": {"env": "HOME"}}}),
            ),
            "...y...",
        ),
        (
            "POST",
            "/v1/apply",
            one("Connection", json!({"server": "vault", "owner": {"user": "alice"}, "ownerOnly": true})),
            "...y...",
        ),
        ("POST", "/v1/connections", Some(connect("user:alice", "NEW")), "y..y..."),
        ("POST", "/v1/connections", Some(connect("user:bob", "NEW")), "...y..."),
        ("POST", "/v1/connections", Some(connect("team:blue", "NEW")), ".y.y..."),
        ("POST", "/v1/connections", Some(connect("team:red", "NEW")), "...y..."),
        ("POST", "/v1/connections", Some(connect("agent:ci", "NEW")), ".y.y..."),
        ("POST", "/v1/connections", Some(connect("organization", "NEW")), "...y..."),
        ("POST", "/v1/tokens", Some(json!({"owner": "user:alice"})), "y..y..."),
        ("POST", "/v1/tokens", Some(json!({"owner": "user:bob"})), "...y..."),
        ("POST", "/v1/tokens", Some(json!({"owner": "team:blue"})), ".y.y..."),
        ("POST", "/v1/tokens", Some(json!({"owner": "agent:ci"})), ".y.y..."),
        // An agent of her team, with a role that she has not.
        ("POST", "/v1/tokens", Some(json!({"owner": "agent:boss"})), "...y..."),
        ("POST", "/v1/tokens", Some(json!({"owner": "organization"})), "...y..."),
        ("GET", "/v1/tokens", None, "yyyyyyy"),
        ("GET", "/v1/tokens?owner=user:alice", None, "y.yy..."),
        ("GET", "/v1/tokens?owner=team:blue", None, ".yyy..."),
        ("GET", "/v1/tokens?owner=organization", None, "..yy..."),
        ("DELETE", "/v1/tokens?owner=user:bob", None, "..yy..."),
        ("DELETE", "/v1/tokens?owner=team:red", None, "..yy..."),
        ("DELETE", "/v1/tokens/nosuch", None, "-------"),
        ("DELETE", "/v1/resources/users/bob", None, "--.y---"),
        ("DELETE", "/v1/resources/servers/vault", None, "..yy..."),
        // A remote server runs nowhere here, which only those are told who may ask.
        ("GET", "/v1/servers/vault/logs", None, "..yy..."),
        ("POST", "/v1/servers/vault/restart", None, "..yy..."),
        ("POST", "/v1/signin", Some(json!({"user": "bob"})), "...y..."),
        // What is the socket's alone is not there.
        ("POST", "/v1/store/reseal", None, "-------"),
        ("POST", "/v1/connections/oauth", Some(sign_in("user:alice")), "-------"),
        ("POST", "/v1/connections/oauth/finish", Some(json!({})), "-------"),
        ("POST", "/v1/connections/oauth/save", Some(json!({})), "-------"),
        ("GET", "/v1/nothing", None, "-------"),
    ]
}

#[tokio::test]
async fn who_may_do_what_is_this_table() {
    let house = house().await;
    let callers = ["user:alice", "user:tara", "user:olga", "user:ada", "agent:ci", "team:blue", "organization"];
    let keys: Vec<String> = callers.iter().map(|owner| house.key(owner, "default")).collect();
    let zoe = house.key("user:zoe", "acme");
    let mut wrong = Vec::new();
    let mut names = 0;
    for (method, path, body, wanted) in table(&house.echo) {
        let mut found = String::new();
        for key in &keys {
            names += 1;
            let body = body.as_ref().map(|b| b.to_string().replace("NEW", &format!("new-{names}")));
            let body: Option<Value> = body.map(|b| serde_json::from_str(&b).unwrap());
            let reply = house.ask(key, method, path, body.as_ref()).await;
            found.push(match reply.status.as_u16() {
                403 => '.',
                404 => '-',
                // Allowed, whatever else stands in the way: a remote server has no log, what a file brought is edited there.
                200 | 400 | 409 => 'y',
                other => panic!("{method} {path}: {other} {}", reply.text()),
            });
        }
        if found != wanted {
            wrong.push(format!("{method} {path} {}: {found}, not {wanted}", body.clone().unwrap_or_default()));
        }
        // Another tenant is not there, whoever asks and whatever they ask for.
        let elsewhere = format!("{path}{}tenant=acme", if path.contains('?') { '&' } else { '?' });
        for key in &keys {
            let reply = house.ask(key, method, &elsewhere, body.as_ref()).await;
            assert_eq!(reply.status, 404, "{method} {elsewhere}: {}", reply.text());
        }
        let here = elsewhere.replace("tenant=acme", "tenant=default");
        assert_eq!(house.ask(&zoe, method, &here, body.as_ref()).await.status, 404, "{method} {here}");
        // Without a token, or with one for gateways, nothing is there to be seen.
        assert_eq!(house.ask("", method, path, body.as_ref()).await.status, 401, "{method} {path}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // A denial is on record before it is answered, with the token that it came with.
    let audit = std::fs::read_to_string(house.product.data().join("audit/audit.jsonl")).unwrap();
    let denied = audit.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).any(|record| {
        let event = &record["event"];
        event["outcome"] == "denied" && event["caller"] == "user:alice" && event["token"].is_string()
    });
    assert!(denied, "{audit}");
    house.product.stop().await;
}

#[tokio::test]
async fn another_tenants_admin_is_one_there_and_nowhere_else() {
    let house = house().await;
    let zoe = house.key("user:zoe", "acme");
    let own = |kind: &str, name: &str, spec: Value| apply(&[in_tenant("acme", resource(kind, name, spec))]);
    let done = house.ask(&zoe, "POST", "/v1/apply", Some(&own("User", "yan", json!({})))).await;
    assert_eq!(done.status, 200, "{}", done.text());
    // Whoever runs a program or reads a file of the machine reaches every tenant: not hers.
    for (kind, spec) in [
        ("McpServer", json!({"process": {"command": "cat"}})),
        ("Plugin", json!({"source": {"file": {"path": "/etc/passwd"}}})),
        (
            "Connection",
            json!({"server": "s", "owner": {"user": "zoe"}, "ownerOnly": true, "secrets": {"t": {"file": "/etc/passwd"}}}),
        ),
    ] {
        let reply = house.ask(&zoe, "POST", "/v1/apply", Some(&own(kind, "sly", spec))).await;
        assert_eq!(reply.status, 403, "{kind}: {}", reply.text());
    }
    let theirs = apply(&[resource("User", "sly", json!({}))]);
    assert_eq!(house.ask(&zoe, "POST", "/v1/apply", Some(&theirs)).await.status, 404);
    let listed = house.ask(&zoe, "GET", "/v1/resources", None).await.text();
    assert!(listed.contains("yan") && !listed.contains("alice"), "{listed}");
    let status = house.ask(&zoe, "GET", "/v1/status", None).await.text();
    assert!(!status.contains(house.product.home().to_str().unwrap()), "{status}");
    house.product.stop().await;
}

#[tokio::test]
async fn a_team_admin_says_who_is_in_the_team_and_nothing_else_of_it() {
    let house = house().await;
    let (ada, tara) = (house.key("user:ada", "default"), house.key("user:tara", "default"));
    let team = |spec: Value| apply(&[resource("Team", "green", spec)]);
    let made = house.ask(&ada, "POST", "/v1/apply", Some(&team(json!({"members": ["tara"]})))).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let put = async |spec: Value| house.ask(&tara, "POST", "/v1/apply", Some(&team(spec))).await.status;
    assert_eq!(put(json!({"members": ["tara", "bob"]})).await, 200);
    assert_eq!(put(json!({"members": ["tara"], "title": "Ours"})).await, 403);
    let groups = json!([{"issuer": "https://i.example", "group": "all"}]);
    assert_eq!(put(json!({"members": ["tara", "bob"], "groups": groups})).await, 403);
    // She left: it is hers no longer.
    assert_eq!(put(json!({"members": ["bob"]})).await, 200);
    assert_eq!(put(json!({"members": ["bob", "tara"]})).await, 403);
    house.product.stop().await;
}

#[tokio::test]
async fn tokens_are_many_named_scoped_expiring_and_revoked_at_once() {
    let house = house().await;
    let alice = house.key("user:alice", "default");
    let make = async |more: Value| {
        let mut body = json!({"owner": "user:alice"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        house.ask(&alice, "POST", "/v1/tokens", Some(&body)).await
    };
    let made = |reply: Reply| -> Value { serde_json::from_str(&reply.text()).unwrap() };
    let laptop = made(make(json!({"name": "laptop"})).await);
    let main = made(make(json!({"name": "main only", "gateways": ["main"]})).await);
    let short = made(make(json!({"name": "short", "expiresInS": 2})).await);
    let text = |token: &Value| token["token"].as_str().unwrap().to_owned();
    let status = async |gateway: &str, token: &str| {
        http::ask(&house.product.url(gateway), Some(token), "tools/list", json!({})).await.unwrap().status.as_u16()
    };
    assert_eq!(status("main", &text(&laptop)).await, 200);
    assert_eq!(status("side", &text(&laptop)).await, 200);
    assert_eq!(status("main", &text(&main)).await, 200);
    assert_eq!(status("side", &text(&main)).await, 401, "one gateway's token is refused at another");
    eventually("the short one ends", || async { (status("main", &text(&short)).await == 401).then_some(()) }).await;

    // One door each: what an MCP client holds administrates nothing, and the other way round.
    assert_eq!(house.ask(&text(&laptop), "GET", "/v1/tokens", None).await.status, 401);
    assert_eq!(status("main", &alice).await, 401);
    assert_eq!(make(json!({"admin": true, "gateways": ["main"]})).await.status, 400);

    // Which of them was used is shown, their texts never; by both doors.
    let listed = house.ask(&alice, "GET", "/v1/tokens", None).await.text();
    let items: Value = serde_json::from_str(&listed).unwrap();
    let found = |id: &Value| items["items"].as_array().unwrap().iter().find(|t| t["id"] == *id).cloned().unwrap();
    assert!(found(&laptop["id"])["lastUsedMs"].is_u64(), "{listed}");
    assert_eq!(found(&short["id"])["state"], "expired");
    assert_eq!(found(&main["id"])["gateways"], json!(["main"]));
    assert_eq!(found(&main["id"])["name"], "main only");
    let by_cli = house.product.ask(&["token", "list", "--owner", "user:alice", "--all"], "").unwrap().to_string();
    for token in [&laptop, &main, &short] {
        assert!(!listed.contains(&text(token)) && !by_cli.contains(&text(token)));
        assert!(by_cli.contains(token["id"].as_str().unwrap()), "{by_cli}");
    }

    // Revoked: the next call is refused. The rest of an owner's go all at once.
    let gone = house.ask(&alice, "DELETE", &format!("/v1/tokens/{}", laptop["id"].as_str().unwrap()), None).await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    assert_eq!(status("main", &text(&laptop)).await, 401);
    assert_eq!(status("main", &text(&main)).await, 200);
    house.product.ask(&["token", "revoke", "--owner", "user:alice"], "").unwrap();
    assert_eq!(status("main", &text(&main)).await, 401);
    assert_eq!(house.ask(&alice, "GET", "/v1/tokens", None).await.status, 401, "also the one that asks");
    house.product.stop().await;
}

#[tokio::test]
async fn a_token_for_the_admin_api_makes_none_that_outlives_it() {
    let house = house().await;
    let args = ["token", "create", "--owner", "user:alice", "--admin-api", "--expires", "1h"];
    let hour = house.product.ask(&args, "").unwrap()["token"].as_str().unwrap().to_owned();
    let make = async |more: Value| house.ask(&hour, "POST", "/v1/tokens", Some(&more)).await;
    assert_eq!(make(json!({"owner": "user:alice", "admin": true, "expiresInS": 86_400})).await.status, 403);
    assert_eq!(make(json!({"owner": "user:alice", "admin": true, "expiresInS": 60})).await.status, 200);
    let same: Value = serde_json::from_str(&make(json!({"owner": "user:alice", "admin": true})).await.text()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(same["expiresMs"].as_u64().unwrap() <= now + 3_600_000, "{same}");
    house.product.stop().await;
}

#[tokio::test]
async fn the_command_line_asks_a_gateway_elsewhere() {
    let house = house().await;
    let file = house.product.home().join("key");
    let (alice, ada) = (house.key("user:alice", "default"), house.key("user:ada", "default"));
    let ask = |key: &str, args: &[&str], input: &str| {
        std::fs::write(&file, format!("{key}\n")).unwrap();
        let there = ["--admin-url", &house.base, "--admin-token-file", file.to_str().unwrap()];
        house.product.cli(&[args, &there].concat(), input).unwrap()
    };
    let out = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    // A member installs for herself and sees her own.
    let made = ask(&alice, &["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], "secret-of-alice");
    assert!(made.status.success(), "{}", out(&made));
    let seen = ask(&alice, &["get", "connections"], "");
    assert!(seen.status.success() && out(&seen).contains("vault-alice"), "{}", out(&seen));
    let refused = ask(&alice, &["connect", "vault", "--owner", "organization", "--owner-only", "true"], "s");
    assert_eq!(refused.status.code(), Some(4), "{}", out(&refused));
    let listed = ask(&ada, &["token", "list"], "");
    assert!(listed.status.success() && out(&listed).contains("(admin API)"), "{}", out(&listed));
    let unknown = ask("pcl_nonsense", &["get", "connections"], "");
    assert_eq!(unknown.status.code(), Some(4), "{}", out(&unknown));
    // A token goes over https only, but to this machine.
    let there =
        ["get", "servers", "--admin-url", "http://192.0.2.1:7778", "--admin-token-file", file.to_str().unwrap()];
    assert_eq!(house.product.cli(&there, "").unwrap().status.code(), Some(2));
    house.product.stop().await;
}

#[tokio::test]
async fn whoever_guesses_tokens_has_to_wait() {
    let house = house().await;
    let alice = house.key("user:alice", "default");
    let mut limited = false;
    for _ in 0..40 {
        limited |= house.ask("pcl_nonsense", "GET", "/v1/resources", None).await.status == 429;
    }
    assert!(limited);
    // Whoever has one that works is let in all the same.
    assert_eq!(house.ask(&alice, "GET", "/v1/resources", None).await.status, 200);
    house.product.stop().await;
}

#[tokio::test]
async fn where_secrets_lie_is_for_operators() {
    let house = house().await;
    let (ada, olga, alice) =
        (house.key("user:ada", "default"), house.key("user:olga", "default"), house.key("user:alice", "default"));
    let placed = json!({"server": "vault", "owner": {"user": "alice"}, "ownerOnly": true,
        "secrets": {"token": {"env": "A_VARIABLE_OF_OPERATORS"}}});
    let made = house.ask(&ada, "POST", "/v1/apply", Some(&apply(&[resource("Connection", "placed", placed)]))).await;
    assert_eq!(made.status, 200, "{}", made.text());
    for path in ["/v1/resources/connections/placed", "/v1/resources/connections/placed/describe", "/v1/resources"] {
        let theirs = house.ask(&alice, "GET", path, None).await.text();
        assert!(theirs.contains("placed") && !theirs.contains("A_VARIABLE"), "{path}: {theirs}");
        let operators = house.ask(&olga, "GET", path, None).await.text();
        assert!(operators.contains("A_VARIABLE_OF_OPERATORS"), "{path}: {operators}");
    }
    house.product.stop().await;
}
