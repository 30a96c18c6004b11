//! What operators do with workloads: restart, stop, start, scale, and read their logs. None of it changes a definition; what was
//! done is kept by the cluster, in annotations of the Deployment.

use std::sync::Arc;

use futures_util::StreamExt as _;
use portcullis_cluster::ClusterError;
use portcullis_model::{Name, spec::MAX_REPLICAS};
use portcullis_workload::{ObjectKind, bridge::EPOCH, deployment::CONTAINER};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::io::StreamReader;

use super::{
    Known, Workloads,
    reconcile::{SCALE, STOPPED},
};
use crate::logs::{self, LogRing};

/// The most pods whose logs one answer holds.
const MAX_PODS: usize = 20;

/// Why something was not done with a server's workloads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// It has none.
    #[error("nothing of it is deployed: a server whose connections have deployments of their own needs one")]
    None,
    /// More than may be.
    #[error("{MAX_REPLICAS} replicas are the most")]
    TooMany,
    /// The cluster did not do it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Logs of a server's pods, collected for one reader. Dropping it ends the collecting.
pub struct PodLogs {
    /// The lines.
    pub ring: Arc<LogRing>,
    collecting: JoinSet<()>,
}

impl PodLogs {
    /// Waits until all that was asked for is there. Never, where it is followed.
    pub async fn whole(&mut self) {
        while self.collecting.join_next().await.is_some() {}
    }
}

impl Workloads {
    /// Starts all pods of a server anew, new ones first. `now` is kept as what was done.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn restart(&self, tenant: &Name, server: &Name, now: &str) -> Result<(), OperateError> {
        // Pods follow, once the key of this epoch is where they find it.
        let patch = json!({"metadata": {"annotations": {EPOCH: now}}});
        self.change(tenant, server, &patch).await
    }

    /// Ends all pods of a server, until [`Workloads::start`].
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn stop(&self, tenant: &Name, server: &Name) -> Result<(), OperateError> {
        self.change(tenant, server, &json!({"metadata": {"annotations": {STOPPED: "true"}}, "spec": {"replicas": 0}}))
            .await
    }

    /// Allows a stopped server again, with as many pods as before.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn start(&self, tenant: &Name, server: &Name) -> Result<(), OperateError> {
        self.change(tenant, server, &json!({"metadata": {"annotations": {STOPPED: null}}})).await
    }

    /// Gives each deployment of a server so many pods, whatever its definition says; as many as that says where `to` is none.
    ///
    /// # Errors
    /// [`OperateError`].
    pub async fn scale(&self, tenant: &Name, server: &Name, to: Option<u32>) -> Result<(), OperateError> {
        if to.is_some_and(|to| to > MAX_REPLICAS) {
            return Err(OperateError::TooMany);
        }
        let to = to.map(|to| to.to_string());
        self.change(tenant, server, &json!({"metadata": {"annotations": {SCALE: to}}})).await
    }

    /// The last lines that a server's pods wrote, pod by pod; of the containers before with `previous`, and on and on with `follow`.
    ///
    /// # Errors
    /// [`OperateError::None`] where nothing of it is deployed.
    pub fn logs(
        &self,
        tenant: &Name,
        server: &Name,
        (lines, follow, previous): (usize, bool, bool),
    ) -> Result<PodLogs, OperateError> {
        let inner = &self.0.inner;
        let wishes = inner.wishes.borrow().clone().unwrap_or_default();
        let ring = Arc::new(LogRing::default());
        let mut jobs = Vec::new();
        for (name, known) in self.of(tenant, server)? {
            let secrets = Arc::new(wishes.get(&name).map(super::Granted::secrets).unwrap_or_default());
            for pod in known.pods {
                jobs.push((known.namespace.clone(), pod, Arc::clone(&secrets)));
            }
        }
        let many = jobs.len() > 1;
        let skip = jobs.len().saturating_sub(MAX_PODS);
        let (cluster, into) = (Arc::clone(&inner.cluster), Arc::clone(&ring));
        let one = move |(namespace, pod, secrets): (Name, String, Arc<Vec<portcullis_model::Secret>>)| {
            let (cluster, ring) = (Arc::clone(&cluster), Arc::clone(&into));
            async move {
                let prefix = if many { format!("{pod}: ") } else { String::new() };
                match cluster.log(&namespace, &pod, CONTAINER, (lines, follow, previous)).await {
                    Ok(log) => {
                        logs::collect_as(
                            StreamReader::new(log.map(|c| c.map(std::io::Cursor::new)).boxed()),
                            &ring,
                            &secrets,
                            &prefix,
                        )
                        .await
                    }
                    Err(why) => ring.note(format!("[portcullis: {prefix}{why}]")),
                }
            }
        };
        let mut collecting = JoinSet::new();
        if follow {
            for job in jobs.into_iter().skip(skip) {
                collecting.spawn(one(job));
            }
        } else {
            // One after another, so that each one's lines stay together.
            collecting.spawn(async move {
                for job in jobs.into_iter().skip(skip) {
                    one(job).await;
                }
            });
        }
        Ok(PodLogs { ring, collecting })
    }

    async fn change(&self, tenant: &Name, server: &Name, patch: &Value) -> Result<(), OperateError> {
        for (name, known) in self.of(tenant, server)? {
            self.0.inner.cluster.change(&known.namespace, ObjectKind::Deployment, &name, patch).await?;
        }
        Ok(())
    }

    fn of(&self, tenant: &Name, server: &Name) -> Result<Vec<(String, Known)>, OperateError> {
        let known = self.0.inner.known.load();
        let ours = known.workloads.iter().filter(|(_, k)| k.identity.tenant == *tenant && k.identity.server == *server);
        let ours: Vec<(String, Known)> = ours.map(|(name, known)| (name.clone(), known.clone())).collect();
        if ours.is_empty() { Err(OperateError::None) } else { Ok(ours) }
    }
}
