//! The chart by the real `helm`: what it refuses, what it makes, and whether an API server would take each object of it.

use std::{fs, process::Command};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use portcullis_e2e::{
    cluster::Cluster,
    helm::{Helm, chart, documents},
    parts::{binary, root},
};
use serde_json::{Value, json};

/// The values that the chart brings for tests.
const CASES: [&str; 3] = ["one", "replicas", "cluster"];

fn case(name: &str) -> String {
    chart().join(format!("ci/{name}-values.yaml")).display().to_string()
}

/// The objects of a kind.
pub(super) fn of<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// Where objects of this kind are in the cluster. Asked once a kind.
async fn api(cluster: &Cluster, object: &Value) -> Api<DynamicObject> {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    let known = match group {
        "" => cluster.client.list_core_api_resources(short).await,
        _ => cluster.client.list_api_group_resources(version).await,
    };
    let known = known.unwrap_or_else(|e| panic!("{version}: {e}")).resources;
    let known: &APIResource = known.iter().find(|r| r.kind == kind && !r.name.contains('/')).unwrap();
    let resource = ApiResource {
        group: group.to_owned(),
        version: short.to_owned(),
        api_version: version.to_owned(),
        kind: kind.to_owned(),
        plural: known.name.clone(),
    };
    let namespace = object["metadata"]["namespace"].as_str();
    match (known.namespaced, namespace) {
        (false, _) => Api::all_with(cluster.client.clone(), &resource),
        (true, Some(namespace)) => Api::namespaced_with(cluster.client.clone(), namespace, &resource),
        (true, None) => panic!("{kind} {} has no namespace", object["metadata"]["name"]),
    }
}

/// Applies an object, or only has the API server say whether it would take it.
pub(super) async fn apply(cluster: &Cluster, object: &Value, dry: bool) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams { dry_run: dry, ..PatchParams::apply("tests").force() };
    let done = api(cluster, object).await.patch(name, &params, &Patch::Apply(object)).await;
    done.unwrap_or_else(|e| panic!("{} {name}: {e}\n{object}", object["kind"]));
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let helm = Helm::alone().unwrap();
    let (chart, one) = (chart().display().to_string(), case("one"));
    for (setting, words) in [
        ("replicas=2", "several replicas need a PostgreSQL that they share: set store.url"),
        ("autoscaling.enabled=true", "several replicas need a PostgreSQL"),
        ("sealingKey.existingSecret=", "name a Secret with the key that seals secrets"),
        ("persistence.enabled=false", "without a volume all state would go with the pod"),
        ("settings.listen=0.0.0.0:1", "settings.listen: the chart writes this one itself"),
        ("settings.store=x", "settings.store: the chart writes this one itself"),
        ("ingress.enabled=true", "ingress.host"),
        ("gatewayApi.enabled=true", "gatewayApi.parentRefs"),
        ("replicas=0", "replicas: Must be greater than or equal to 1"),
        ("replicas=many", "replicas: Invalid type"),
        ("nosuch=1", "Additional property nosuch is not allowed"),
        ("store.url=postgres://a:secret@b/c", "store.url: Does not match pattern"),
        ("image.digest=latest", "image.digest: Does not match pattern"),
        ("metrics.clients={everybody}", "metrics.clients.0: Does not match pattern"),
        ("kubernetes.servers.enabled=true,kubernetes.servers.namespace=mcp", "is the release's own"),
        ("resourceFiles.x/y=1", "resourceFiles"),
    ] {
        let output =
            helm.run(&["template", "portcullis", &chart, "--namespace", "mcp", "-f", &one, "--set", setting]).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(words), "{setting}: {error}");
    }
}

#[tokio::test]
async fn an_api_server_takes_every_object_of_the_chart() {
    let cluster = Cluster::get().await.unwrap();
    let helm = Helm::of(&cluster.admin().unwrap()).unwrap();
    let own = cluster.namespace.clone();
    for name in ["team", "acme", "acme-servers"] {
        cluster.make_namespace(&format!("{own}-{name}")).await.unwrap();
    }
    let chart = chart().display().to_string();
    for name in CASES {
        // In namespaces of this test.
        let values = helm.home().join("values.yaml");
        fs::write(&values, fs::read_to_string(case(name)).unwrap().replace("chart-", &format!("{own}-"))).unwrap();
        let values = values.display().to_string();
        helm.ask(&["lint", "--strict", &chart, "-f", &values]).unwrap();
        // Asked of the cluster, so that kinds are in the versions that it has.
        let more = ["-f", &values, "--validate", "--set", "crds.install=false"];
        let objects = helm.template("portcullis", &own, &more).unwrap();
        // It is made by the chart, so here it has to be there for what lies in it.
        for namespace in of(&objects, "Namespace") {
            apply(&cluster, namespace, false).await;
        }
        for object in &objects {
            apply(&cluster, object, true).await;
        }
        println!("{name}: {} objects", objects.len());
        assert!(objects.len() >= 4, "{objects:?}");
    }
    let objects = helm.template("portcullis", &own, &["-f", &case("one"), "--set", "crds.install=true"]).unwrap();
    let definitions = of(&objects, "CustomResourceDefinition");
    assert!(definitions.len() >= 10, "{}", definitions.len());
    for definition in definitions {
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "it outlives the release");
        apply(&cluster, definition, true).await;
    }
}

#[test]
fn what_the_cluster_has_decides_which_kinds_are_made() {
    let helm = Helm::alone().unwrap();
    let replicas = case("replicas");
    let base = ["-f", &*replicas, "--set", "crds.install=false"];
    let kinds = |more: &[&str]| {
        let objects = helm.template("p", "mcp", &[&base[..], more].concat()).unwrap();
        let mut kinds: Vec<String> = objects
            .iter()
            .map(|o| format!("{} {}", o["apiVersion"].as_str().unwrap(), o["kind"].as_str().unwrap()))
            .collect();
        kinds.sort();
        kinds
    };
    let new = kinds(&[
        "--api-versions=autoscaling/v2",
        "--api-versions=monitoring.coreos.com/v1",
        "--api-versions=gateway.networking.k8s.io/v1",
    ]);
    for kind in [
        "autoscaling/v2 HorizontalPodAutoscaler",
        "monitoring.coreos.com/v1 ServiceMonitor",
        "gateway.networking.k8s.io/v1 HTTPRoute",
        "networking.k8s.io/v1 Ingress",
        "policy/v1 PodDisruptionBudget",
    ] {
        assert!(new.contains(&kind.to_owned()), "{kind}: {new:?}");
    }
    let old = kinds(&[]);
    assert!(old.contains(&"autoscaling/v2beta2 HorizontalPodAutoscaler".to_owned()), "{old:?}");
    assert!(!old.iter().any(|kind| kind.contains("ServiceMonitor") || kind.contains("HTTPRoute")), "{old:?}");
}

#[test]
fn pods_are_hardened_and_ask_the_cluster_only_where_they_have_to() {
    let helm = Helm::alone().unwrap();
    let pod = |name: &str, kind: &str| {
        let objects = helm.template("p", "mcp", &["-f", &case(name)]).unwrap();
        of(&objects, kind)[0]["spec"]["template"]["spec"].clone()
    };
    let (one, replicas, cluster) =
        (pod("one", "StatefulSet"), pod("replicas", "Deployment"), pod("cluster", "StatefulSet"));
    for pod in [&one, &replicas, &cluster] {
        let context = &pod["containers"][0]["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert!(pod["containers"][0]["resources"]["limits"]["memory"].is_string());
        // Longer than it takes to end.
        assert_eq!(pod["terminationGracePeriodSeconds"], 55);
        for volume in pod["volumes"].as_array().unwrap().iter().filter(|v| v["secret"].is_object()) {
            assert_eq!(volume["secret"]["defaultMode"], 0o440, "{volume}");
        }
    }
    assert_eq!(
        (&one["automountServiceAccountToken"], &replicas["automountServiceAccountToken"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(cluster["automountServiceAccountToken"], true);
    assert_eq!(cluster["nodeSelector"], json!({"pool": "mcp"}));
    let image = replicas["containers"][0]["image"].as_str().unwrap();
    assert!(image.starts_with("registry.example/portcullis@sha256:"), "{image}");
}

#[test]
fn the_settings_that_it_writes_are_right() {
    let helm = Helm::alone().unwrap();
    for name in CASES {
        let objects = helm.template("p", "mcp", &["-f", &case(name)]).unwrap();
        let settings = of(&objects, "ConfigMap")[0]["data"]["serve.yaml"].as_str().unwrap();
        let parsed: Value = serde_saphyr::from_str(settings).unwrap();
        assert_eq!(parsed["log"]["format"], "json");
        // Read by the gateway itself, which then lacks what a pod would have.
        let here = helm.home().join(name);
        fs::create_dir(&here).unwrap();
        let file = here.join("serve.yaml");
        let local = settings.replace("/var/lib/portcullis", here.to_str().unwrap()).replace("0.0.0.0:", "127.0.0.1:");
        fs::write(&file, local).unwrap();
        let ran = Command::new(binary()).args(["serve", "--config"]).arg(&file).env_clear().output().unwrap();
        let error = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{name}: {error}");
        assert!(!error.contains("invalid-settings"), "{name}: {error}");
    }
}

#[test]
fn what_is_written_twice_is_the_same() {
    let rules = |path: &str| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let parsed: Value = serde_saphyr::from_str(&text).unwrap();
        if parsed.is_array() { parsed } else { parsed["rules"].clone() }
    };
    for name in ["servers", "own-pod"] {
        let (plain, charts) =
            (format!("deploy/kubernetes/{name}.yaml"), format!("deploy/helm/portcullis/files/{name}-rules.yaml"));
        assert_eq!(rules(&plain), rules(&charts), "{name}");
    }
    // The plain manifests are what the chart makes. `UPDATE_GOLDEN=1` writes them.
    let helm = Helm::alone().unwrap();
    for name in ["one", "replicas"] {
        let folder = root().join("deploy/kustomize").join(name);
        let values = folder.join("values.yaml").display().to_string();
        let chart = chart().display().to_string();
        let more = ["--namespace", "mcp", "-f", &values, "--api-versions=autoscaling/v2"];
        let text = helm.ask(&[&["template", "portcullis", &chart], &more[..]].concat()).unwrap();
        let text = format!("# Made of deploy/helm/portcullis and values.yaml: not to be edited.\n{text}");
        let path = folder.join("portcullis.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{}: run with UPDATE_GOLDEN=1 if this is meant", path.display());
        assert!(documents(&written).unwrap().len() > 4);
    }
}
