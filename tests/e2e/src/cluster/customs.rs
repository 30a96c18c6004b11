//! Custom resources of ours: their definitions, put into the cluster by the binary's own words, and objects of each kind.

use std::process::Command;

use anyhow::{Context, ensure};
use k8s_openapi::{
    api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Cluster, named};
use crate::{eventually, parts::binary};

/// The group and version.
const VERSION: &str = "portcullis.dev/v1alpha1";

/// The definitions, as the binary prints them.
///
/// # Errors
/// Where it prints none.
pub fn definitions() -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let output = Command::new(binary()).args(["crds", "-o", "json"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout)?;
    Ok(serde_json::from_value(list["items"].clone())?)
}

impl Cluster {
    /// Puts the definitions into the cluster, and waits until it serves them.
    ///
    /// # Errors
    /// Where the cluster refuses one.
    pub async fn define(&self) -> anyhow::Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let params = PatchParams::apply("tests").force();
        for definition in definitions()? {
            let name = definition.metadata.name.clone().context("no name")?;
            // Tests that run side by side may all put it there.
            let mut tries = 0;
            while let Err(error) = api.patch(&name, &params, &Patch::Apply(&definition)).await {
                tries += 1;
                ensure!(tries < 10 && matches!(&error, kube::Error::Api(s) if s.code == 409), "{name}: {error}");
            }
        }
        for definition in definitions()? {
            let name = definition.metadata.name.clone().context("no name")?;
            eventually(&format!("{name} is established"), || async {
                let found = api.get(&name).await.ok()?;
                let conditions = found.status?.conditions?;
                let is = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
                assert!(!is("NonStructuralSchema"), "{name}: {conditions:?}");
                is("Established").then_some(())
            })
            .await;
            let kind = definition.spec.names.kind;
            let customs = self.customs(&kind, &definition.spec.names.plural);
            eventually(&format!("{name} is served"), || async {
                customs.list(&kube::api::ListParams::default()).await.ok()
            })
            .await;
        }
        Ok(())
    }

    /// Objects of a kind of ours in this test's namespace.
    pub fn customs(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let (group, version) = VERSION.split_once('/').unwrap_or((VERSION, ""));
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: VERSION.into(),
            kind: kind.into(),
            plural: plural.into(),
        };
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Objects of the kind of a resource.
    ///
    /// # Panics
    /// Where it names no kind.
    pub fn customs_of(&self, resource: &Value) -> Api<DynamicObject> {
        let kind = resource["kind"].as_str().expect("a kind");
        self.customs(kind, &format!("{}s", kind.to_ascii_lowercase()))
    }

    /// Writes a resource of ours into the cluster, as `kubectl apply` does.
    ///
    /// # Errors
    /// Where the cluster refuses it.
    pub async fn apply(&self, resource: &Value) -> Result<DynamicObject, kube::Error> {
        let name = resource["metadata"]["name"].as_str().unwrap_or_default();
        self.customs_of(resource).patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(resource)).await
    }

    /// The condition `Accepted` of a resource, once it is about what was applied last.
    pub async fn accepted(&self, resource: &Value) -> Value {
        let (api, name) = (self.customs_of(resource), resource["metadata"]["name"].as_str().unwrap_or_default());
        eventually(&format!("the status of {name} is written"), || async {
            let object = api.get(name).await.ok()?;
            let status = &object.data["status"];
            let conditions = status["conditions"].as_array()?;
            let condition = conditions.iter().find(|c| c["type"] == "Accepted")?;
            (status["observedGeneration"] == json!(object.metadata.generation)).then(|| condition.clone())
        })
        .await
    }

    /// Lets a service account ask who has which right, as the role `system:auth-delegator` does.
    ///
    /// # Errors
    /// Where the cluster refuses.
    pub async fn let_ask(&self, account: &str) -> anyhow::Result<()> {
        let name = format!("{}-{account}", self.namespace);
        let subject = Subject {
            kind: "ServiceAccount".into(),
            name: account.into(),
            namespace: Some(self.namespace.clone()),
            ..Subject::default()
        };
        let role_ref = RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: "system:auth-delegator".into(),
        };
        let binding = ClusterRoleBinding { metadata: named(&name), role_ref, subjects: Some(vec![subject]) };
        Api::all(self.client.clone()).create(&PostParams::default(), &binding).await?;
        Ok(())
    }
}
