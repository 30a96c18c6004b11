//! The cluster's own pods: what the tests of servers in pods will stand on.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Pod},
};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use portcullis_e2e::{cluster::Cluster, eventually};
use serde_json::json;

#[tokio::test]
#[ignore = "nothing of the product runs pods yet, and not every machine lets root do so: --run-ignored only"]
async fn a_deployment_runs_hardened_pods_whose_logs_are_read_and_which_come_again() {
    let cluster = Cluster::get().await.unwrap();
    let image = cluster.with_pods().await.unwrap();
    let script = "echo hello from $(/busybox id -u); exec /busybox sleep 1000";
    let deployment = json!({
        "metadata": {"name": "talk"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "talk"}},
            "template": {
                "metadata": {"labels": {"app": "talk"}},
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "talk", "image": image, "command": ["/busybox", "sh", "-c", script],
                        "resources": {"limits": {"memory": "64Mi", "cpu": "50m"}},
                        "securityContext": {
                            "runAsNonRoot": true, "runAsUser": 65532, "readOnlyRootFilesystem": true,
                            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                        },
                    }],
                },
            },
        },
    });
    let deployments = cluster.api::<Deployment>();
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    let pods = cluster.api::<Pod>();
    let ready = async || {
        let status = deployments.get("talk").await.ok()?.status?;
        (status.ready_replicas == Some(2)).then_some(())
    };
    let events = async || {
        let events = cluster.api::<Event>().list(&ListParams::default()).await.unwrap();
        events.items.into_iter().filter_map(|e| e.message).collect::<Vec<_>>().join("\n")
    };
    let until = tokio::time::Instant::now() + 3 * portcullis_e2e::PATIENCE;
    while ready().await.is_none() {
        assert!(tokio::time::Instant::now() < until, "no pods:\n{}", events().await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let names = async || -> Vec<String> {
        let list = pods.list(&ListParams::default().labels("app=talk")).await.unwrap();
        list.items.into_iter().filter_map(|p| p.metadata.name).collect()
    };
    let first = names().await;
    for name in &first {
        eventually("the pod's log is read", || async {
            let log = pods.logs(name, &LogParams::default()).await.ok()?;
            (log == "hello from 65532\n").then_some(())
        })
        .await;
    }
    pods.delete(&first[0], &DeleteParams::default()).await.unwrap();
    eventually("another one comes in its place", || async {
        let now = names().await;
        (!now.contains(&first[0]) && now.len() == 2 && ready().await.is_some()).then_some(())
    })
    .await;
    deployments.delete("talk", &DeleteParams::default()).await.unwrap();
    eventually("they go with it", || async { names().await.is_empty().then_some(()) }).await;
}
