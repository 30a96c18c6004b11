//! Secrets kept in Kubernetes, on a real API server: carried, exchanged under calls, gone, forbidden, out of reach.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use portcullis_e2e::{
    cluster::{Cluster, Cut, secret},
    echo::Echo,
    eventually, http,
    product::{Product, resource},
    vault::Vault,
};
use serde_json::{Value, json};

/// Alice's connection to the server `jira`, whose token lies in Kubernetes.
fn connection(name: &str, source: &Value) -> Value {
    let secrets = json!({"token": {"kubernetes": source}});
    resource(
        "Connection",
        name,
        json!({"server": "jira", "owner": {"user": "alice"}, "secrets": secrets, "ownerOnly": true}),
    )
}

fn house(echo: &Echo) -> Vec<Value> {
    vec![
        resource("User", "alice", json!({})),
        echo.guarded("jira", "modern"),
        resource("Gateway", "main", json!({"servers": [{"server": "jira"}]})),
    ]
}

fn rights(names: &[&str]) -> Value {
    json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get"]}])
}

async fn exchange(cluster: &Cluster, value: &str) {
    let patch = json!({"stringData": {"token": value}});
    cluster.api::<Secret>().patch("jira", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

#[tokio::test]
async fn a_secret_is_carried_exchanged_under_calls_and_nothing_ever_takes_its_place() {
    let (echo, cluster) = (Echo::start().await.unwrap(), Cluster::get().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    // As most Secrets are made: of a file, with its newline.
    let jira = secret("jira", &[("token", "canary-first\n"), ("other", "canary-unasked")]);
    cluster.api::<Secret>().create(&PostParams::default(), &jira).await.unwrap();
    cluster.account("gateway", rights(&["jira"]), home.path()).await.unwrap();
    let way = Cut::to(cluster.address().unwrap()).await.unwrap();
    let token = cluster.token("gateway", &[]).await.unwrap();
    let kubeconfig = home.path().join("by-way");
    std::fs::write(&kubeconfig, cluster.config_of(&token, Some(way.address())).unwrap().to_string()).unwrap();
    let settings = json!({"kubernetes": {"kubeconfig": kubeconfig}, "secrets": {"refresh": "1s", "maxStale": "3s"}});
    let mut all = house(&echo);
    all.push(connection("jira-alice", &json!({"name": "jira", "key": "token"})));
    let mut product = Product::start_with(&all, &[], settings).await.unwrap();
    let (_, caller) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let said = async || http::call(&url, Some(&caller), "jira__whoami", json!({})).await.unwrap().text();
    let says = async |what: &str, word: &str| {
        eventually(what, || async { said().await.contains(word).then_some(()) }).await;
    };
    // Fetched before anything was served: the very first call carries it.
    assert!(said().await.contains("Bearer canary-first\\\""), "{}", said().await);

    // Exchanged while calls run: each carries one of the two, and none fails.
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (caller_too, url_too) = (caller.clone(), url.clone());
    let (until, count) = (Arc::clone(&over), Arc::clone(&calls));
    let calling = tokio::spawn(async move {
        while !until.load(Ordering::Relaxed) {
            let answer = http::call(&url_too, Some(&caller_too), "jira__whoami", json!({})).await.unwrap().text();
            assert!(
                answer.contains("Bearer canary-first\\\"") || answer.contains("Bearer canary-second\\\""),
                "{answer}"
            );
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    exchange(&cluster, "canary-second").await;
    says("an exchanged secret is carried", "Bearer canary-second").await;
    over.store(true, Ordering::Relaxed);
    calling.await.unwrap();
    assert!(calls.load(Ordering::Relaxed) > 10, "{calls:?}");

    // The right is taken away: the last value goes on for a while, then nothing does, and words say which right.
    cluster.grant("gateway", rights(&["another"])).await.unwrap();
    assert!(said().await.contains("Bearer canary-second"));
    says("what may not be read is missing", "missing-credential").await;
    let refused = said().await;
    assert!(
        refused.contains("can't be read") && !refused.contains(&cluster.namespace),
        "where it lies is for operators: {refused}"
    );
    let doctor = || {
        let doctor = product.cli(&["doctor"], "").unwrap();
        let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(!doctor.status.success() && found.contains("jira-alice") && found.contains("Secret jira"), "{found}");
        found
    };
    let found = doctor();
    assert!(found.contains("may not get secrets") && found.contains(&cluster.namespace), "{found}");
    cluster.grant("gateway", rights(&["jira"])).await.unwrap();
    says("it is read again once it may be", "Bearer canary-second").await;

    // The API server is gone.
    way.cut();
    assert!(said().await.contains("Bearer canary-second"));
    says("what can't be had is missing", "missing-credential").await;
    assert!(doctor().contains("can't be reached"), "{}", doctor());
    way.mend();
    says("it is found again", "Bearer canary-second").await;

    cluster.api::<Secret>().delete("jira", &DeleteParams::default()).await.unwrap();
    says("a secret that is gone serves nobody", "missing-credential").await;
    assert!(doctor().contains("does not exist"), "{}", doctor());

    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    for outcome in ["ok", "failed"] {
        let series = format!("portcullis_secret_reads_total{{service=\"kubernetes\",outcome=\"{outcome}\"}}");
        assert!(metrics.contains(&series), "{series}");
    }
    assert!(metrics.contains("portcullis_cluster_requests_total{verb=\"get\"}"), "{metrics}");
    assert!(!product.log().contains("canary-") && !found.contains("canary-") && !metrics.contains("canary-"));
    assert!(!product.log().contains(&token), "the account's token is in the log");

    // Started while the cluster is away, it serves what does not need it.
    product.kill().await;
    way.cut();
    product.launch().await.unwrap();
    says("what was never read is missing", "missing-credential").await;
    product.stop().await;
}

#[tokio::test]
async fn a_resource_names_secrets_of_its_tenants_namespaces_and_no_others() {
    let (echo, cluster) = (Echo::start().await.unwrap(), Cluster::get().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = cluster.account("gateway", rights(&["jira"]), home.path()).await.unwrap();
    let jira = secret("jira", &[("token", "canary-jira"), ("empty", "")]);
    cluster.api::<Secret>().create(&PostParams::default(), &jira).await.unwrap();
    let settings = json!({"kubernetes": {"kubeconfig": kubeconfig, "secrets": {"acme": [cluster.namespace]}}});
    let of = |tenant: &str, mut resource: Value| {
        resource["metadata"]["namespace"] = json!(tenant);
        resource
    };
    let mut all = Vec::new();
    for (tenant, source) in [
        // The default tenant may name those of the gateway's own namespace, which the kubeconfig says.
        ("default", json!({"name": "jira", "key": "token"})),
        ("acme", json!({"namespace": cluster.namespace, "name": "jira", "key": "token"})),
        ("greedy", json!({"namespace": "kube-system", "name": "jira", "key": "token"})),
        ("umbrella", json!({"namespace": cluster.namespace, "name": "jira", "key": "token"})),
        ("nobody", json!({"name": "jira", "key": "token"})),
    ] {
        all.extend(house(&echo).into_iter().map(|r| of(tenant, r)));
        all.push(of(tenant, connection("jira-alice", &source)));
    }
    for (tenant, key) in [("hollow", "empty"), ("wrong", "nope")] {
        all.extend(house(&echo).into_iter().map(|r| of(tenant, r)));
        all.push(of(tenant, connection("jira-alice", &json!({"name": "jira", "key": key}))));
    }
    let mut settings = settings;
    for tenant in ["hollow", "wrong"] {
        settings["kubernetes"]["secrets"][tenant] = json!([cluster.namespace]);
    }
    let product = Product::start_with(&all, &[], settings).await.unwrap();
    let call = async |tenant: &str| {
        let made = ["token", "create", "--owner", "user:alice", "--name", "test", "--tenant", tenant];
        let token = product.ask(&made, "").unwrap()["token"].as_str().unwrap().to_owned();
        let path = if tenant == "default" { "/mcp/main".to_owned() } else { format!("/t/{tenant}/mcp/main") };
        http::call(&product.page(&path), Some(&token), "jira__whoami", json!({})).await.unwrap().text()
    };
    for tenant in ["default", "acme"] {
        assert!(call(tenant).await.contains("Bearer canary-jira"), "{tenant}");
    }
    for (tenant, why) in [
        ("greedy", "may not name Secrets of the namespace kube-system"),
        ("umbrella", "may not name Secrets"),
        ("nobody", "may name no Secrets"),
        ("hollow", "it is empty"),
        ("wrong", "does not exist"),
    ] {
        let refused = call(tenant).await;
        assert!(refused.contains("missing-credential") && !refused.contains("Secret"), "{tenant}: {refused}");
        assert!(product.log().contains(why), "{tenant}: {why}");
        assert!(!refused.contains("canary-"), "{tenant}: {refused}");
    }
    product.stop().await;
}

#[tokio::test]
async fn a_pods_own_account_logs_in_to_vault() {
    let (echo, cluster) = (Echo::start().await.unwrap(), Cluster::get().await.unwrap());
    let home = tempfile::tempdir().unwrap();
    cluster.account("gateway", json!([]), home.path()).await.unwrap();
    cluster.account("stranger", json!([]), home.path()).await.unwrap();
    // The fake Vault asks the real cluster whose token it is, as Vault's method does.
    let expected = format!("system:serviceaccount:{}:gateway", cluster.namespace);
    let vault = Vault::start(Duration::from_secs(3600)).await.unwrap();
    vault.ask_cluster(cluster.client.clone(), &expected);
    vault.put("secret/a", json!({"token": "canary-from-vault"}));
    for (account, works) in [("gateway", true), ("stranger", false)] {
        let token = home.path().join("token");
        std::fs::write(&token, cluster.token(account, &["vault"]).await.unwrap()).unwrap();
        let auth = json!({"kubernetes": {"role": "portcullis", "tokenFile": token}});
        let settings = json!({"vault": {"address": vault.url(), "auth": auth}});
        let mut all = house(&echo);
        let source = json!({"token": {"vault": {"path": "a", "key": "token"}}});
        let spec = json!({"server": "jira", "owner": {"user": "alice"}, "secrets": source, "ownerOnly": true});
        all.push(resource("Connection", "jira-alice", spec));
        let product = Product::start_with(&all, &[], settings).await.unwrap();
        let (_, caller) = product.token("user:alice").unwrap();
        let url = product.url("main");
        let said = http::call(&url, Some(&caller), "jira__whoami", json!({})).await.unwrap().text();
        assert_eq!(said.contains("Bearer canary-from-vault"), works, "{account}: {said}");
        product.stop().await;
    }
}
