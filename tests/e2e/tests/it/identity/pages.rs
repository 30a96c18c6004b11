//! The pages: connecting a server, connections, tokens, set-up, by hand-written HTTP and in a real browser; and everything
//! that must not connect anything.

mod chromium;
mod hostile;
mod retried;
mod signed_in;

use portcullis_e2e::{
    browser::Browser,
    echo::Echo,
    http,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// People, teams, and a server that asks for several things, behind the gateway `main`.
pub fn house(echo: &Echo) -> Vec<Value> {
    vec![
        resource("User", "alice", json!({"displayName": "Alice"})),
        resource("User", "bob", json!({})),
        resource("User", "carol", json!({})),
        resource("User", "root", json!({})),
        resource("Team", "blue", json!({"members": ["alice", "carol"]})),
        resource("Role", "admin", json!({"users": ["root"]})),
        resource("Role", "team-admin", json!({"users": ["carol"]})),
        resource("McpServer", "notes", shelf(echo)),
        echo.open("free", "modern"),
        resource("Gateway", "main", json!({"servers": [{"server": "notes"}, {"server": "free"}]})),
    ]
}

/// What the server `notes` is.
pub fn shelf(echo: &Echo) -> Value {
    json!({
        "title": "Notes",
        "description": "Keeps notes for people and programs.",
        "remote": {"url": echo.url("modern"), "allowPrivate": true},
        "fields": [
            {"name": "token", "title": "Access token", "description": "In the settings of your account.", "required": true, "sensitive": true, "pattern": "tok_.+"},
            {"name": "site", "title": "Site", "type": "url", "default": "https://notes.example"},
            {"name": "region", "title": "Region", "options": ["eu", "us"], "required": true},
        ],
        "credential": {"place": [
            {"field": "token", "header": "Authorization", "prefix": "Bearer "},
            {"field": "region", "header": "X-Region"},
        ]},
    })
}

/// A browser in which somebody has signed in.
pub async fn signed_in(product: &Product, user: &str) -> Browser {
    let made = product.ask(&["signin", "--user", user], "").unwrap();
    let mut browser = Browser::new();
    browser.go(&product.page("/signin")).await.unwrap();
    browser.submit("code", &[("code", made["code"].as_str().unwrap())]).await.unwrap();
    assert_eq!(browser.status, 200, "{}", browser.html);
    browser
}

/// What the server saw of the last call.
pub fn carried(echo: &Echo) -> (Option<String>, Option<String>) {
    let seen = echo.seen().into_iter().rfind(|s| s.method == "tools/call").expect("a call");
    let header = |name: &str| seen.headers.get(name).cloned();
    (header("authorization"), header("x-region"))
}

const GOOD: [(&str, &str); 3] = [("f.token", "tok_alice"), ("f.region", "eu"), ("owner_only", "true")];

#[tokio::test]
async fn a_person_finds_a_server_connects_it_and_disconnects_it() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let mut browser = signed_in(&product, "alice").await;
    browser.go(&product.page("/servers?q=NOTE")).await.unwrap();
    assert!(browser.html.contains("Keeps notes") && !browser.html.contains("/servers/free"), "{}", browser.html);
    browser.go(&product.page("/servers/notes")).await.unwrap();
    assert!(browser.html.contains("/servers/notes/connect") && browser.html.contains("Access token"));

    // Alice may connect for herself only, so she is not asked for whom.
    browser.go(&product.page("/servers/notes/connect")).await.unwrap();
    let form = browser.form("f.token").unwrap();
    let value = |name: &str| form.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!((value("owner"), value("f.site")), (Some("user:alice"), Some("https://notes.example")));
    assert_eq!(value("owner_only"), None, "nothing is chosen before");

    // Each thing that is wrong is said at its field; secrets do not come back.
    let wrong = [("f.token", "hunter2"), ("f.region", "moon"), ("f.site", "ftp://x")];
    browser.submit("f.token", &wrong).await.unwrap();
    assert_eq!(browser.status, 400);
    for said in
        ["href=\"#owner-only\"", "href=\"#f-token\"", "href=\"#f-region\"", "href=\"#f-site\"", "aria-invalid=\"true\""]
    {
        assert!(browser.html.contains(said), "{said}: {}", browser.html);
    }
    assert!(!browser.html.contains("hunter2"), "a secret came back");
    assert!(browser.html.contains("value=\"ftp://x\""), "what is no secret is given back");
    assert_eq!(product.ask(&["get", "connections"], "").unwrap()["items"], json!([]), "nothing was stored");

    browser.go(&product.page("/servers/notes/connect")).await.unwrap();
    let ended = browser.submit("f.token", &[&GOOD[..], &[("f.token", "  tok_alice \n")]].concat()).await.unwrap();
    assert_eq!(ended, product.page("/connections/notes-alice?new=1"), "{}", browser.html);
    assert!(browser.html.contains("Connected") && !browser.html.contains("tok_alice"), "{}", browser.html);
    assert!(browser.html.contains("its owner only"));
    let reply = http::call(&product.url("main"), Some(&token), "notes__echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(carried(&echo), (Some("Bearer tok_alice".to_owned()), Some("eu".to_owned())));

    // Others see nothing of it.
    let mut bob = signed_in(&product, "bob").await;
    for page in ["/connections/notes-alice", "/connections/notes-alice/disconnect", "/connections/nothing"] {
        bob.go(&product.page(page)).await.unwrap();
        assert_eq!(bob.status, 404, "{page}");
    }
    bob.go(&product.page("/servers/notes")).await.unwrap();
    assert!(!bob.html.contains("notes-alice"), "{}", bob.html);

    browser.go(&product.page("/connections")).await.unwrap();
    assert!(browser.html.contains("Works"), "{}", browser.html);
    browser.go(&product.page("/connections/notes-alice/disconnect")).await.unwrap();
    browser.html = browser.html.split("<main").nth(1).unwrap().to_owned();
    browser.submit("csrf", &[]).await.unwrap();
    assert_eq!(browser.url, product.page("/connections"));
    let reply = http::call(&product.url("main"), Some(&token), "notes__echo", json!({"text": "x"})).await.unwrap();
    assert!(reply.text().contains("missing-credential") || reply.text().contains("connect"), "{}", reply.text());

    let audit: String = audit(&product);
    for verb in ["\"connect\"", "\"delete\"", "McpServer/notes for user:alice"] {
        assert!(audit.contains(verb), "{verb}: {audit}");
    }
    assert!(!audit.contains("tok_") && !product.log().contains("tok_"), "no secret on record");
    product.stop().await;
}

pub fn audit(product: &Product) -> String {
    let folder = std::fs::read_dir(product.data().join("audit")).unwrap();
    folder.filter_map(|f| std::fs::read_to_string(f.unwrap().path()).ok()).collect()
}

#[tokio::test]
async fn who_may_connect_for_whom() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let offered = async |user: &str| {
        let mut browser = signed_in(&product, user).await;
        browser.go(&product.page("/servers/notes/connect")).await.unwrap();
        let found = ["user%3Aalice", "user%3Acarol", "team%3Ablue", "organization", "user%3Aroot"];
        let offered: Vec<&str> =
            found.into_iter().filter(|owner| browser.html.contains(&format!("owner={owner}\""))).collect();
        (browser, offered)
    };
    let (mut carol, offers) = offered("carol").await;
    assert_eq!(offers, ["user%3Acarol", "team%3Ablue"], "a team-admin also for the team");
    let (_, offers) = offered("root").await;
    assert_eq!(offers, ["team%3Ablue", "organization", "user%3Aroot"]);

    carol.go(&product.page("/servers/notes/connect?owner=team:blue")).await.unwrap();
    assert!(carol.html.contains("Whose calls may run under this account of the team?"), "{}", carol.html);
    // The form can't be turned to an owner that was not offered.
    for owner in ["organization", "user:alice", "agent:x", "nobody"] {
        carol.submit("f.token", &[&GOOD[..], &[("owner", owner)]].concat()).await.unwrap();
        assert_eq!(carol.status, 400, "{owner}: {}", carol.html);
        carol.go(&product.page("/servers/notes/connect?owner=team:blue")).await.unwrap();
    }
    let ended = carol.submit("f.token", &[&GOOD[..], &[("owner_only", "false")]].concat()).await.unwrap();
    assert_eq!(ended, product.page("/connections/notes-team-blue?new=1"), "{}", carol.html);
    // Its people see it and can't touch it.
    let mut alice = signed_in(&product, "alice").await;
    alice.go(&product.page("/connections/notes-team-blue")).await.unwrap();
    assert_eq!(alice.status, 200);
    assert!(!alice.html.contains("Disconnect") && !alice.html.contains("Connect again"), "{}", alice.html);
    alice.go(&product.page("/servers/notes/connect?connection=notes-team-blue")).await.unwrap();
    assert_eq!(alice.status, 404);
    // Somebody whose role ends in the middle of it may no longer.
    carol.go(&product.page("/servers/notes/connect?connection=notes-team-blue")).await.unwrap();
    let mut people = house(&echo);
    people.retain(|r| r["metadata"]["name"] != "team-admin");
    product.write("resources.yaml", &people).unwrap();
    portcullis_e2e::eventually("carol is no team-admin", || async {
        let roles = product.ask(&["get", "roles"], "").unwrap();
        (!roles.to_string().contains("team-admin")).then_some(())
    })
    .await;
    carol.submit("f.token", &GOOD).await.unwrap();
    assert_eq!(carol.status, 404, "{}", carol.html);
    product.stop().await;
}

#[tokio::test]
async fn an_owner_sees_each_use_by_others() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let mut alice = signed_in(&product, "alice").await;
    alice.go(&product.page("/servers/notes/connect")).await.unwrap();
    alice.submit("f.token", &[&GOOD[..], &[("owner_only", "false")]].concat()).await.unwrap();
    assert!(alice.html.contains("Nobody else has used it"), "{}", alice.html);
    let (_, token) = product.token("team:blue").unwrap();
    let reply = http::call(&product.url("main"), Some(&token), "notes__echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(carried(&echo).0, Some("Bearer tok_alice".to_owned()), "under alice's account");
    alice.go(&product.page("/connections/notes-alice")).await.unwrap();
    for said in ["team:blue", "notes__echo", "just now"] {
        assert!(alice.html.contains(said), "{said}: {}", alice.html);
    }
    // Another connection of the same name later on starts with nothing.
    product.ask(&["delete", "connection", "notes-alice"], "").unwrap();
    alice.go(&product.page("/servers/notes/connect")).await.unwrap();
    alice.submit("f.token", &GOOD).await.unwrap();
    assert!(alice.html.contains("Nobody else has used it"), "{}", alice.html);
    product.stop().await;
}

#[tokio::test]
async fn tokens_are_made_shown_once_and_revoked() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let mut alice = signed_in(&product, "alice").await;
    alice.go(&product.page("/tokens")).await.unwrap();
    alice.submit("name", &[("name", " "), ("days", "7")]).await.unwrap();
    assert_eq!(alice.status, 400);
    assert!(alice.html.contains("href=\"#name\""), "{}", alice.html);
    alice.submit("name", &[("name", "laptop <i>"), ("gateway", "main"), ("days", "7")]).await.unwrap();
    let token = alice.html.split("pcl_").nth(1).and_then(|t| t.split('<').next()).map(|t| format!("pcl_{t}")).unwrap();
    let reply = http::call(&product.url("main"), Some(&token), "free__echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    alice.go(&product.page("/tokens")).await.unwrap();
    assert!(!alice.html.contains(&token), "shown once");
    assert!(alice.html.contains("laptop &lt;i&gt;") && alice.html.contains("in 6 days"), "{}", alice.html);
    let revoke = alice.html.split("action=\"/tokens/").nth(1).and_then(|t| t.split('"').next()).unwrap().to_owned();
    // Bob can't end it, nor learn that it is there.
    let mut bob = signed_in(&product, "bob").await;
    bob.go(&product.page("/tokens")).await.unwrap();
    let csrf = bob.form("name").unwrap().fields.iter().find(|(n, _)| n == "csrf").unwrap().1.clone();
    let sent = bob.send("POST", &product.page(&format!("/tokens/{revoke}")), &format!("csrf={csrf}")).await.unwrap();
    assert_eq!(sent.status, 404);
    let csrf = alice.form("name").unwrap().fields.iter().find(|(n, _)| n == "csrf").unwrap().1.clone();
    let sent = alice.send("POST", &product.page(&format!("/tokens/{revoke}")), &format!("csrf={csrf}")).await.unwrap();
    assert_eq!(sent.status, 303);
    let reply = http::call(&product.url("main"), Some(&token), "free__echo", json!({"text": "x"})).await.unwrap();
    assert_eq!(reply.status, 401, "revoked at once");
    product.stop().await;
}

#[tokio::test]
async fn a_server_that_moved_is_approved_again_on_the_page() {
    let (echo, other) = (Echo::start().await.unwrap(), Echo::start().await.unwrap());
    let product = Product::start(&house(&echo)).await.unwrap();
    let mut alice = signed_in(&product, "alice").await;
    alice.go(&product.page("/servers/notes/connect")).await.unwrap();
    alice.submit("f.token", &GOOD).await.unwrap();
    product.write("resources.yaml", &house(&other)).unwrap();
    portcullis_e2e::eventually("the connection is suspended", || async {
        let page = product.ask(&["describe", "connection", "notes-alice"], "").unwrap();
        page.to_string().contains("Suspended").then_some(())
    })
    .await;
    alice.go(&product.page("/connections/notes-alice")).await.unwrap();
    assert!(alice.html.contains("Suspended") && alice.html.contains("moved to another address"), "{}", alice.html);
    alice.go(&product.page("/servers/notes/connect?connection=notes-alice")).await.unwrap();
    for said in [format!("http://{}", echo.address), format!("http://{}", other.address)] {
        assert!(alice.html.contains(&said), "both addresses are shown: {}", alice.html);
    }
    alice.submit("f.token", &GOOD).await.unwrap();
    assert!(alice.html.contains("Works"), "{}", alice.html);
    product.stop().await;
}

#[tokio::test]
async fn the_registry_is_paged_and_the_set_up_page_names_each_gateway() {
    let echo = Echo::start().await.unwrap();
    let mut all = house(&echo);
    all.extend((0..60).map(|i| echo.open(&format!("many-{i:02}"), "modern")));
    let product = Product::start(&all).await.unwrap();
    let mut alice = signed_in(&product, "alice").await;
    let mut seen = 0;
    let mut next = "/servers?q=many".to_owned();
    for _ in 0..5 {
        alice.go(&product.page(&next)).await.unwrap();
        let here = alice.html.matches("<h2><a href=\"/servers/many-").count();
        assert!(here <= 25, "{here} on one page");
        seen += here;
        let link = alice.html.split("href=\"").find(|l| l.contains("after=")).map(|l| l.split('"').next().unwrap());
        let Some(link) = link.filter(|_| alice.html.contains("Next page")) else { break };
        next = link.replace("&amp;", "&");
    }
    assert_eq!(seen, 60);
    alice.go(&product.page("/setup?gateway=main")).await.unwrap();
    assert!(alice.html.contains(&product.url("main")), "{}", alice.html);
    for client in ["Cursor", "Claude Code", "VS Code", "Codex"] {
        assert!(alice.html.contains(client), "{client}");
    }
    alice.go(&product.page("/setup?gateway=none")).await.unwrap();
    assert!(alice.html.contains("no such gateway"));
    product.stop().await;
}
