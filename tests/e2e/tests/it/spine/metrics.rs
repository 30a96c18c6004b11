//! Every metric that the documentation promises is written by the product while it works.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    parts::{Parts, root},
    product::{Product, resource},
};
use serde_json::json;

/// What only a plugin that misbehaves, or a server that asks a client back, makes: tried where those are.
const ELSEWHERE: [&str; 19] = [
    // The life of plugins: the tests of `plugins::life` and of the plugin host have them.
    "portcullis_plugin_monitored_total",
    "portcullis_plugin_quarantined",
    "portcullis_plugin_shadow_total",
    "portcullis_plugin_transitions_total",
    // Plugins that count something of their own: tried with the plugin host.
    "portcullis_plugin_events_total",
    "portcullis_plugin_values",
    "portcullis_plugin_figures_dropped_total",
    // Plugins of registries: `host/package` tries them.
    "portcullis_plugin_fetches_total",
    "portcullis_plugin_signatures_total",
    "portcullis_plugin_capability_denied_total",
    "portcullis_questions_total",
    // These need a cluster.
    "portcullis_cluster_requests_total",
    "portcullis_workloads",
    // These need an identity provider, a Vault or a person: the tests of `identity` have them.
    "portcullis_plugin_token_requests_total",
    "portcullis_secret_reads_total",
    "portcullis_upstream_oauth_renewals_total",
    "portcullis_upstream_oauth_revocations_total",
    "portcullis_signins_total",
    "portcullis_oauth_requests_total",
];

/// The names in the first column of the page's table.
fn promised() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|l| l.strip_prefix("| `portcullis_")?.split_once('`'));
    rows.map(|(name, _)| format!("portcullis_{name}")).collect()
}

#[tokio::test]
async fn what_is_promised_is_counted() {
    let echo = Echo::start().await.unwrap();
    let time = json!({"process": {"command": Parts::get().python("mcp-server-time")}});
    let rules = json!({"rules": [{"effect": "deny", "when": [{"argument": "/message", "equals": "off"}]}, {"effect": "allow"}]});
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        resource("McpServer", "time", time),
        resource(
            "Gateway",
            "main",
            json!({
                "policies": [{"plugin": "tool-access", "config": rules}],
                "servers": [{"server": "echo"}, {"server": "time"}],
            }),
        ),
    ])
    .await
    .unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let call = async |tool: &str, arguments| http::call(&url, Some(&token), tool, arguments).await.unwrap().text();

    let noon = json!({"timezone": "UTC"});
    eventually("both servers answer", || async {
        let both =
            call("echo__echo", json!({"message": "in"})).await + &call("time__get_current_time", noon.clone()).await;
        (both.matches("\"isError\":false").count() == 2).then_some(())
    })
    .await;
    assert!(call("echo__echo", json!({"message": "off"})).await.contains("policy"));
    product.ask(&["restart", "time"], "").unwrap();
    eventually("it answers again", || async {
        call("time__get_current_time", noon.clone()).await.contains("\"isError\":false").then_some(())
    })
    .await;
    let bearer = format!("Bearer {token}");
    let foreign = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-session-id", "somebody-elses"),
    ];
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    assert_eq!(http::post(&url, &foreign, ping).await.unwrap().status, 404);

    let promised = promised();
    assert!(promised.len() > 20, "{promised:?}");
    eventually("each family has a sample", || async {
        let told = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
        let sampled = |name: &String| {
            told.lines().filter(|l| !l.starts_with('#')).any(|line| {
                let rest = line.strip_prefix(name.as_str());
                rest.is_some_and(|r| r.starts_with(['{', ' ', '_']))
            })
        };
        let missing: Vec<&String> =
            promised.iter().filter(|n| !ELSEWHERE.contains(&n.as_str()) && !sampled(n)).collect();
        if !missing.is_empty() {
            eprintln!("nothing counts {missing:?}");
        }
        missing.is_empty().then_some(())
    })
    .await;
    // A connection that nobody uses is let go.
    call("echo__echo", json!({"message": "in"})).await;
    let told = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    // Not only there, but counting.
    let value = |start: &str| {
        let lines = told.lines().filter(|l| l.starts_with(start));
        lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    for start in [
        "portcullis_calls_total{",
        "portcullis_call_duration_seconds_count{",
        "portcullis_call_overhead_seconds_count{",
        "portcullis_plugin_calls_total{",
        "portcullis_plugin_duration_seconds_count{",
        "portcullis_upstream_requests_total{",
        "portcullis_upstream_connects_total{",
        "portcullis_catalogue_refreshes_total{",
        "portcullis_child_restarts_total{",
        "portcullis_refusals_total{",
        "portcullis_sealed_rejected_total{",
        "portcullis_config_loads_total{",
        "portcullis_children ",
        "portcullis_client_connections ",
        "portcullis_upstream_pooled ",
        "portcullis_audit_records_total ",
        "portcullis_audit_sync_seconds_count ",
        "portcullis_build_info{",
    ] {
        assert!(value(start) > 0.0, "{start}: {told}");
    }
    product.stop().await;
}
