//! Flows with others who hold secrets: an identity provider that swaps tokens, servers that callers' tokens go on to, Vault.

use std::{path::PathBuf, time::Duration};

use portcullis_e2e::{
    echo::Echo,
    eventually,
    granting::Granting,
    http::{Reply, get},
    parts::root,
    product::resource,
    swap::Running,
    vault::{SECRET_ID, Vault},
};
use serde_json::{Value, json};

use super::House;

const GATEWAY: &str = "https://gateway.example/mcp";
const SERVER: &str = "https://server.example/mcp";
/// Servers of these flows behind the gateway.
pub const SERVERS: [&str; 7] = ["granting", "given", "swapped", "signed", "passed", "invault", "notes"];
/// Secrets that the operator keeps in variables: what the fixtures know them by.
pub const ENVIRONMENT: [(&str, &str); 3] = [
    ("GIVEN_SECRET", "given-client-secret-of-the-operator"),
    ("EXCHANGE_SECRET", "exchange-secret"),
    ("CI_SECRET", "canary-ci-client-7d1f0c5e9ab3"),
];
const IN_VAULT: &str = "canary-in-vault-7d1f0c5e9ab3";

/// Everybody else.
pub struct Others {
    pub granting: Granting,
    provider: Running,
    upstream: Running,
    vault: Vault,
    folder: tempfile::TempDir,
    certificate: PathBuf,
}

impl Others {
    pub async fn start() -> Self {
        let certificates = root().join("host/portcullis/tests/it/certificates");
        let certificate = certificates.join("one.crt");
        let tls = format!("{}:{}", certificate.display(), certificates.join("one.key").display());
        let provider = Running::provider(0).await.unwrap();
        let upstream = Running::guarded("-", "authorization", &[&provider.url], Some(&tls)).await.unwrap();
        let vault = Vault::start(Duration::from_secs(3600)).await.unwrap();
        vault.put("secret/teams/blue/notes", json!({"token": IN_VAULT}));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret-id"), SECRET_ID).unwrap();
        let pem = get(&format!("{}/fixture/client.pem", provider.url), &[]).await.unwrap();
        std::fs::write(folder.path().join("client.pem"), pem.body).unwrap();
        let granting = Granting::start().await.unwrap();
        Self { granting, provider, upstream, vault, folder, certificate }
    }

    pub fn settings(&self, settings: &mut Value) {
        settings["allowPrivateIssuers"] = json!(true);
        settings["trustedCertificates"] = json!(self.certificate);
        let secret_id = json!({"file": self.folder.path().join("secret-id")});
        settings["vault"] =
            json!({"address": self.vault.url(), "auth": {"appRole": {"roleId": "portcullis", "secretId": secret_id}}});
        settings["secrets"] = json!({"refresh": "1s", "maxStale": "1s"});
    }

    pub fn resources(&self, echo: &Echo) -> Vec<Value> {
        let issuer = &self.provider.url;
        let given = json!({"clientId": "given", "clientSecret": {"env": "GIVEN_SECRET"}});
        let rules = json!({"issuers": [{"issuer": issuer, "audience": [GATEWAY]}]});
        let secrets = json!({
            "idp": {"from": {"env": "EXCHANGE_SECRET"}, "origins": [issuer]},
            "key": {"from": {"file": self.folder.path().join("client.pem")}, "origins": [issuer]},
        });
        let grants = json!({"callerToken": true, "http": [issuer], "httpPrivate": true, "secrets": secrets});
        let passes = json!({"callerToken": true, "passthrough": true});
        let swap = |client: Value| {
            let settings = json!({"tokenEndpoint": format!("{issuer}/token"), "client": client, "audience": [SERVER]});
            json!({"mode": "idp-exchange", "settings": settings})
        };
        let guarded = |name: &str, mode: Value| {
            let remote = json!({"url": self.upstream.url, "allowPrivate": true});
            resource("McpServer", name, json!({"remote": remote, "credential": {"mode": mode}}))
        };
        let plugin = |name: &str, grants: Value, config: Value| {
            let mut spec = json!({"source": {"builtIn": name}, "grants": grants});
            if !config.is_null() {
                spec["config"] = config;
            }
            resource("Plugin", name, spec)
        };
        let source = json!({"vault": {"path": "teams/blue/notes", "key": "token"}});
        vec![
            self.granting.server("granting", json!({})),
            self.granting.server("given", given),
            plugin("jwks", json!({"issuers": [issuer]}), rules),
            plugin("idp-exchange", grants, Value::Null),
            plugin("passthrough", passes, Value::Null),
            guarded("swapped", swap(json!({"id": "portcullis", "secret": "idp"}))),
            guarded("signed", swap(json!({"id": "portcullis-key", "auth": "private-key-jwt", "key": "key"}))),
            guarded("passed", json!({"mode": "passthrough", "settings": {"audience": [SERVER]}})),
            resource("McpServer", "notes", crate::identity::pages::shelf(echo)),
            echo.guarded("invault", "modern"),
            resource(
                "Connection",
                "invault-alice",
                json!({"server": "invault", "owner": {"user": "alice"}, "ownerOnly": true, "secrets": {"token": source}}),
            ),
            resource("Agent", "ci", json!({"team": "blue"})),
            resource("OAuthClient", "ci-secret", json!({"agent": "ci", "secret": {"env": "CI_SECRET"}})),
        ]
    }

    /// What the others gave out or got in the course of all that.
    pub async fn plant(&self, house: &House) {
        let given = self.granting.seen().await.unwrap()["secrets"].clone();
        let swapped = self.provider.fixture("secrets").await.unwrap();
        for (sort, all) in [("of a server's authorization server", given), ("swapped, or a client's word", swapped)] {
            let all = all.as_array().unwrap().clone();
            assert!(!all.is_empty(), "{sort}: none was given out");
            for secret in all {
                house.plant(sort, secret.as_str().unwrap());
            }
        }
        house.plant("the secret id for Vault", SECRET_ID);
        house.plant("a token of Vault's", "hvs.canary-vault-token-");
        house.plant("a secret in Vault", IN_VAULT);
        let pem = std::fs::read_to_string(self.folder.path().join("client.pem")).unwrap();
        house.plant("a client's key", pem.lines().nth(1).unwrap());
    }
}

/// A token of the provider, planted: as a whole, and its signature.
async fn token(house: &House, subject: &str, audiences: &[&str], more: &str) -> String {
    let token = house.others.provider.token(subject, audiences, more).await.unwrap();
    house.plant("a token of a provider", &token);
    house.plant("a token's signature", token.rsplit('.').next().unwrap());
    token
}

fn works(reply: &Reply) -> bool {
    reply.text().contains("\"isError\":false")
}

/// Calls until it works: plugins, keys and secrets of others are fetched first.
async fn ready(house: &House, bearer: &str, tool: &str) {
    eventually(tool, || async { works(&house.call(bearer, tool, json!({}), &[]).await).then_some(()) }).await;
}

pub async fn exchange(house: &House) {
    let provider = &house.others.provider;
    let erin = token(house, "erin", &[GATEWAY], "").await;
    ready(house, &erin, "swapped__whoami").await;
    ready(house, &erin, "signed__whoami").await;
    for mode in ["error200", "redirect", "huge", "html", "busy", "echo"] {
        provider.mode(mode).await.unwrap();
        let other = token(house, mode, &[GATEWAY], "").await;
        house.call(&other, "swapped__whoami", json!({}), &[]).await;
        house.call(&other, "signed__whoami", json!({}), &[]).await;
    }
    provider.mode("ok").await.unwrap();
    for (subject, audience, more) in [
        ("blocked", GATEWAY, ""),
        ("erin", GATEWAY, "&cnf=1"),
        ("erin", "https://other.example", ""),
        ("erin", GATEWAY, "&life=-600"),
    ] {
        let bad = token(house, subject, &[audience], more).await;
        house.call(&bad, "swapped__whoami", json!({}), &[]).await;
    }
    house.call(&house.alice, "swapped__whoami", json!({}), &[]).await;
    house.others.upstream.fixture("revoke").await.unwrap();
    house.call(&erin, "swapped__whoami", json!({}), &[]).await;
}

pub async fn passthrough(house: &House) {
    let both = token(house, "erin", &[GATEWAY, SERVER], "").await;
    ready(house, &both, "passed__whoami").await;
    let here = token(house, "erin", &[GATEWAY], "").await;
    let bound = token(house, "erin", &[GATEWAY, SERVER], "&cnf=1").await;
    for refused in [&here, &bound, &house.alice] {
        house.call(refused, "passed__whoami", json!({}), &[]).await;
    }
    house.others.upstream.fixture("revoke").await.unwrap();
    house.call(&both, "passed__whoami", json!({}), &[]).await;
}

pub async fn vault(house: &House) {
    let vault = &house.others.vault;
    let call = async || house.call(&house.alice, "invault__echo", json!({}), &[]).await;
    ready(house, &house.alice, "invault__echo").await;
    vault.revoke_all();
    vault.seal(true);
    eventually("what can't be had is missing", || async {
        call().await.text().contains("missing-credential").then_some(())
    })
    .await;
    house.cli(&["doctor"], "");
    house.cli(&["describe", "connection", "invault-alice"], "");
    vault.seal(false);
    eventually("it is found again", || async { works(&call().await).then_some(()) }).await;
    vault.delete("secret/teams/blue/notes");
    eventually("it is gone", || async { call().await.text().contains("missing-credential").then_some(()) }).await;
}
