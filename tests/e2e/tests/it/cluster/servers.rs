//! Servers as objects of a real API server: deployed, kept, called, operated and taken away. Nothing runs pods here, so a fake kubelet
//! stands in: it makes a pod's record, whose address is a server of this process.

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use portcullis_e2e::{
    cluster::Cluster,
    echo::Echo,
    eventually, http,
    parts::root,
    product::{Product, resource},
};
use portcullis_test_postgres::{Database, PASSWORD};
use serde_json::{Value, json};

/// The rights of `deploy/kubernetes/servers.yaml`.
pub(super) fn rights() -> Value {
    let role = std::fs::read_to_string(root().join("deploy/kubernetes/servers.yaml")).unwrap();
    serde_saphyr::from_str::<Value>(&role).unwrap()["rules"].take()
}

pub(super) async fn started(cluster: &Cluster, home: &Path, rights: Value, resources: &[Value]) -> Product {
    let kubeconfig = cluster.account("gateway", rights, home).await.unwrap();
    let kubernetes = json!({"kubeconfig": kubeconfig, "namespace": cluster.namespace, "servers": {}});
    let environment = [("CANARY_ALICE", "canary-alice"), ("CANARY_BOB", "canary-bob")];
    Product::start_with(resources, &environment, json!({"kubernetes": kubernetes})).await.unwrap()
}

fn connection(name: &str, owner: &str, variable: &str) -> Value {
    let spec = json!({
        "server": "personal", "owner": {"user": owner}, "secrets": {"token": {"env": variable}}, "ownerOnly": true,
        "values": {"site": format!("$(TOKEN) of {owner}")},
    });
    resource("Connection", name, spec)
}

/// People, a server that all share, one that each has to themselves, and a gateway with both.
fn resources(port: u16) -> Vec<Value> {
    let shared = json!({"kubernetes": {"image": "registry.example/shared:1", "port": port, "path": "/modern"}});
    let personal = json!({
        "kubernetes": {
            "image": "registry.example/team/personal:1", "port": port, "path": "/modern", "args": ["--site=${field.site}"],
            "egress": [{"cidr": "0.0.0.0/0"}],
        },
        "fields": [{"name": "token", "required": true, "sensitive": true}, {"name": "site", "default": "x"}],
        "credential": {"place": [{"field": "token", "env": "TOKEN"}, {"field": "token", "file": "TOKEN_FILE"}]},
    });
    vec![
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("McpServer", "shared", shared),
        resource("McpServer", "personal", personal),
        connection("personal-alice", "alice", "CANARY_ALICE"),
        connection("personal-bob", "bob", "CANARY_BOB"),
        resource("Gateway", "main", json!({"servers": [{"server": "shared"}, {"server": "personal"}]})),
    ]
}

/// The names of a server's objects of a kind, by connection; `-` where all share it.
async fn names<K>(cluster: &Cluster, server: &str) -> BTreeMap<String, String>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let list = ListParams::default().labels(&format!("portcullis.dev/server={server}"));
    let found = cluster.api::<K>().list(&list).await.unwrap();
    let name = |object: K| {
        let connection = object.meta().labels.clone().unwrap_or_default().remove("portcullis.dev/connection");
        (connection.unwrap_or_else(|| "-".to_owned()), object.meta().name.clone().unwrap())
    };
    found.items.into_iter().map(name).collect()
}

async fn deployed(cluster: &Cluster, server: &str, count: usize) -> BTreeMap<String, String> {
    eventually(&format!("{count} deployments of {server}"), || async {
        let found = names::<Deployment>(cluster, server).await;
        (found.len() == count).then_some(found)
    })
    .await
}

/// A FAKE kubelet and a FAKE controller: a pod of a Deployment, at an address of this machine, in this state.
async fn run_pod(cluster: &Cluster, deployment: &str, address: &str, container: Value) {
    let owner = cluster.api::<Deployment>().get(deployment).await.unwrap();
    let template = serde_json::to_value(owner.spec.unwrap().template).unwrap();
    let pod = json!({"metadata": {"name": format!("{deployment}-0"), "labels": template["metadata"]["labels"]}, "spec": template["spec"]});
    let pods = cluster.api::<Pod>();
    if pods.get_opt(&format!("{deployment}-0")).await.unwrap().is_none() {
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    let ready = container["state"]["running"].is_object();
    let condition = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
    let mut one = json!({"name": "server", "ready": ready, "image": "x", "imageID": "x", "restartCount": 0});
    one.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let status = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": condition, "containerStatuses": [one]}});
    pods.patch_status(&format!("{deployment}-0"), &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let ready = i32::from(ready);
    let status = json!({"status": {"observedGeneration": 99, "replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready, "unavailableReplicas": 1 - ready}});
    let deployments = cluster.api::<Deployment>();
    deployments.patch_status(deployment, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

fn running() -> Value {
    json!({"state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
}

fn told(product: &Product, server: &str) -> String {
    let output = product.cli(&["describe", "server", server], "").unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn servers_are_deployed_hardened_kept_and_taken_away() {
    let cluster = Cluster::get().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut product = started(&cluster, home.path(), rights(), &resources(8080)).await;
    let shared = deployed(&cluster, "shared", 1).await["-"].clone();
    let personal = deployed(&cluster, "personal", 2).await;
    let alice = personal["personal-alice"].clone();

    // Hardened, and each with a credential of its own.
    let deployments = cluster.api::<Deployment>();
    let made = serde_json::to_value(deployments.get(&alice).await.unwrap()).unwrap();
    let pod = &made["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!((&pod["enableServiceLinks"], &pod["serviceAccountName"]), (&json!(false), &json!(alice)));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let context = &container["securityContext"];
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        (&context["readOnlyRootFilesystem"], &context["allowPrivilegeEscalation"]),
        (&json!(true), &json!(false))
    );
    assert!(
        container["resources"]["limits"]["memory"].is_string()
            && pod["volumes"][0]["emptyDir"]["sizeLimit"].is_string()
    );
    assert_eq!(container["args"], json!(["--site=$$(TOKEN) of alice"]), "what somebody gave names no variable");
    assert!(!made.to_string().contains("canary"), "{made}");
    let secret = cluster.api::<Secret>().get(&alice).await.unwrap().data.unwrap();
    assert_eq!(
        (secret["env-0"].0.as_slice(), secret["file-0"].0.as_slice()),
        (&b"canary-alice"[..], &b"canary-alice"[..])
    );
    let policy = serde_json::to_value(cluster.api::<NetworkPolicy>().get(&alice).await.unwrap()).unwrap();
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    let except = policy["spec"]["egress"][0]["to"][0]["ipBlock"]["except"].to_string();
    assert!(except.contains("169.254.0.0/16") && except.contains("10.0.0.0/8"), "{policy}");
    let policy = serde_json::to_value(cluster.api::<NetworkPolicy>().get(&shared).await.unwrap()).unwrap();
    assert!(policy["spec"]["egress"].as_array().is_none_or(Vec::is_empty), "{policy}");
    let root = cluster.api::<ServiceAccount>().get(&alice).await.unwrap();
    for owners in [
        &made["metadata"]["ownerReferences"],
        &json!(cluster.api::<Service>().get(&alice).await.unwrap().metadata.owner_references),
    ] {
        assert_eq!(owners[0]["uid"], json!(root.metadata.uid), "it goes with its root");
    }

    // Started again, nothing is another than it was.
    let generations = async || -> BTreeMap<Option<String>, Option<i64>> {
        let all = deployments.list(&ListParams::default()).await.unwrap();
        all.items.into_iter().map(|d| (d.metadata.uid, d.metadata.generation)).collect()
    };
    let before = generations().await;
    product.kill().await;
    product.launch().await.unwrap();
    // A change of one shows that the round has come, and that the others were left alone.
    let mut all = resources(8080);
    all[2]["spec"]["kubernetes"]["image"] = json!("registry.example/shared:2");
    product.write("resources.yaml", &all).unwrap();
    eventually("the image is another", || async {
        let found = deployments.get(&shared).await.unwrap();
        let spec = serde_json::to_value(found.spec).unwrap();
        (spec["template"]["spec"]["containers"][0]["image"] == "registry.example/shared:2").then_some(())
    })
    .await;
    let after = generations().await;
    let same = before.iter().filter(|(uid, generation)| after.get(uid) == Some(generation)).count();
    assert_eq!((before.len(), same), (3, 2), "the others are what they were: {before:?} {after:?}");

    // What somebody changes or deletes is put right.
    let changed = json!({"spec": {"replicas": 5, "template": {"spec": {"automountServiceAccountToken": true}}}});
    deployments.patch(&alice, &PatchParams::default(), &Patch::Merge(&changed)).await.unwrap();
    cluster.api::<Service>().delete(&alice, &DeleteParams::default()).await.unwrap();
    let emptied = json!({"data": {"env-0": "eA=="}});
    cluster.api::<Secret>().patch(&alice, &PatchParams::default(), &Patch::Merge(&emptied)).await.unwrap();
    eventually("it is put right", || async {
        let spec = serde_json::to_value(deployments.get(&alice).await.unwrap().spec).unwrap();
        let data = cluster.api::<Secret>().get(&alice).await.unwrap().data.unwrap();
        let service = cluster.api::<Service>().get_opt(&alice).await.unwrap();
        let right = spec["replicas"] == 1 && spec["template"]["spec"]["automountServiceAccountToken"] == false;
        (right && data["env-0"].0 == b"canary-alice" && service.is_some()).then_some(())
    })
    .await;

    // A changed value starts pods anew, and only hers.
    let mark = async |name: &str| {
        let spec = serde_json::to_value(deployments.get(name).await.unwrap().spec).unwrap();
        spec["template"]["metadata"]["annotations"]["portcullis.dev/values"].clone()
    };
    let (hers, his) = (mark(&alice).await, mark(&personal["personal-bob"]).await);
    assert_ne!(hers, his);
    all[4] = connection("personal-alice", "alice", "CANARY_BOB");
    product.write("resources.yaml", &all).unwrap();
    eventually("her pods start anew", || async { (mark(&alice).await != hers).then_some(()) }).await;
    assert_eq!(mark(&personal["personal-bob"]).await, his);

    // A connection that is gone takes all its objects along; a server that is gone, too.
    all.remove(5);
    all.remove(2);
    all[4] = resource("Gateway", "main", json!({"servers": [{"server": "personal"}]}));
    product.write("resources.yaml", &all).unwrap();
    eventually("what nobody wishes is gone", || async {
        let left = [
            names::<Deployment>(&cluster, "shared").await.len(),
            names::<ServiceAccount>(&cluster, "shared").await.len(),
            names::<NetworkPolicy>(&cluster, "shared").await.len(),
            names::<Service>(&cluster, "shared").await.len(),
            names::<Secret>(&cluster, "personal").await.len(),
            names::<Deployment>(&cluster, "personal").await.len(),
        ];
        (left == [0, 0, 0, 0, 1, 1]).then_some(())
    })
    .await;
    assert!(!product.log().contains("canary-"), "{}", product.log());
    product.stop().await;
}

#[tokio::test]
async fn calls_reach_the_pods_of_the_right_connection() {
    let Some(cluster) = Cluster::without_nodes().await.unwrap() else {
        println!("skipped: this test plays the cluster's node");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let first = Echo::start().await.unwrap();
    let port = first.address.port();
    let second = Echo::start_at(([127, 0, 0, 2], port).into()).await.unwrap();
    let third = Echo::start_at(([127, 0, 0, 3], port).into()).await.unwrap();
    let product = started(&cluster, home.path(), rights(), &resources(port)).await;
    let shared = deployed(&cluster, "shared", 1).await["-"].clone();
    let personal = deployed(&cluster, "personal", 2).await;
    let (_, alice) = product.token("user:alice").unwrap();
    let (_, bob) = product.token("user:bob").unwrap();
    let url = product.url("main");

    // A call that comes while the pods come up waits for them.
    let early = tokio::spawn({
        let (url, alice) = (url.clone(), alice.clone());
        async move { http::call(&url, Some(&alice), "shared__whoami", json!({})).await.unwrap() }
    });
    run_pod(&cluster, &shared, "127.0.0.1", running()).await;
    let early = early.await.unwrap();
    assert_eq!(early.status.as_u16(), 200, "{}", early.text());
    assert!(first.seen().iter().any(|seen| seen.method == "tools/call"), "{}", early.text());
    run_pod(&cluster, &personal["personal-alice"], "127.0.0.2", running()).await;
    run_pod(&cluster, &personal["personal-bob"], "127.0.0.3", running()).await;
    for (token, echo, other) in [(&alice, &second, &third), (&bob, &third, &second)] {
        let before = other.seen().iter().filter(|seen| seen.method == "tools/call").count();
        eventually("the call is answered", || async {
            let answer = http::call(&url, Some(token), "personal__whoami", json!({})).await.unwrap();
            let answered = echo.seen().iter().any(|seen| seen.method == "tools/call");
            (answer.status.as_u16() == 200 && answered).then_some(())
        })
        .await;
        let after = other.seen().iter().filter(|seen| seen.method == "tools/call").count();
        assert_eq!(before, after, "the other's pod heard nothing");
    }
    assert!(told(&product, "shared").contains("1 of 1 pods can be called"), "{}", told(&product, "shared"));

    // What is wrong is said in words, and calls fail at once.
    let waiting = json!({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"registry.example/shared:1\""}}});
    run_pod(&cluster, &shared, "127.0.0.1", waiting).await;
    eventually("the trouble is told", || async {
        let told = told(&product, "shared");
        (told.contains("ImageNotPulled") && told.contains("imagePullSecrets")).then_some(())
    })
    .await;
    drop(first);
    eventually("a call is told so", || async {
        let answer = http::call(&url, Some(&alice), "shared__whoami", json!({})).await.unwrap().text();
        answer.contains("its pods do not come up (ImageNotPulled)").then_some(())
    })
    .await;
    // The last words of a container hold no secret.
    let crash = json!({
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "message": "bad token canary-alice\n"}},
    });
    run_pod(&cluster, &personal["personal-alice"], "127.0.0.2", crash).await;
    eventually("the crash is told", || async {
        let told = told(&product, "personal");
        assert!(!told.contains("canary-"), "{told}");
        told.contains("with status 3; its last words: bad token [..]").then_some(())
    })
    .await;

    // Operated, by the CLI: stopped, started, scaled, restarted; a definition stays as it is.
    let spec = async || serde_json::to_value(cluster.api::<Deployment>().get(&shared).await.unwrap().spec).unwrap();
    let replicas = async |count: u64| {
        eventually(&format!("{count} replicas"), || async { (spec().await["replicas"] == count).then_some(()) }).await;
    };
    product.ask(&["stop", "shared"], "").unwrap();
    replicas(0).await;
    eventually("it is told", || async { told(&product, "shared").contains("Stopped").then_some(()) }).await;
    product.ask(&["start", "shared"], "").unwrap();
    replicas(1).await;
    product.ask(&["scale", "shared", "3"], "").unwrap();
    replicas(3).await;
    product.ask(&["scale", "shared", "--as-written"], "").unwrap();
    replicas(1).await;
    product.ask(&["restart", "shared"], "").unwrap();
    eventually("new pods are made", || async {
        spec().await["template"]["metadata"]["annotations"]["portcullis.dev/restarted"].is_string().then_some(())
    })
    .await;
    for args in [&["scale", "shared", "101"][..], &["scale", "nobody", "1"], &["restart", "nobody"]] {
        assert!(!product.cli(args, "").unwrap().status.success(), "{args:?}");
    }
    product.stop().await;
}

#[tokio::test]
async fn a_missing_right_is_named_and_a_bad_override_is_refused() {
    let cluster = Cluster::get().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let mut less = rights();
    less.as_array_mut().unwrap().retain(|rule| rule["apiGroups"] != json!(["networking.k8s.io"]));
    let networking =
        json!({"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]});
    less.as_array_mut().unwrap().push(networking);
    let product = started(&cluster, home.path(), less, &resources(8080)).await;
    let named = "may not patch networkpolicies.networking.k8s.io in the namespace";
    eventually("the right is named", || async {
        let doctor = String::from_utf8_lossy(&product.cli(&["doctor"], "").unwrap().stdout).into_owned();
        (told(&product, "shared").contains(named) && doctor.contains(named)).then_some(())
    })
    .await;
    assert!(names::<Deployment>(&cluster, "shared").await.is_empty(), "no pod before its policy");
    cluster.grant("gateway", rights()).await.unwrap();
    deployed(&cluster, "shared", 1).await;

    // What it becomes, before it is: with its override, and asked of the cluster.
    let mut server = resources(8080)[2].clone();
    server["metadata"]["name"] = json!("other");
    let sidecar = json!({"name": "proxy", "image": "registry.example/proxy:1"});
    server["spec"]["kubernetes"]["override"] =
        json!({"spec": {"template": {"spec": {"priorityClassName": "system-node-critical", "containers": [sidecar]}}}});
    let file = home.path().join("other.json");
    let render = |server: &Value, check: bool| {
        std::fs::write(&file, server.to_string()).unwrap();
        let mut args = vec!["render", "-f", file.to_str().unwrap(), "-o", "json"];
        args.extend(check.then_some("--check"));
        product.cli(&args, "").unwrap()
    };
    let rendered = render(&server, false);
    let rendered: Value = serde_json::from_slice(&rendered.stdout).unwrap();
    let kinds: Vec<&str> = rendered["objects"].as_array().unwrap().iter().filter_map(|o| o["kind"].as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "NetworkPolicy", "Service", "Deployment"]);
    let pod = &rendered["objects"][3]["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][1]["securityContext"]["readOnlyRootFilesystem"], true, "{pod}");
    let checked = render(&server, true);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    server["spec"]["kubernetes"]["override"] = json!({"spec": {"template": {"spec": {"dnsPolicy": "Nope"}}}});
    let checked = render(&server, true);
    assert!(String::from_utf8_lossy(&checked.stderr).contains("dnsPolicy"), "the cluster's own words");
    server["spec"]["kubernetes"]["override"] =
        json!({"spec": {"template": {"spec": {"hostNetwork": true, "serviceAccountName": "admin"}}}});
    let refused = String::from_utf8_lossy(&render(&server, false).stderr).into_owned();
    for name in ["spec.template.spec.hostNetwork is protected", "spec.template.spec.serviceAccountName is protected"] {
        assert!(refused.contains(name), "{refused}");
    }
    let personal = product.ask(&["render", "personal", "--connection", "personal-alice"], "").unwrap();
    assert!(!personal.to_string().contains("canary") && personal.to_string().contains("env-0"), "{personal}");
    // Such a one that is applied keeps what ran before.
    let mut all = resources(8080);
    all[2]["spec"]["kubernetes"]["override"] = json!({"spec": {"selector": null}});
    product.write("resources.yaml", &all).unwrap();
    eventually("it is told", || async {
        told(&product, "shared").contains("spec.selector is protected").then_some(())
    })
    .await;
    assert_eq!(names::<Deployment>(&cluster, "shared").await.len(), 1);
    product.stop().await;
}

#[tokio::test]
async fn custom_resources_are_enough_and_may_not_relax() {
    let cluster = Cluster::get().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    cluster.define().await.unwrap();
    let mut all = rights();
    let door = json!([
        {"apiGroups": ["portcullis.dev"], "resources": ["*"], "verbs": ["list", "watch"]},
        {"apiGroups": ["portcullis.dev"], "resources": ["*/status"], "verbs": ["patch"]},
    ]);
    all.as_array_mut().unwrap().extend(door.as_array().unwrap().clone());
    let kubeconfig = cluster.account("gateway", all, home.path()).await.unwrap();
    cluster.let_ask("gateway").await.unwrap();
    let resources = json!([{"namespace": cluster.namespace, "tenant": "default"}]);
    let settings = json!({"kubernetes": {"kubeconfig": kubeconfig, "namespace": cluster.namespace, "servers": {}, "resources": resources}});
    let product = Product::start_with(&[], &[], settings).await.unwrap();
    let plain = resource("McpServer", "plain", json!({"kubernetes": {"image": "registry.example/plain:1"}}));
    cluster.apply(&plain).await.unwrap();
    assert_eq!(cluster.accepted(&plain).await["status"], "True");
    deployed(&cluster, "plain", 1).await;
    let relaxed = resource(
        "McpServer",
        "root",
        json!({"kubernetes": {"image": "a", "relax": {"rootUser": true}, "runAsUser": 0}}),
    );
    cluster.apply(&relaxed).await.unwrap();
    let accepted = cluster.accepted(&relaxed).await;
    assert_eq!(accepted["reason"], "NotAllowed", "{accepted}");
    assert!(accepted["message"].as_str().unwrap().contains("spec.kubernetes.relax"), "{accepted}");
    cluster.customs_of(&plain).delete("plain", &DeleteParams::default()).await.unwrap();
    deployed(&cluster, "plain", 0).await;
    let api: Api<Deployment> = cluster.api();
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
    product.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_gateways_one_keeps_them_and_the_other_takes_over() {
    let Some(database) = Database::shared().await.unwrap() else {
        assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
        println!("skipped: PostgreSQL is not installed (cargo xtask setup)");
        return;
    };
    let Some(cluster) = Cluster::without_nodes().await.unwrap() else {
        println!("skipped: this test plays the cluster's node");
        return;
    };
    let echo = Echo::start().await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = cluster.account("gateway", rights(), home.path()).await.unwrap();
    let settings = json!({
        "kubernetes": {"kubeconfig": kubeconfig, "namespace": cluster.namespace, "servers": {}},
        "store": {"url": database.url(), "password": {"env": "STORE_PASSWORD"}},
        "sealingKey": {"env": "SEALING_KEY"},
    });
    let environment = [("STORE_PASSWORD", PASSWORD), ("SEALING_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")];
    let server =
        json!({"kubernetes": {"image": "registry.example/shared:1", "port": echo.address.port(), "path": "/modern"}});
    let all = [
        resource("User", "alice", json!({})),
        resource("McpServer", "shared", server),
        resource("Gateway", "main", json!({"servers": [{"server": "shared"}]})),
    ];
    let mut first = Product::start_with(&all, &environment, settings.clone()).await.unwrap();
    let shared = deployed(&cluster, "shared", 1).await["-"].clone();
    let second = Product::start_with(&[], &environment, settings).await.unwrap();
    run_pod(&cluster, &shared, "127.0.0.1", running()).await;
    let (_, alice) = second.token("user:alice").unwrap();
    for gateway in [&first, &second] {
        eventually("both reach the pod", || async {
            let answer = http::call(&gateway.url("main"), Some(&alice), "shared__whoami", json!({})).await.unwrap();
            (answer.status.as_u16() == 200).then_some(())
        })
        .await;
    }
    let keeps = "this gateway keeps the servers in the cluster";
    assert!(first.log().contains(keeps) && !second.log().contains(keeps), "one of them applies");
    first.kill().await;
    cluster.api::<Service>().delete(&shared, &DeleteParams::default()).await.unwrap();
    let until = tokio::time::Instant::now() + 3 * portcullis_e2e::PATIENCE;
    while cluster.api::<Service>().get_opt(&shared).await.unwrap().is_none() {
        assert!(tokio::time::Instant::now() < until, "the other does not take over:\n{}", second.log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(second.log().contains(keeps));
    second.stop().await;
}
