//! Secrets in HashiCorp Vault: carried, exchanged, gone, out of reach. The Vault is a fake, named so in its module.

use std::time::Duration;

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
    vault::{SECRET_ID, SERVICE_ACCOUNT, Vault},
};
use serde_json::{Value, json};

/// Alice's connection to `vault`, whose token lies in Vault.
fn connection(tenant: &str, name: &str, path: &str, key: &str) -> Value {
    let source = json!({"vault": {"path": path, "key": key}});
    let spec = json!({"server": "vault", "owner": {"user": "alice"}, "secrets": {"token": source}, "ownerOnly": true});
    of(tenant, resource("Connection", name, spec))
}

fn of(tenant: &str, mut resource: Value) -> Value {
    resource["metadata"]["namespace"] = json!(tenant);
    resource
}

fn house(echo: &Echo, tenant: &str) -> Vec<Value> {
    vec![
        of(tenant, resource("User", "alice", json!({}))),
        of(tenant, echo.guarded("vault", "modern")),
        of(tenant, resource("Gateway", "main", json!({"servers": [{"server": "vault"}]}))),
    ]
}

#[tokio::test]
async fn a_secret_is_carried_exchanged_and_nothing_ever_takes_its_place() {
    let (echo, vault) = (Echo::start().await.unwrap(), Vault::start(Duration::from_secs(3600)).await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let secret_id = folder.path().join("secret-id");
    std::fs::write(&secret_id, format!("{SECRET_ID}\n")).unwrap();
    vault.put("secret/teams/blue/jira", json!({"token": "canary-first", "other": 1}));
    let settings = json!({
        "vault": {"address": vault.url(), "auth": {"appRole": {"roleId": "portcullis", "secretId": {"file": secret_id}}}},
        "secrets": {"refresh": "1s", "maxStale": "3s"},
    });
    let mut all = house(&echo, "default");
    all.push(connection("default", "vault-alice", "teams/blue/jira", "token"));
    let product = Product::start_with(&all, &[], settings).await.unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let said = async || http::call(&url, Some(&token), "vault__whoami", json!({})).await.unwrap().text();
    let says = async |what: &str, word: &str| {
        eventually(what, || async { said().await.contains(word).then_some(()) }).await;
    };
    // Fetched before anything was served: the very first call carries it.
    assert!(said().await.contains("Bearer canary-first"));

    vault.put("secret/teams/blue/jira", json!({"token": "canary-second"}));
    says("an exchanged secret is carried", "Bearer canary-second").await;

    vault.revoke_all();
    vault.put("secret/teams/blue/jira", json!({"token": "canary-third"}));
    says("a token that was ended is made anew", "Bearer canary-third").await;

    // Out of reach: the last value goes on, then nothing does.
    vault.seal(true);
    assert!(said().await.contains("Bearer canary-third"));
    says("what can't be had is missing", "missing-credential").await;
    let refused = said().await;
    assert!(
        refused.contains("can't be read") && !refused.contains("teams/blue"),
        "where it lies is for operators: {refused}"
    );
    let doctor = product.cli(&["doctor"], "").unwrap();
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && found.contains("vault-alice") && found.contains("teams/blue/jira"), "{found}");
    vault.seal(false);
    says("it is found again", "Bearer canary-third").await;

    vault.delete("secret/teams/blue/jira");
    let told = async |what: &str, word: &str| {
        eventually(what, || async {
            let doctor = product.cli(&["doctor"], "").unwrap();
            String::from_utf8_lossy(&doctor.stdout).contains(word).then_some(())
        })
        .await;
        assert!(said().await.contains("missing-credential"), "{}", said().await);
    };
    told("a secret that is gone serves nobody", "does not exist").await;
    vault.put("secret/teams/blue/jira", json!({"token": ["no text"]}));
    told("what is no text is no secret", "it is no text").await;

    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    for outcome in ["ok", "failed"] {
        let series = format!("portcullis_secret_reads_total{{service=\"vault\",outcome=\"{outcome}\"}}");
        assert!(metrics.contains(&series), "{series}");
    }
    assert!(!product.log().contains("canary-") && !found.contains("canary-") && !metrics.contains("canary-"));
    product.stop().await;
}

#[tokio::test]
async fn each_way_to_log_in_works_and_tokens_are_renewed() {
    let echo = Echo::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (account, token) = (folder.path().join("account"), folder.path().join("token"));
    std::fs::write(&account, SERVICE_ACCOUNT).unwrap();
    std::fs::write(&token, "canary-given").unwrap();
    for auth in [json!({"kubernetes": {"role": "portcullis", "tokenFile": account}}), json!({"token": {"file": token}})]
    {
        let vault = Vault::start(Duration::from_secs(4)).await.unwrap();
        vault.token("canary-given");
        vault.put("secret/a", json!({"token": "canary-one"}));
        let settings = json!({"vault": {"address": vault.url(), "auth": auth}, "secrets": {"refresh": "1s"}});
        let mut all = house(&echo, "default");
        all.push(connection("default", "vault-alice", "a", "token"));
        let product = Product::start_with(&all, &[], settings).await.unwrap();
        let (_, caller) = product.token("user:alice").unwrap();
        let url = product.url("main");
        let said = async || http::call(&url, Some(&caller), "vault__whoami", json!({})).await.unwrap().text();
        assert!(said().await.contains("Bearer canary-one"), "{auth}");
        let renewed = || async { (vault.counts().1 >= 3).then_some(()) };
        eventually("the token is renewed again and again", renewed).await;
        assert!(vault.counts().0 <= 1, "{auth}: nobody logged in again");
        assert!(said().await.contains("Bearer canary-one"), "{auth}");
        product.stop().await;
    }
}

#[tokio::test]
async fn a_tenant_names_its_own_paths_and_no_others() {
    let (echo, vault) = (Echo::start().await.unwrap(), Vault::start(Duration::from_secs(3600)).await.unwrap());
    vault.token("canary-given");
    vault.put("secret/acme/jira", json!({"token": "canary-acme"}));
    vault.put("secret/blue/jira", json!({"token": "canary-blue"}));
    let settings = json!({"vault": {"address": vault.url(), "auth": {"token": {"env": "VAULT_GIVEN"}}, "tenants": {"acme": ["secret/acme"]}}});
    let mut all = Vec::new();
    for (tenant, path) in [("acme", "acme/jira"), ("umbrella", "acme/jira"), ("greedy", "blue/jira")] {
        all.extend(house(&echo, tenant));
        all.push(connection(tenant, "vault-alice", path, "token"));
    }
    let product = Product::start_with(&all, &[("VAULT_GIVEN", "canary-given")], settings).await.unwrap();
    let call = async |tenant: &str| {
        let made = ["token", "create", "--owner", "user:alice", "--name", "test", "--tenant", tenant];
        let token = product.ask(&made, "").unwrap()["token"].as_str().unwrap().to_owned();
        let url = product.page(&format!("/t/{tenant}/mcp/main"));
        http::call(&url, Some(&token), "vault__whoami", json!({})).await.unwrap().text()
    };
    assert!(call("acme").await.contains("Bearer canary-acme"));
    for tenant in ["umbrella", "greedy"] {
        let refused = call(tenant).await;
        assert!(refused.contains("missing-credential") && !refused.contains("canary-"), "{tenant}: {refused}");
    }
    product.stop().await;
}
