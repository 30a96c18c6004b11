//! `helm install` on a real cluster: two gateways in pods on one PostgreSQL, of which one is killed, replaced and upgraded while clients call.

use std::{
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use portcullis_e2e::{
    cluster::{Cluster, Cut, Node, secret},
    driver::{Driver, Sdk, text},
    echo::Echo,
    helm::{Helm, chart},
    http,
    nginx::{Nginx, free_port},
    parts::binary,
    product::resource,
};
use portcullis_test_postgres::{Database, PASSWORD};
use serde_json::{Value, json};

const IMAGE: &str = "portcullis.test/portcullis";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Each new pod compiles its plugins anew, by a debug build, on a machine that others use.
const LONG: Duration = Duration::from_secs(240);

/// Asks until it holds, for longer than [`portcullis_e2e::eventually`].
async fn in_time<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let until = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The gateways' pods that can be called.
async fn ready(cluster: &Cluster) -> Vec<Pod> {
    let list = ListParams::default().labels("app.kubernetes.io/name=portcullis");
    let found = cluster.api::<Pod>().list(&list).await.unwrap().items;
    let is = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        let ready = conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        ready && pod.metadata.deletion_timestamp.is_none()
    };
    found.into_iter().filter(is).collect()
}

/// Two of them, none of which is among those.
async fn two_without(cluster: &Cluster, but: &[&Pod]) -> Vec<Pod> {
    in_time("two gateways are ready", async || {
        let ready = ready(cluster).await;
        let new = ready.iter().all(|pod| but.iter().all(|old| old.metadata.uid != pod.metadata.uid));
        (ready.len() == 2 && new).then_some(ready)
    })
    .await
}

/// Runs a verb of the CLI in a pod.
fn cli(node: &Node, pod: &Pod, arguments: &[&str]) -> Output {
    node.exec(pod, &[&["/usr/local/bin/portcullis"], arguments].concat()).unwrap()
}

/// A new token: its id and its text.
fn token(node: &Node, pod: &Pod) -> (String, String) {
    let output = cli(node, pod, &["token", "create", "--owner", "user:alice", "--name", "test", "-o", "json"]);
    let made: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

/// One call of a client.
#[derive(Debug)]
struct Call {
    begun: Instant,
    failed: Option<String>,
}

/// Clients that call without a pause, each call on a connection of its own.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Call>>>,
}

impl Load {
    fn start(url: &str, token: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let one = |stop: Arc<AtomicBool>, url: String, token: String| async move {
            let mut calls = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let call = http::call(&url, Some(&token), "echo__whoami", json!({}));
                let failed = match tokio::time::timeout(Duration::from_secs(30), call).await {
                    Err(_) => Some("no answer".to_owned()),
                    Ok(Err(error)) => Some(format!("{error:#}")),
                    Ok(Ok(reply)) if reply.status == 200 && reply.text().contains("\"isError\":false") => None,
                    Ok(Ok(reply)) => Some(format!("{} {}", reply.status, reply.text())),
                };
                calls.push(Call { begun, failed });
            }
            calls
        };
        let tasks = (0..6).map(|_| tokio::spawn(one(Arc::clone(&stop), url.to_owned(), token.to_owned()))).collect();
        Self { stop, tasks }
    }

    /// Ends it. Nothing that began after `at` may have failed; answers how many calls there were and how many failed.
    #[allow(clippy::print_stdout, reason = "the figures are what it is for")]
    async fn end(self, what: &str, at: Instant) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        let failed: Vec<&Call> = all.iter().filter(|call| call.failed.is_some()).collect();
        println!("{what}: {} calls, {} failed", all.len(), failed.len());
        for call in &failed {
            assert!(call.begun <= at, "{what}: a call that began {:?} later failed: {call:?}", call.begun - at);
        }
        assert!(all.iter().filter(|call| call.begun > at).count() > 20, "{what}: nobody called afterwards");
        (all.len(), failed.len())
    }
}

/// The client's tool, by a real client.
async fn called(driver: &mut Driver) -> anyhow::Result<bool> {
    Ok(text(&driver.call("echo__whoami", json!({})).await?).contains("authorization"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_in_pods_outlive_one_of_them_and_an_upgrade() {
    let (cluster, busybox) = match Cluster::with_pods().await {
        Ok(found) => found,
        Err(why) => {
            println!("skipped: {why:#}");
            return;
        }
    };
    let Some(node) = Node::of(&cluster).await.unwrap() else {
        println!("skipped: an image has to be put on the nodes of that cluster");
        return;
    };
    let Some(database) = Database::shared().await.unwrap() else {
        println!("skipped: PostgreSQL is not installed (cargo xtask setup)");
        return;
    };
    node.load(&format!("{IMAGE}:1"), &binary()).unwrap();
    cluster.define().await.unwrap();
    let echo = Echo::start_at((node.address, 0).into()).await.unwrap();
    let way = Cut::between((node.address, 0).into(), format!("127.0.0.1:{}", database.server.port())).await.unwrap();
    for made in [secret("key", &[("sealing.key", KEY)]), secret("database", &[("password", PASSWORD)])] {
        cluster.api().create(&PostParams::default(), &made).await.unwrap();
    }
    let own = cluster.namespace.clone();
    let servers = format!("{own}-servers");
    let helm = Helm::of(&cluster.admin().unwrap()).unwrap();
    let values = helm
        .values(
            "values.yaml",
            &json!({
                "image": {"repository": IMAGE, "tag": "1"},
                "replicas": 2,
                "sealingKey": {"existingSecret": "key"},
                "store": {
                    "url": format!("postgres://portcullis@{}/{}?sslmode=disable", way.address(), database.name),
                    "passwordSecret": "database",
                },
                "persistence": {"enabled": false},
                "kubernetes": {
                    "resources": [{"namespace": own, "tenant": "default"}],
                    "servers": {"enabled": true, "namespace": servers},
                },
                // The cluster's, which other tests have put there.
                "crds": {"install": false},
                "drainDelaySeconds": 5,
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
            }),
        )
        .unwrap();
    let chart = chart().display().to_string();
    let begun = Instant::now();
    helm.ask(&["install", "portcullis", &chart, "-n", &own, "-f", &values]).unwrap();
    let first = two_without(&cluster, &[]).await;
    println!("helm install to two ready gateways: {:?}", begun.elapsed());

    // What they serve comes by the cluster alone.
    let all = [
        resource("User", "alice", json!({})),
        resource(
            "McpServer",
            "echo",
            json!({"remote": {"url": echo.url("modern"), "allowPrivate": true, "allowInsecure": true}}),
        ),
        resource("Gateway", "main", json!({"servers": [{"server": "echo"}]})),
        resource(
            "McpServer",
            "pod",
            json!({"kubernetes": {"image": busybox, "command": ["/busybox", "sleep", "10000"], "stopGrace": "1s"}}),
        ),
        resource("Gateway", "pods", json!({"servers": [{"server": "pod"}]})),
    ];
    for wanted in &all {
        cluster.apply(wanted).await.unwrap();
    }
    for wanted in &all {
        let accepted = cluster.accepted(wanted).await;
        assert_eq!(accepted["status"], "True", "{}: {accepted}", wanted["metadata"]["name"]);
    }
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), &servers);
    in_time("a server is deployed", async || {
        (deployments.list(&ListParams::default()).await.unwrap().items.len() == 1).then_some(())
    })
    .await;

    // A real client, by the Service.
    let service = cluster.api::<Service>().get("portcullis").await.unwrap().spec.unwrap();
    let service = service.cluster_ip.unwrap();
    let url = format!("http://{service}/mcp/main");
    let (_, alice) = token(&node, &first[0]);
    in_time("both know the token", async || {
        for pod in &first {
            let address = pod.status.as_ref()?.pod_ip.clone()?;
            let url = format!("http://{address}:7777/mcp/main");
            let reply = http::call(&url, Some(&alice), "echo__whoami", json!({})).await.ok()?;
            (reply.status == 200).then_some(())?;
        }
        Some(())
    })
    .await;
    let mut python = Driver::connect(Sdk::Python, &url, Some(&alice), "auto").await.unwrap();
    let mut script = Driver::connect(Sdk::Node, &url, Some(&alice), "auto").await.unwrap();
    assert!(called(&mut python).await.unwrap() && called(&mut script).await.unwrap());

    // What an ingress controller does and kube-proxy does not: where a pod refuses a connection, the next one is tried.
    let port = free_port().unwrap();
    let _ingress = Nginx::before(port, format!("{service}:80").parse().unwrap()).await.unwrap();
    let url = format!("http://127.0.0.1:{port}/mcp/main");
    let mut python = Driver::connect(Sdk::Python, &url, Some(&alice), "auto").await.unwrap();
    let mut script = Driver::connect(Sdk::Node, &url, Some(&alice), "auto").await.unwrap();
    assert!(called(&mut python).await.unwrap() && called(&mut script).await.unwrap());

    // A token that is revoked at one fails at the other.
    let other = format!("http://{}:7777/mcp/main", first[1].status.as_ref().unwrap().pod_ip.as_ref().unwrap());
    let (id, lost) = token(&node, &first[0]);
    let status =
        async |token: &str| http::call(&other, Some(token), "echo__whoami", json!({})).await.unwrap().status.as_u16();
    // Asked for, and not tried: a credential that was refused is refused for some seconds more.
    in_time("the other knows it", async || {
        let listed = cli(&node, &first[1], &["token", "list", "-o", "json"]).stdout;
        String::from_utf8_lossy(&listed).contains(&id).then_some(())
    })
    .await;
    assert_eq!(status(&lost).await, 200);
    assert!(cli(&node, &first[0], &["token", "revoke", &id]).status.success());
    let revoked = Instant::now();
    while status(&lost).await != 401 {
        assert!(revoked.elapsed() < Duration::from_secs(1), "a revocation is not known within a second");
    }
    println!("a revocation was known to the other after {:?}", revoked.elapsed());

    // Deleted without waiting: `kubectl delete pod --grace-period=0 --force`.
    let load = Load::start(&url, &alice);
    let force = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.api::<Pod>().delete(first[0].metadata.name.as_ref().unwrap(), &force).await.unwrap();
    let killed = Instant::now();
    let second = two_without(&cluster, &[&first[0]]).await;
    load.end("a pod deleted by force", killed).await;
    assert!(called(&mut python).await.unwrap() && called(&mut script).await.unwrap(), "clients go on");

    // Killed: the container's process is gone from one moment to the next.
    let load = Load::start(&url, &alice);
    let victim = &second[0];
    let processes = node.processes(victim);
    let pid = processes.iter().find(|(_, command)| command.contains("portcullis serve")).map(|(pid, _)| *pid);
    let pid = pid.unwrap_or_else(|| panic!("{processes:?}"));
    let restarts = |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
    let before = restarts(victim);
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Until its memory is given back its sockets go on taking calls: those are lost with it.
    in_time("its process is gone", async || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    })
    .await;
    let killed = Instant::now();
    in_time("it is started anew", async || {
        let pods = ready(&cluster).await;
        let again = pods.iter().any(|pod| pod.metadata.uid == victim.metadata.uid && restarts(pod) > before);
        (pods.len() == 2 && again).then_some(())
    })
    .await;
    println!("kill -9 to ready again: {:?}", killed.elapsed());
    load.end("kill -9", killed).await;
    assert!(called(&mut python).await.unwrap() && called(&mut script).await.unwrap(), "clients go on");

    // Upgraded under load: no call fails at all.
    let load = Load::start(&url, &alice);
    let begun = Instant::now();
    helm.ask(&["upgrade", "portcullis", &chart, "-n", &own, "-f", &values, "--set", "podAnnotations.upgraded=yes"])
        .unwrap();
    let third = two_without(&cluster, &second.iter().collect::<Vec<_>>()).await;
    in_time("the old ones are gone", async || {
        let list = ListParams::default().labels("app.kubernetes.io/name=portcullis");
        (cluster.api::<Pod>().list(&list).await.unwrap().items.len() == 2).then_some(())
    })
    .await;
    let (_, failed) = load.end("helm upgrade", begun).await;
    println!("helm upgrade to two new gateways: {:?}", begun.elapsed());
    assert_eq!(failed, 0);
    assert!(called(&mut python).await.unwrap() && called(&mut script).await.unwrap(), "clients go on");
    assert_eq!(third.len(), 2);

    // Gone, with every server.
    helm.ask(&["uninstall", "portcullis", "-n", &own]).unwrap();
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    in_time("the namespace of the servers is gone", async || {
        namespaces.get_opt(&servers).await.unwrap().is_none().then_some(())
    })
    .await;
    let list = ListParams::default().labels("app.kubernetes.io/instance=portcullis");
    in_time("the gateways are gone", async || {
        cluster.api::<Pod>().list(&list).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    let mut left = Vec::new();
    macro_rules! left {
        ($api:expr, $($kind:ty),*) => {$(
            let api: Api<$kind> = $api;
            left.extend(api.list(&list).await.unwrap().items.into_iter().filter_map(|o| o.metadata.name));
        )*};
    }
    left!(cluster.api(), Deployment, Service, ConfigMap, ServiceAccount, NetworkPolicy, Role, RoleBinding);
    let bound: Vec<String> = {
        let roles: Api<ClusterRole> = Api::all(cluster.client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
        let names = |name: Option<String>| name.filter(|name| name.starts_with(&format!("{own}-portcullis")));
        let mut found: Vec<String> =
            roles.list(&list).await.unwrap().items.into_iter().filter_map(|o| names(o.metadata.name)).collect();
        found.extend(bindings.list(&list).await.unwrap().items.into_iter().filter_map(|o| names(o.metadata.name)));
        found
    };
    assert!(left.is_empty() && bound.is_empty(), "{left:?} {bound:?}");
}
