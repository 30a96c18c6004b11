//! Servers in real pods, where the machine can run any: started, called, seen to fail, read, stopped.
//!
//! The image holds one static busybox; the server is a script that its small web server runs for each request.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::ListParams;
use portcullis_e2e::{
    cluster::Cluster,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::servers::{rights, started};

/// An MCP server of the revision 2026-07-28 with one tool, which tells the pod's token and name.
const SERVER: &str = r#"
/busybox mkdir -p /tmp/www/cgi-bin
/busybox cat > /tmp/www/cgi-bin/mcp <<'END'
#!/busybox sh
body=$(/busybox head -c "$CONTENT_LENGTH")
id=$(echo "$body" | /busybox grep -o '"id": *\("[^"]*"\|[0-9]*\)' | /busybox head -n 1 | /busybox sed 's/"id": *//')
more='"resultType":"complete","ttlMs":60000,"cacheScope":"private"'
case "$body" in
  *'"server/discover"'*) result='"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},'$more ;;
  *'"tools/list"'*) result='"tools":[{"name":"whoami","inputSchema":{"type":"object"}}],'$more ;;
  *) result='"content":[{"type":"text","text":"'$(/busybox cat "${TOKEN_FILE:-/dev/null}")' on '$(/busybox hostname)'"}],"resultType":"complete"' ;;
esac
printf 'Content-Type: application/json\r\n\r\n{"jsonrpc":"2.0","id":%s,"result":{%s}}' "$id" "$result"
END
/busybox chmod +x /tmp/www/cgi-bin/mcp
echo "serving with $TOKEN"
exec /busybox httpd -f -p 8080 -h /tmp/www
"#;

fn resources(image: &str) -> Vec<Value> {
    let kubernetes = |script: &str, more: Value| {
        let mut spec = json!({
            "image": image, "command": ["/busybox", "sh", "-c", script], "path": "/cgi-bin/mcp", "stopGrace": "1s",
            "override": {"spec": {"template": {"spec": {"containers": [{"name": "server", "imagePullPolicy": "IfNotPresent"}]}}}},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"kubernetes": spec})
    };
    let mut personal = kubernetes(SERVER, json!({}));
    personal["fields"] = json!([{"name": "token", "required": true, "sensitive": true}]);
    personal["credential"] =
        json!({"place": [{"field": "token", "env": "TOKEN"}, {"field": "token", "file": "TOKEN_FILE"}]});
    let connection = |name: &str, owner: &str, variable: &str| {
        let secrets = json!({"token": {"env": variable}});
        resource(
            "Connection",
            name,
            json!({"server": "personal", "owner": {"user": owner}, "secrets": secrets, "ownerOnly": true}),
        )
    };
    let servers = ["shared", "personal", "crash", "missing", "greedy", "silent"].map(|name| json!({"server": name}));
    let memory = json!({"resources": {"limits": {"memory": "16Mi"}, "requests": {"memory": "16Mi"}}});
    let greedy = "exec /busybox dd if=/dev/zero of=/dev/null bs=200M count=100";
    vec![
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("McpServer", "shared", kubernetes(SERVER, json!({"replicas": 2}))),
        resource("McpServer", "personal", personal),
        resource("McpServer", "crash", kubernetes("echo no license here; exit 3", json!({}))),
        resource("McpServer", "missing", json!({"kubernetes": {"image": "127.0.0.1:1/nothing:1"}})),
        resource("McpServer", "greedy", kubernetes(greedy, memory)),
        resource("McpServer", "silent", kubernetes("exec /busybox sleep 1000", json!({"startTimeout": "4s"}))),
        connection("personal-alice", "alice", "CANARY_ALICE"),
        connection("personal-bob", "bob", "CANARY_BOB"),
        resource("Gateway", "main", json!({"servers": servers})),
    ]
}

fn told(product: &Product, server: &str) -> String {
    String::from_utf8_lossy(&product.cli(&["describe", "server", server], "").unwrap().stdout).into_owned()
}

/// What the cluster tells of its pods, for a test that fails.
async fn seen(cluster: &Cluster) -> String {
    let events = cluster.api::<k8s_openapi::api::core::v1::Event>().list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|e| e.message).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn servers_run_in_pods_of_their_own() {
    let (cluster, image) = match Cluster::with_pods().await {
        Ok(found) => found,
        Err(why) => {
            println!("skipped: {why:#}");
            return;
        }
    };
    let home = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    let product = started(&cluster, home.path(), rights(), &resources(image)).await;
    let url = product.url("main");
    let (_, alice) = product.token("user:alice").unwrap();
    let (_, bob) = product.token("user:bob").unwrap();
    let call = async |token: &str, tool: &str| http::call(&url, Some(token), tool, json!({})).await.unwrap();
    let answered = async |token: &str, tool: &str| {
        let until = tokio::time::Instant::now() + 3 * portcullis_e2e::PATIENCE;
        loop {
            let answer = call(token, tool).await;
            if answer.status.as_u16() == 200 && answer.text().contains(" on mcp-") {
                return answer.text();
            }
            let server = tool.split("__").next().unwrap();
            assert!(
                tokio::time::Instant::now() < until,
                "{}\n{}\n{}",
                answer.text(),
                told(&product, server),
                seen(&cluster).await
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    answered(&alice, "shared__whoami").await;
    println!("apply to first answered call: {:?}", begun.elapsed());

    // Each has a pod and a credential of their own.
    let (hers, his) = (answered(&alice, "personal__whoami").await, answered(&bob, "personal__whoami").await);
    assert!(hers.contains("canary-alice on mcp-personal-personal-alice-"), "{hers}");
    assert!(his.contains("canary-bob on mcp-personal-personal-bob-"), "{his}");

    // What goes wrong is said in words.
    for (server, words) in [
        ("crash", "with status 3; its last words: no license here"),
        ("missing", "the image can't be pulled"),
        ("greedy", "more memory than it may"),
        ("silent", "ProbeFailing"),
    ] {
        let until = tokio::time::Instant::now() + 5 * portcullis_e2e::PATIENCE;
        while !told(&product, server).contains(words) {
            assert!(
                tokio::time::Instant::now() < until,
                "{server}: {}\n{}",
                told(&product, server),
                seen(&cluster).await
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    let refused = call(&alice, "crash__anything").await.text();
    assert!(!refused.contains("no license here"), "its words are for operators: {refused}");

    // Logs, and what a container before said.
    let log = |args: &[&str]| String::from_utf8_lossy(&product.cli(args, "").unwrap().stdout).into_owned();
    let personal = log(&["logs", "personal"]);
    assert_eq!(personal.matches("serving with [..]").count(), 2, "{personal}");
    eventually("the log of the container before", || async {
        log(&["logs", "crash", "--previous"]).contains("no license here").then_some(())
    })
    .await;

    // Restarted under calls: none fails.
    let pods = async || -> Vec<String> {
        let list = ListParams::default().labels("portcullis.dev/server=shared");
        let found = cluster.api::<Pod>().list(&list).await.unwrap().items;
        let live = found.into_iter().filter(|p| p.metadata.deletion_timestamp.is_none());
        live.filter_map(|p| p.metadata.name).collect()
    };
    let before = pods().await;
    product.ask(&["restart", "shared"], "").unwrap();
    let (mut calls, mut failed) = (0, Vec::new());
    let until = tokio::time::Instant::now() + 3 * portcullis_e2e::PATIENCE;
    loop {
        let answer = call(&alice, "shared__whoami").await;
        calls += 1;
        if !answer.text().contains(" on mcp-") {
            failed.push(answer.text());
        }
        let now = pods().await;
        if now.len() == 2 && now.iter().all(|pod| !before.contains(pod)) {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{now:?}");
    }
    println!("calls during a restart: {calls}, failed: {}", failed.len());
    assert!(failed.is_empty(), "{failed:?}");

    // Stopped, and started again.
    product.ask(&["stop", "shared"], "").unwrap();
    eventually("its pods are gone", || async { pods().await.is_empty().then_some(()) }).await;
    eventually("calls are told so", || async {
        call(&alice, "shared__whoami").await.text().contains("an operator stopped it").then_some(())
    })
    .await;
    product.ask(&["start", "shared"], "").unwrap();
    answered(&alice, "shared__whoami").await;

    // Gone with its definition.
    product.write("resources.yaml", &resources(image)[..2]).unwrap();
    let deployments = cluster.api::<Deployment>();
    let until = tokio::time::Instant::now() + 6 * portcullis_e2e::PATIENCE;
    loop {
        let left = deployments.list(&ListParams::default()).await.unwrap().items.len();
        let pods = cluster.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
        if left + pods.len() == 0 {
            break;
        }
        let pods: Vec<_> = pods.iter().map(|pod| (&pod.metadata.name, &pod.metadata.deletion_timestamp)).collect();
        assert!(tokio::time::Instant::now() < until, "{left} deployments, {pods:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(!product.log().contains("canary-"), "{}", product.log());
    product.stop().await;
}
