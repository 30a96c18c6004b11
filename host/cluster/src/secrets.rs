//! Secrets kept in the cluster.

use k8s_openapi::api::core::v1::Secret as Object;
use kube::Api;
use portcullis_model::{Name, Secret};

use crate::{Cluster, ClusterError, access::TIMEOUT, error::Asked};

impl Cluster {
    /// The value of a key of a Secret as it is now; None where there is no such Secret or key. Needs the right to `get` that
    /// one Secret, and no other.
    ///
    /// # Errors
    /// Whatever kept the cluster from answering.
    pub async fn secret(&self, namespace: &Name, name: &str, key: &str) -> Result<Option<Secret>, ClusterError> {
        let asked = Asked { verb: "get", resource: "secrets", namespace: namespace.as_str() };
        let api: Api<Object> = Api::namespaced(self.client.clone(), namespace.as_str());
        let answer = tokio::time::timeout(TIMEOUT, api.get_opt(name)).await.map_err(|_| asked.slow())?;
        let found = answer.map_err(|e| asked.refused(&e))?;
        let mut wanted = None;
        for (entry, value) in found.and_then(|s| s.data).unwrap_or_default() {
            // What is not asked for is wiped like what is.
            let value = Secret::new(value.0);
            if entry == key {
                wanted = Some(value);
            }
        }
        Ok(wanted)
    }
}
