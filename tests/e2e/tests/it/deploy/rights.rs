//! The rights that the chart gives: enough for all that the gateway does, and nothing that it does not.

use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use portcullis_e2e::{
    cluster::{Cluster, secret},
    eventually,
    helm::Helm,
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::chart::{apply, of};

/// Whether an account may do something.
async fn may(cluster: &Cluster, account: &str, namespace: &str, verb: &str, what: &str, name: Option<&str>) -> bool {
    let (group, what) = what.split_once('/').map_or(("", what), |(group, what)| (group, what));
    let (resource, subresource) =
        what.split_once('/').map_or((what, None), |(resource, sub)| (resource, Some(sub.to_owned())));
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        verb: Some(verb.to_owned()),
        name: name.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(account.to_owned()),
        groups: Some(vec!["system:serviceaccounts".into(), "system:authenticated".into()]),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    Api::all(cluster.client.clone()).create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
}

#[tokio::test]
async fn the_charts_account_does_its_work_and_nothing_else() {
    let cluster = Cluster::get().await.unwrap();
    cluster.define().await.unwrap();
    let own = cluster.namespace.clone();
    let servers = format!("{own}-servers");
    let helm = Helm::alone().unwrap();
    let kubernetes = json!({
        "resources": [{"namespace": own, "tenant": "default"}],
        "secretNames": {&own: ["jira"]},
        "servers": {"enabled": true, "namespace": servers},
    });
    let values = json!({"sealingKey": {"existingSecret": "key"}, "crds": {"install": false}, "kubernetes": kubernetes});
    let values = helm.values("values.yaml", &values).unwrap();
    let objects = helm.template("portcullis", &own, &["-f", &values]).unwrap();
    for kind in ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"] {
        for object in of(&objects, kind) {
            apply(&cluster, object, false).await;
        }
    }

    // A gateway with that account and the chart's own settings: custom resources, a Secret, a server in a pod.
    let config = of(&objects, "ConfigMap")[0]["data"]["serve.yaml"].as_str().unwrap();
    let mut settings = serde_saphyr::from_str::<Value>(config).unwrap()["kubernetes"].take();
    let home = tempfile::tempdir().unwrap();
    let token = cluster.token("portcullis", &[]).await.unwrap();
    let kubeconfig = home.path().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.config_of(&token, None).unwrap().to_string()).unwrap();
    settings["kubeconfig"] = json!(kubeconfig);
    let product = Product::start_with(&[], &[], json!({"kubernetes": settings})).await.unwrap();
    cluster.api().create(&PostParams::default(), &secret("jira", &[("token", "canary")])).await.unwrap();
    let kept = json!({"kubernetes": {"name": "jira", "key": "token"}});
    let all = [
        resource("User", "alice", json!({})),
        resource(
            "McpServer",
            "personal",
            json!({
                "kubernetes": {"image": "registry.example/personal:1"},
                "fields": [{"name": "token", "required": true, "sensitive": true}],
                "credential": {"place": [{"field": "token", "env": "TOKEN"}]},
            }),
        ),
        resource(
            "Connection",
            "org",
            json!({"server": "personal", "owner": {"organization": true}, "secrets": {"token": kept}, "ownerOnly": false}),
        ),
    ];
    let accepted = async |wanted: &Value| {
        cluster.apply(wanted).await.unwrap();
        cluster.accepted(wanted).await
    };
    for wanted in &all[..2] {
        let condition = accepted(wanted).await;
        assert_eq!(condition["status"], "True", "{condition}");
    }
    // It may ask whose connections may be made here: nobody's yet.
    let condition = accepted(&all[2]).await;
    assert_eq!(condition["reason"], "NotAllowed", "{condition}");
    let mut connection = all[2].clone();
    connection["spec"]["owner"] = json!({"user": "alice"});
    let writers = json!([{"apiGroups": ["portcullis.dev"], "resources": ["users"], "resourceNames": ["alice"], "verbs": ["impersonate"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "writers", "namespace": own}, "rules": writers});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "writers", "namespace": own},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "writers"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "portcullis.dev:writers"}],
    });
    for object in [&role, &binding] {
        apply(&cluster, object, false).await;
    }
    let condition = accepted(&connection).await;
    assert_eq!(condition["status"], "True", "{condition}");
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), &servers);
    eventually("her server is deployed with her secret", || async {
        let found = deployments.list(&ListParams::default()).await.unwrap().items;
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(cluster.client.clone(), &servers);
        let values = secrets.list(&ListParams::default()).await.unwrap().items;
        let has = values.iter().filter_map(|s| s.data.as_ref()).any(|d| d.values().any(|v| v.0 == b"canary"));
        (found.len() == 1 && has).then_some(())
    })
    .await;
    // Gone again, so that nothing is left for a cleaner.
    cluster.customs_of(&connection).delete("org", &DeleteParams::default()).await.unwrap();
    eventually("it is taken away", || async {
        deployments.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    let doctor = String::from_utf8_lossy(&product.cli(&["doctor"], "").unwrap().stdout).into_owned();
    assert!(!doctor.contains("may not"), "no right is missing: {doctor}");
    product.stop().await;

    // What it does not need it may not.
    let account = format!("system:serviceaccount:{own}:portcullis");
    for (namespace, verb, what, name) in [
        (&*own, "list", "secrets", None),
        (&own, "watch", "secrets", None),
        (&own, "get", "secrets", Some("key")),
        (&own, "get", "secrets", None),
        (&own, "create", "secrets", None),
        (&own, "create", "pods", None),
        (&own, "list", "pods", None),
        (&own, "create", "pods/exec", None),
        (&own, "patch", "portcullis.dev/users", None),
        (&own, "create", "portcullis.dev/connections", None),
        (&own, "delete", "portcullis.dev/gateways", None),
        (&own, "impersonate", "portcullis.dev/users", Some("alice")),
        (&own, "create", "rbac.authorization.k8s.io/rolebindings", None),
        (&own, "create", "apps/deployments", None),
        (&servers, "get", "pods/exec", None),
        (&servers, "create", "pods/exec", None),
        (&servers, "create", "pods/portforward", None),
        (&servers, "create", "serviceaccounts/token", None),
        (&servers, "create", "rbac.authorization.k8s.io/roles", None),
        (&servers, "create", "rbac.authorization.k8s.io/rolebindings", None),
        (&servers, "create", "batch/jobs", None),
        (&servers, "list", "portcullis.dev/users", None),
        ("kube-system", "get", "secrets", None),
        ("kube-system", "list", "pods", None),
        ("default", "list", "portcullis.dev/users", None),
        ("", "list", "nodes", None),
        ("", "list", "namespaces", None),
        ("", "delete", "namespaces", Some(&servers)),
        ("", "list", "secrets", None),
        ("", "create", "authentication.k8s.io/tokenreviews", None),
        ("", "patch", "apiextensions.k8s.io/customresourcedefinitions", None),
    ] {
        assert!(!may(&cluster, &account, namespace, verb, what, name).await, "it may {verb} {what} in {namespace:?}");
    }
    for (namespace, verb, what, name) in [
        (&*own, "get", "secrets", Some("jira")),
        (&own, "watch", "portcullis.dev/users", None),
        (&own, "patch", "portcullis.dev/users/status", None),
        (&servers, "create", "apps/deployments", None),
        ("", "create", "authorization.k8s.io/subjectaccessreviews", None),
    ] {
        assert!(
            may(&cluster, &account, namespace, verb, what, name).await,
            "it may not {verb} {what} in {namespace:?}"
        );
    }
}
