//! The suite's client scenarios: it plays the server and watches what the gateway sends it, while a real client uses
//! everything through the gateway.

use std::{env, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use portcullis_e2e::{
    granting,
    http::{self, LEGACY, MODERN},
    parts::{Parts, binary, root},
    product::{Product, resource},
};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::{
    compare::Difference,
    parts,
    suite::{self, Found},
};

/// The name of these scenarios in reports.
pub const CLIENT: &str = "client";

/// Every scored scenario, and those beside that need nothing which the gateway has not, by revision.
const SCENARIOS: [(&str, &[&str]); 2] = [
    (
        LEGACY,
        &[
            "initialize",
            "tools_call",
            "elicitation-sep1034-client-defaults",
            "sse-retry",
            "json-schema-2020-12-preservation",
            "auth/metadata-default",
            "auth/metadata-var1",
            "auth/metadata-var2",
            "auth/metadata-var3",
            "auth/basic-cimd",
            "auth/scope-from-www-authenticate",
            "auth/scope-from-scopes-supported",
            "auth/scope-omitted-when-undefined",
            "auth/scope-step-up",
            "auth/scope-retry-limit",
            "auth/token-endpoint-auth-basic",
            "auth/token-endpoint-auth-post",
            "auth/token-endpoint-auth-none",
            "auth/pre-registration",
        ],
    ),
    (
        MODERN,
        &[
            "tools_call",
            "request-metadata",
            "http-standard-headers",
            "http-custom-headers",
            "http-invalid-tool-headers",
            "json-schema-ref-no-deref",
            "json-schema-2020-12-preservation",
            "sep-2322-client-request-state",
            "auth/metadata-default",
            "auth/metadata-var1",
            "auth/metadata-var2",
            "auth/metadata-var3",
            "auth/basic-cimd",
            "auth/scope-from-www-authenticate",
            "auth/scope-from-scopes-supported",
            "auth/scope-omitted-when-undefined",
            "auth/scope-step-up",
            "auth/scope-retry-limit",
            "auth/token-endpoint-auth-basic",
            "auth/token-endpoint-auth-post",
            "auth/token-endpoint-auth-none",
            "auth/pre-registration",
            "auth/resource-mismatch",
            "auth/offline-access-scope",
            "auth/offline-access-not-supported",
            "auth/authorization-server-migration",
            "auth/iss-supported",
            "auth/iss-not-advertised",
            "auth/iss-supported-missing",
            "auth/iss-wrong-issuer",
            "auth/iss-unexpected",
            "auth/iss-normalized",
            "auth/metadata-issuer-mismatch",
        ],
    ),
];

/// How many scenarios are run side by side.
const AT_ONCE: usize = 3;

/// The client-id metadata document that the suite knows.
const DOCUMENT: &str = "https://conformance-test.local/client-metadata.json";

/// How often a person would sign in before giving up.
const MOST_SIGN_INS: usize = 3;

/// How long a driven client may take for everything.
const PATIENCE: Duration = Duration::from_secs(25);

/// Runs the client scenarios of a revision. `program` is this crate's own, which the suite starts.
///
/// # Errors
/// Where one does not run at all.
pub async fn scenarios(revision: &str, program: &Path) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let names = SCENARIOS.iter().find(|(r, _)| *r == revision).map_or(&[][..], |(_, names)| names);
    let driver = driver(program)?;
    // Each has a gateway of its own, and waits most of the time.
    for some in names.chunks(AT_ONCE) {
        let mut running = tokio::task::JoinSet::new();
        for scenario in some {
            let (driver, revision, scenario) = (driver.clone(), revision.to_owned(), (*scenario).to_owned());
            running.spawn(async move {
                let one = suite::client_scenario(&driver, &revision, &scenario).await;
                one.with_context(|| scenario.clone()).map(|one| (scenario, one))
            });
        }
        while let Some(ended) = running.join_next().await {
            let (scenario, one) = ended??;
            found.replace(&scenario, one);
        }
    }
    Ok(found)
}

/// What the suite starts: this program, which is told its parts because the suite keeps the environment.
fn driver(program: &Path) -> anyhow::Result<String> {
    let parts = Parts::get();
    let suite = parts::Parts::get();
    let told = [
        ("PORTCULLIS_TEST_BIN", binary()),
        ("PORTCULLIS_TEST_NODE", parts.node.clone()),
        ("PORTCULLIS_TEST_NODE_BIN", parts.node_bin.clone()),
        ("PORTCULLIS_TEST_VENV", parts.venv.clone()),
        ("PORTCULLIS_TEST_SUITE", suite.suite.clone()),
        ("PORTCULLIS_TEST_SUITE_NODE", suite.suite_node.clone()),
    ];
    let mut words = vec!["env".to_owned()];
    for (name, path) in told {
        let path = path.to_str().context("a path that is no text")?;
        // The suite gives the command to a shell.
        ensure!(!path.contains(['\'', '"', ' ']), "{path} can't be in a command line");
        words.push(format!("{name}={path}"));
    }
    words.push(program.display().to_string());
    words.push("drive".to_owned());
    Ok(words.join(" "))
}

/// Registers a server, and uses it through the gateway with a real client. This is what the suite starts.
///
/// # Errors
/// Where the gateway or the client does not work.
pub async fn drive(url: &str) -> anyhow::Result<()> {
    let scenario = env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    if scenario.starts_with("auth/") {
        return authorize(url, &scenario).await;
    }
    let product = Product::start(&[
        resource("McpServer", "tested", json!({"remote": {"url": url, "allowPrivate": true}})),
        resource("Gateway", "tested", json!({"anonymous": true, "servers": [{"server": "tested", "bareNames": true}]})),
    ])
    .await?;
    let revision = env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").unwrap_or_default();
    let mode = if revision == MODERN { "auto" } else { "legacy" };
    let parts = Parts::get();
    let mut client = Command::new(&parts.node_bin)
        .arg(root().join("tests/conformance/client/drive.mjs"))
        .args([&product.url("tested"), mode])
        .env("PORTCULLIS_TEST_NODE", &parts.node)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let ended = timeout(PATIENCE, client.wait()).await.context("the client does not end")??;
    product.stop().await;
    ensure!(ended.success(), "the client ended with {ended}");
    Ok(())
}

/// Connects a server with OAuth as a person does, and calls it; where it wants more, or its access is over, the person
/// connects it again, a few times.
async fn authorize(url: &str, scenario: &str) -> anyhow::Result<()> {
    let told: Value =
        serde_json::from_str(&env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_default()).unwrap_or_default();
    let oauth = match (scenario, told["client_id"].as_str()) {
        // Our own document would have another address; an operator may keep one elsewhere.
        ("auth/basic-cimd", _) => json!({"clientId": DOCUMENT}),
        (_, Some(id)) => json!({"clientId": id, "clientSecret": {"env": "GIVEN_SECRET"}}),
        _ => json!({}),
    };
    let secret = told["client_secret"].as_str().unwrap_or_default();
    let resources = [
        resource("User", "alice", json!({})),
        resource("McpServer", "tested", json!({"remote": {"url": url}, "credential": {"oauth": oauth}})),
        resource(
            "Gateway",
            "tested",
            json!({"auth": [{"plugin": "bearer-token"}], "servers": [{"server": "tested", "bareNames": true}]}),
        ),
    ];
    let product = Product::start_with(&resources, &[("GIVEN_SECRET", secret)], json!({})).await?;
    let (_, token) = product.token("user:alice")?;
    let mut refusal = String::new();
    for _ in 0..MOST_SIGN_INS {
        if let Err(error) = granting::connect(&product, "tested", "user:alice", "").await {
            // What is not right is refused, which may be what the scenario is about.
            product.stop().await;
            return Err(error);
        }
        let gateway = product.url("tested");
        http::ask(&gateway, Some(&token), "tools/list", json!({})).await?;
        let answer = http::call(&gateway, Some(&token), "test-tool", json!({})).await?.message();
        if answer["result"]["isError"] != json!(true) && answer["error"].is_null() {
            product.stop().await;
            return Ok(());
        }
        refusal = answer.to_string();
    }
    product.stop().await;
    anyhow::bail!("it is refused again and again: {refusal}")
}

/// Every check that failed. There is nothing to compare with: the suite has one right answer.
pub fn failures(found: &Found) -> Vec<Difference> {
    let failed = found.checks.iter().filter(|(_, c)| matches!(&*c.status, "FAILURE" | "WARNING"));
    failed
        .map(|(place, check)| Difference {
            scenario: place.scenario.clone(),
            check: place.check.clone(),
            what: format!("{}: {}", check.status, check.error_message.as_deref().unwrap_or("no message")),
        })
        .collect()
}
