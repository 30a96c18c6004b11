//! Resources written into a real cluster: taken, refused in words, changed, deleted, while the API server comes and goes.

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use portcullis_e2e::{
    cluster::{Cluster, Cut, secret},
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// The audit stream's events.
fn audited(product: &Product) -> Vec<Value> {
    let text = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].take()).collect()
}

/// What the gateway's account needs for the door, and no more.
fn rights() -> Value {
    json!([
        {"apiGroups": ["portcullis.dev"], "resources": ["*"], "verbs": ["list", "watch"]},
        {"apiGroups": ["portcullis.dev"], "resources": ["*/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["jira"], "verbs": ["get"]},
    ])
}

/// Lets those who write in the namespace name these users as owners.
async fn let_name(cluster: &Cluster, users: &[&str]) {
    let name = "writers";
    let rule = json!([{"apiGroups": ["portcullis.dev"], "resources": ["users"], "resourceNames": users, "verbs": ["impersonate"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rule});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "portcullis.dev:writers"}],
    });
    let apply = PatchParams::apply("tests").force();
    cluster.api::<Role>().patch(name, &apply, &Patch::Apply(&role)).await.unwrap();
    cluster.api::<RoleBinding>().patch(name, &apply, &Patch::Apply(&binding)).await.unwrap();
}

fn connection(name: &str, owner: &str) -> Value {
    let source = json!({"kubernetes": {"name": "jira", "key": "token"}});
    resource(
        "Connection",
        name,
        json!({"server": "jira", "owner": {"user": owner}, "secrets": {"token": source}, "ownerOnly": true}),
    )
}

/// A gateway that takes the resources of the test's namespace for the default tenant, by a way that can be cut.
async fn started(cluster: &Cluster, home: &std::path::Path) -> (Product, Cut) {
    cluster.define().await.unwrap();
    cluster.account("gateway", rights(), home).await.unwrap();
    cluster.let_ask("gateway").await.unwrap();
    let way = Cut::to(cluster.address().unwrap()).await.unwrap();
    let token = cluster.token("gateway", &[]).await.unwrap();
    let kubeconfig = home.join("by-way");
    std::fs::write(&kubeconfig, cluster.config_of(&token, Some(way.address())).unwrap().to_string()).unwrap();
    let resources = json!([{"namespace": cluster.namespace, "tenant": "default"}]);
    let settings =
        json!({"kubernetes": {"kubeconfig": kubeconfig, "resources": resources}, "secrets": {"refresh": "1s"}});
    (Product::start_with(&[], &[], settings).await.unwrap(), way)
}

/// How many requests other than watches went to the API server.
async fn requests(product: &Product) -> Vec<(String, f64)> {
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    let lines = metrics.lines().filter_map(|l| l.strip_prefix("portcullis_cluster_requests_total{verb=\""));
    let parsed = lines.filter_map(|l| {
        let (verb, count) = l.split_once("\"} ")?;
        Some((verb.to_owned(), count.parse().ok()?))
    });
    // Secrets are read again and again, by design.
    parsed.filter(|(verb, _)| verb != "watch" && verb != "get").collect()
}

#[tokio::test]
async fn resources_are_taken_refused_in_words_changed_and_deleted() {
    let (echo, cluster) = (Echo::start().await.unwrap(), Cluster::get().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    let jira = secret("jira", &[("token", "canary-jira")]);
    cluster.api().create(&PostParams::default(), &jira).await.unwrap();
    let_name(&cluster, &["alice"]).await;
    let (product, _way) = started(&cluster, home.path()).await;
    let all = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        echo.guarded("jira", "modern"),
        resource("Gateway", "main", json!({"servers": [{"server": "jira"}]})),
        connection("jira-alice", "alice"),
    ];
    for resource in &all {
        cluster.apply(resource).await.unwrap();
    }
    for resource in &all {
        let accepted = cluster.accepted(resource).await;
        assert_eq!(accepted["status"], "True", "{}: {accepted}", resource["metadata"]["name"]);
    }
    let (_, alice) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let said = async || http::call(&url, Some(&alice), "jira__whoami", json!({})).await.unwrap().text();
    eventually("the call carries it", || async { said().await.contains("Bearer canary-jira").then_some(()) }).await;

    // Another door may not edit it, and says where to.
    let mine = product.home().join("mine.json");
    std::fs::write(&mine, all[0].to_string()).unwrap();
    let refused = product.cli(&["apply", "-f", mine.to_str().unwrap()], "").unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains(&format!("{}/users/alice", cluster.namespace)), "{words}");

    // What the schema can't say, the status does; what was there before goes on.
    let mut server = echo.guarded("jira", "modern");
    server["spec"]["remote"]["url"] = json!("http://mcp.example/");
    cluster.apply(&server).await.unwrap();
    let accepted = cluster.accepted(&server).await;
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("Invalid")), "{accepted}");
    assert!(accepted["message"].as_str().unwrap().contains("spec.remote.url: must be https"), "{accepted}");
    assert!(said().await.contains("Bearer canary-jira"));
    eventually("the doctor knows", || async {
        let doctor = String::from_utf8_lossy(&product.cli(&["doctor"], "").unwrap().stdout).into_owned();
        (doctor.contains("/mcpservers/jira") && doctor.contains("must be https")).then_some(())
    })
    .await;
    cluster.apply(&all[2]).await.unwrap();
    assert_eq!(cluster.accepted(&all[2]).await["status"], "True");

    // What is on the gateway's machine is not for whoever may write here.
    for (name, spec) in [
        ("shell", json!({"process": {"command": "sh"}})),
        (
            "peek",
            json!({"remote": {"url": "https://e.example/"}, "credential": {"oauth": {"clientId": "c", "clientSecret": {"env": "PORTCULLIS_KEY"}}}}),
        ),
    ] {
        let wanted = resource("McpServer", name, spec);
        cluster.apply(&wanted).await.unwrap();
        let accepted = cluster.accepted(&wanted).await;
        assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("NotAllowed")), "{accepted}");
    }

    // Whose a connection is needs a right, which may come later.
    let bobs = connection("jira-bob", "bob");
    cluster.apply(&bobs).await.unwrap();
    let accepted = cluster.accepted(&bobs).await;
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("NotAllowed")), "{accepted}");
    assert!(accepted["message"].as_str().unwrap().contains("impersonate"), "{accepted}");
    let stolen = connection("jira-alice", "bob");
    cluster.apply(&stolen).await.unwrap();
    assert_eq!(cluster.accepted(&stolen).await["reason"], "NotAllowed");
    assert!(said().await.contains("Bearer canary-jira"), "it is still hers");
    cluster.apply(&all[4]).await.unwrap();
    let_name(&cluster, &["alice", "bob"]).await;
    eventually("the right is found out", || async {
        (cluster.accepted(&bobs).await["status"] == "True").then_some(())
    })
    .await;

    // Hers was given back to her meanwhile, which is one more write.
    assert_eq!(cluster.accepted(&all[4]).await["status"], "True");

    // While nothing changes nothing is asked: one change costs one write, and nothing was asked in between.
    let before = requests(&product).await;
    let mut alice_too = all[0].clone();
    alice_too["spec"]["displayName"] = json!("Alice");
    cluster.apply(&alice_too).await.unwrap();
    assert_eq!(cluster.accepted(&alice_too).await["status"], "True");
    let changed: f64 =
        requests(&product).await.iter().map(|(_, n)| n).sum::<f64>() - before.iter().map(|(_, n)| n).sum::<f64>();
    assert!((changed - 1.0).abs() < f64::EPSILON, "{before:?} {changed}");

    // Deleted there, gone here.
    cluster.customs_of(&all[4]).delete("jira-alice", &DeleteParams::default()).await.unwrap();
    eventually("the connection is gone", || async { said().await.contains("missing-credential").then_some(()) }).await;
    // Each change is on record once, begun and done, with what the program called itself that made it; a refused one is none.
    let written = audited(&product);
    let of = |resource: &str| -> Vec<String> {
        let ours = written.iter().filter(|e| e["kind"] == "administration" && e["tool"] == resource);
        ours.map(|e| {
            let [outcome, method, caller] = ["outcome", "method", "caller"].map(|n| e[n].as_str().unwrap_or("-"));
            let at = |name: &str| if e[name].is_u64() { "some" } else { "none" };
            format!("{outcome} {method} {caller} {} {}", at("fromRevision"), at("toRevision"))
        })
        .collect()
    };
    // This version of Kubernetes names nobody for what a first apply made.
    let place = format!("{}/users/alice", cluster.namespace);
    let ours = of("User/alice").into_iter().filter(|line| line.contains("kubernetes:"));
    assert_eq!(
        ours.collect::<Vec<_>>(),
        [
            format!("begun apply kubernetes:{place} none none"),
            format!("done apply kubernetes:{place} none some"),
            "begun apply kubernetes:tests some none".to_owned(),
            "done apply kubernetes:tests some some".to_owned(),
        ]
    );
    assert_eq!(of("McpServer/jira").len(), 2, "what was refused, and what was put back: {:?}", of("McpServer/jira"));
    assert!(of("McpServer/shell").is_empty() && of("McpServer/peek").is_empty());
    let place = format!("kubernetes:{}/connections/jira-alice", cluster.namespace);
    let gone = written.iter().filter(|e| e["method"] == "delete" && e["tool"] == "Connection/jira-alice");
    assert!(gone.clone().all(|e| e["door"] == place.as_str()) && gone.count() == 2, "{written:?}");
    assert!(!product.log().contains("canary-"), "{}", product.log());
    product.stop().await;
}

#[tokio::test]
async fn while_the_api_server_is_away_everything_stays_and_then_catches_up() {
    let (echo, cluster) = (Echo::start().await.unwrap(), Cluster::get().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    let (mut product, way) = started(&cluster, home.path()).await;
    let mut server = echo.guarded("open", "modern");
    server["spec"].as_object_mut().unwrap().retain(|name, _| name == "remote");
    let all = [
        resource("User", "alice", json!({})),
        server,
        resource("Gateway", "main", json!({"servers": [{"server": "open"}]})),
        resource("Gateway", "old", json!({"servers": [{"server": "open"}]})),
    ];
    for resource in &all {
        cluster.apply(resource).await.unwrap();
    }
    for resource in &all {
        assert_eq!(cluster.accepted(resource).await["status"], "True");
    }
    let (_, alice) = product.token("user:alice").unwrap();
    let status = async |product: &Product, gateway: &str| {
        http::call(&product.url(gateway), Some(&alice), "open__whoami", json!({})).await.unwrap().status.as_u16()
    };
    // Taken is not served yet: its plugins are compiled first.
    for gateway in ["main", "old"] {
        eventually("it serves", || async { (status(&product, gateway).await == 200).then_some(()) }).await;
    }

    // Cut, and started anew: what was known serves. What is deleted and made meanwhile comes afterwards.
    way.cut();
    product.kill().await;
    product.launch().await.unwrap();
    assert_eq!(status(&product, "main").await, 200);
    let doctor = String::from_utf8_lossy(&product.cli(&["doctor"], "").unwrap().stdout).into_owned();
    assert!(doctor.contains("can't be reached") && doctor.contains("/gateways"), "{doctor}");
    cluster.customs_of(&all[3]).delete("old", &DeleteParams::default()).await.unwrap();
    let new = resource("Gateway", "new", json!({"servers": [{"server": "open"}]}));
    cluster.apply(&new).await.unwrap();
    assert_eq!(status(&product, "old").await, 200, "nobody knows yet");
    way.mend();
    assert_eq!(cluster.accepted(&new).await["status"], "True");
    eventually("what was made meanwhile serves", || async { (status(&product, "new").await == 200).then_some(()) })
        .await;
    eventually("what was deleted meanwhile is gone", || async { (status(&product, "old").await == 404).then_some(()) })
        .await;

    // Cut while it runs: the watches go on where they were.
    way.cut();
    let mut named = all[0].clone();
    named["spec"]["displayName"] = json!("Alice");
    cluster.apply(&named).await.unwrap();
    way.mend();
    assert_eq!(cluster.accepted(&named).await["status"], "True");

    // A right that is missing is named.
    let less = json!([{"apiGroups": ["portcullis.dev"], "resources": ["*"], "verbs": ["list", "watch"]}]);
    cluster.grant("gateway", less).await.unwrap();
    named["spec"]["displayName"] = json!("Alice A.");
    cluster.apply(&named).await.unwrap();
    eventually("the doctor names the right", || async {
        let doctor = String::from_utf8_lossy(&product.cli(&["doctor"], "").unwrap().stdout).into_owned();
        doctor.contains("may not patch users.portcullis.dev/status").then_some(())
    })
    .await;
    cluster.grant("gateway", rights()).await.unwrap();
    assert_eq!(cluster.accepted(&named).await["status"], "True");
    product.stop().await;
}
