//! The same table for the modes that carry the caller's own token: a provider swaps it (`idp-exchange`), or it goes on
//! (`passthrough`). What connections exist is nothing to them: nobody runs under another's account for want of a token of their own.

use std::collections::BTreeMap;

use portcullis_e2e::{
    eventually, http,
    parts::root,
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

use super::{AUDIENCE, CALLERS, key, owner, people, plain, who};

const SERVER: &str = "https://server.example/mcp";
const REASON: &str = "OPS-7: the server checks no audience";

/// What a mode comes to for each caller: the subject that the server saw, or the code of the refusal.
struct Mode {
    server: &'static str,
    /// Whom the provider's tokens are for.
    audiences: &'static [&'static str],
    wanted: [&'static str; 10],
    /// What stands in the record of each token that went on.
    reason: Option<&'static str>,
}

/// Tokens of ours (of users, teams, the organization, agents) are no provider's, so there is nothing to swap or pass on.
const OURS: &str = "credential-denied";
const MODES: &[Mode] = &[
    Mode {
        server: "exchange",
        audiences: &[AUDIENCE],
        wanted: [OURS, OURS, OURS, OURS, OURS, OURS, "bob", "frank", "a-1", OURS],
        reason: None,
    },
    Mode {
        server: "pass",
        audiences: &[AUDIENCE, SERVER],
        wanted: [OURS, OURS, OURS, OURS, OURS, OURS, "bob", "frank", "a-1", OURS],
        reason: None,
    },
    // Made for the gateway alone: nobody's.
    Mode { server: "pass", audiences: &[AUDIENCE], wanted: [OURS; 10], reason: None },
    // The operator's exception is about the audience; a token of ours stays here all the same.
    Mode {
        server: "excepted",
        audiences: &[AUDIENCE],
        wanted: [OURS, OURS, OURS, OURS, OURS, OURS, "bob", "frank", "a-1", OURS],
        reason: Some(REASON),
    },
];

/// What exists for each of the servers.
const EXISTS: &[&[&str]] = &[&[], &["org", "blue", "alice", "bob", "ci"]];

#[tokio::test]
async fn a_callers_own_token_is_nobody_elses_and_no_connection_stands_in_for_it() {
    let certificates = root().join("host/portcullis/tests/it/certificates");
    let certificate = certificates.join("one.crt");
    let tls = format!("{}:{}", certificate.display(), certificates.join("one.key").display());
    let provider = Running::provider(0).await.unwrap();
    let issuer = provider.url.clone();
    let upstream = Running::guarded("-", "authorization", &[&issuer], Some(&tls)).await.unwrap();
    let mut all = people(&issuer);
    let secrets = json!({"idp": {"from": {"env": "EXCHANGE_SECRET"}, "origins": [issuer]}});
    let grants = json!({"callerToken": true, "http": [issuer], "httpPrivate": true, "secrets": secrets});
    all.push(resource("Plugin", "idp-exchange", json!({"source": {"builtIn": "idp-exchange"}, "grants": grants})));
    let grants = json!({"callerToken": true, "passthrough": true});
    all.push(resource("Plugin", "passthrough", json!({"source": {"builtIn": "passthrough"}, "grants": grants})));
    let exchange = json!({
        "tokenEndpoint": format!("{issuer}/token"), "client": {"id": "portcullis", "secret": "idp"}, "audience": [SERVER],
    });
    let modes = [
        ("exchange", json!({"mode": "idp-exchange", "settings": exchange})),
        ("pass", json!({"mode": "passthrough", "settings": {"audience": [SERVER]}})),
        (
            "excepted",
            json!({"mode": "passthrough", "settings": {"audience": [SERVER], "allowAudience": {"reason": REASON}}}),
        ),
    ];
    let mut servers = Vec::new();
    for (name, mode) in modes {
        for (at, exists) in EXISTS.iter().enumerate() {
            let name = format!("{name}-{at}");
            // It asks for a token, too, so that connections of it are as good as any.
            let spec = json!({
                "remote": {"url": upstream.url, "allowPrivate": true},
                "fields": [{"name": "token", "required": true, "sensitive": true}],
                "credential": {"mode": mode},
            });
            all.push(resource("McpServer", &name, spec));
            for id in *exists {
                let spec = json!({"server": name, "owner": owner(id).0, "ownerOnly": false,
                    "secrets": {"token": {"env": "EXCHANGE_SECRET"}}});
                all.push(resource("Connection", &format!("{name}-{}", plain(id)), spec));
            }
            servers.push(json!({"server": name}));
        }
    }
    let auth = json!([{"plugin": "bearer-token"}, {"plugin": "jwks"}]);
    all.push(resource("Gateway", "main", json!({"auth": auth, "anonymous": true, "servers": servers})));
    let settings = json!({"allowPrivateIssuers": true, "trustedCertificates": certificate});
    let product = Product::start_with(&all, &[("EXCHANGE_SECRET", "exchange-secret")], settings).await.unwrap();

    let mut wrong = Vec::new();
    let mut ran: BTreeMap<(String, String), Option<&str>> = BTreeMap::new();
    for mode in MODES {
        for caller in CALLERS {
            let key = key(&product, &provider, caller, mode.audiences).await;
            let wanted = mode.wanted[CALLERS.iter().position(|c| *c == caller).unwrap()];
            for at in 0..EXISTS.len() {
                let server = format!("{}-{at}", mode.server);
                let tool = format!("{server}__whoami");
                let reply = http::call(&product.url("main"), key.as_deref(), &tool, json!({})).await.unwrap();
                let result = reply.message()["result"].clone();
                let saw: Value = result["content"][0]["text"]
                    .as_str()
                    .and_then(|t| serde_json::from_str(t).ok())
                    .unwrap_or_default();
                let code = result["_meta"]["portcullis.dev/fault"]["code"].as_str().unwrap_or_default();
                let found = saw["sub"].as_str().unwrap_or(code);
                if found != wanted {
                    wrong.push(format!(
                        "{server} {caller} {:?}: {found}, not {wanted}: {}",
                        mode.audiences,
                        reply.text()
                    ));
                } else if wanted != OURS {
                    ran.insert((who(caller, &issuer), server), mode.reason);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Under the caller's own name, and under no connection; what went on was on record first.
    eventually("every call is on record", || async {
        let text = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events: Vec<Value> = lines.map(|record| record["event"].clone()).collect();
        let all = ran.iter().all(|((caller, server), reason)| {
            let of = |kind: &str| {
                let fits = |e: &&Value| e["kind"] == kind && e["caller"] == *caller && e["server"] == *server;
                events.iter().filter(fits).cloned().collect::<Vec<_>>()
            };
            let called = of("call")
                .iter()
                .any(|e| e["executedAs"] == *caller && e["connection"].is_null() && e["outcome"] == "ok");
            let passed = of("passthrough");
            let on_record = match server.starts_with("exchange") {
                true => passed.is_empty(),
                false => !passed.is_empty() && passed.iter().all(|e| e["reason"].as_str() == *reason),
            };
            called && on_record
        });
        let lent = events.iter().any(|e| e["kind"] == "borrowed-connection");
        (all && !lent).then_some(())
    })
    .await;
    product.stop().await;
}
