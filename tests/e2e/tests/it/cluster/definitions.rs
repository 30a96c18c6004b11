//! The custom resource definitions, on a real API server: it takes them, and each kind's right and wrong objects.

use kube::api::{DeleteParams, Patch, PatchParams};
use portcullis_e2e::{cluster::Cluster, product::resource};
use serde_json::{Value, json};

/// A right object of each kind, and wrong ones that the API server itself refuses, each with a word of why.
fn objects() -> Vec<(Value, Vec<(Value, &'static str)>)> {
    let right = |kind: &str, spec: Value| resource(kind, "it", spec);
    let owner = json!({"user": "alice"});
    vec![
        (
            right(
                "User",
                json!({"displayName": "Alice", "identities": [{"issuer": "https://idp.example", "subject": "1"}]}),
            ),
            vec![
                (json!({"displayName": 7}), "spec.displayName"),
                (json!({"identities": [{"issuer": "x"}]}), "subject"),
            ],
        ),
        (
            right("Team", json!({"members": ["alice"]})),
            vec![(json!({"members": ["Not A Name"]}), "spec.members"), (json!({"members": "alice"}), "spec.members")],
        ),
        (right("Role", json!({})), vec![(json!([]), "spec")]),
        (right("Agent", json!({"team": "blue"})), vec![(json!({"team": "-blue"}), "spec.team")]),
        (
            right("IdentityProvider", json!({"issuer": "https://idp.example", "clientId": "c"})),
            vec![
                (json!({"clientId": "c"}), "spec.issuer"),
                (
                    json!({"issuer": "https://idp.example", "clientId": "c", "clientSecret": {"env": "A", "file": "B"}}),
                    "spec.clientSecret",
                ),
            ],
        ),
        (
            right("OAuthClient", json!({"redirectUris": ["http://127.0.0.1/cb"], "keys": {"keys": [{"kty": "EC"}]}})),
            vec![(json!({"redirectUris": [1]}), "spec.redirectUris")],
        ),
        (
            right(
                "Plugin",
                json!({"source": {"builtIn": "tool-access"}, "config": {"rules": [{"deep": {"er": [1]}}]}}),
            ),
            vec![
                (json!({}), "spec.source"),
                (json!({"source": {"builtIn": "x", "file": {"path": "y"}}}), "spec.source"),
                (json!({"source": {"builtIn": "x"}, "onError": "ask"}), "spec.onError"),
            ],
        ),
        (
            right(
                "McpServer",
                json!({"remote": {"url": "https://mcp.example/mcp"}, "traffic": {"timeout": "30s", "maxConcurrent": 8}}),
            ),
            vec![
                (json!({"remote": {}}), "spec.remote.url"),
                (
                    json!({"remote": {"url": "https://e.example/"}, "traffic": {"timeout": "soon"}}),
                    "spec.traffic.timeout",
                ),
                (json!({"remote": {"url": "https://e.example/"}, "traffic": {"maxConcurrent": -1}}), "maxConcurrent"),
                (json!({"remote": {"url": "https://e.example/", "transport": "pigeon"}}), "spec.remote.transport"),
            ],
        ),
        (
            right(
                "Connection",
                json!({"server": "it", "owner": owner, "secrets": {"token": {"kubernetes": {"name": "jira", "key": "t"}}}, "ownerOnly": true}),
            ),
            vec![
                (json!({"server": "it", "ownerOnly": true}), "spec.owner"),
                (json!({"server": "it", "owner": {"user": "a", "team": "b"}, "ownerOnly": true}), "spec.owner"),
                (json!({"server": "it", "owner": {}, "ownerOnly": true}), "spec.owner"),
                (json!({"server": "it", "owner": owner}), "spec.ownerOnly"),
            ],
        ),
        (
            right(
                "Gateway",
                json!({"servers": [{"server": "it", "tools": {"x": {"pinnedArguments": {"any": [1, {"thing": null}]}}}}], "exposure": "search"}),
            ),
            vec![
                (json!({"servers": [{"prefix": "x"}]}), "spec.servers"),
                (json!({"exposure": "loud"}), "spec.exposure"),
            ],
        ),
    ]
}

#[tokio::test]
async fn the_api_server_takes_each_kind_right_and_refuses_it_wrong() {
    let cluster = Cluster::get().await.unwrap();
    cluster.define().await.unwrap();
    let all = objects();
    assert_eq!(all.len(), 10);
    for (right, wrongs) in all {
        let kind = right["kind"].as_str().unwrap();
        let made = cluster.apply(&right).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        // Nothing of it was left out for want of a place in the schema.
        let (kept, sent) = (&made.data["spec"], &right["spec"]);
        assert_eq!(kept, sent, "{kind}");
        for (spec, word) in wrongs {
            let error = cluster.apply(&resource(kind, "wrong", spec.clone())).await.expect_err(&spec.to_string());
            assert!(error.to_string().contains(word), "{kind} {spec}: {error}");
        }
        // A name that is none of ours.
        let mut named = right.clone();
        named["metadata"]["name"] = json!("a.b");
        let error = cluster.apply(&named).await.expect_err(kind);
        assert!(error.to_string().contains("metadata.name"), "{kind}: {error}");
        // The status has a door of its own, and counts no generation.
        let api = cluster.customs_of(&right);
        let condition = json!({
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "taken", "lastTransitionTime": "2026-11-28T00:00:00Z",
        });
        let status = json!({"status": {"observedGeneration": 1, "conditions": [condition]}});
        let patched = api.patch_status("it", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        assert_eq!(
            (patched.metadata.generation, &patched.data["status"]["conditions"][0]["status"]),
            (Some(1), &json!("True"))
        );
        let unknown = json!({"status": {"conditions": [{"type": "Accepted", "status": "Perhaps"}]}});
        assert!(api.patch_status("it", &PatchParams::default(), &Patch::Merge(&unknown)).await.is_err(), "{kind}");
        api.delete("it", &DeleteParams::default()).await.unwrap();
    }
}
