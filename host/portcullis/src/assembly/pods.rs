//! The runtime of servers in a cluster, where the settings ask for one.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use portcullis_cluster::Cluster;
use portcullis_credential::Vault;
use portcullis_orchestrator::{WorkloadOptions, Workloads};
use portcullis_outbound::Client;
use portcullis_store::{Leases, Store};
use portcullis_telemetry::Metrics;
use portcullis_workload::Inherited;

use super::{session_key, startups::Asked};

/// Opens it. Nothing is asked of the cluster yet but what the gateway's own pod is like.
///
/// # Errors
/// Where the key that tells this installation from others can be neither read nor made.
pub async fn open(
    cluster: Option<&Arc<Cluster>>,
    store: &Arc<dyn Store>,
    vault: &Vault,
    metrics: &Arc<Metrics>,
    outbound: &Arc<Client>,
) -> Result<Option<Workloads>> {
    let Some((cluster, servers)) = cluster.and_then(|cluster| Some((cluster, cluster.options().servers.clone()?)))
    else {
        return Ok(None);
    };
    let installation = session_key::installation(&**store, vault).await?;
    let leases = if store.is_shared() { Some(Leases::new(Arc::clone(store), &holder()?)) } else { None };
    let startups = Asked::new(Arc::clone(outbound), &servers).map_err(|why| anyhow::anyhow!(why))?;
    let workloads = Workloads::open(WorkloadOptions {
        startups: Arc::new(startups),
        inherited: inherited(cluster).await,
        cluster: Arc::clone(cluster),
        servers,
        installation,
        metrics: Arc::clone(metrics),
        leases,
    });
    Ok(Some(workloads.context("servers can't be run in the cluster")?))
}

/// What pods inherit from this one; nothing where this is none.
async fn inherited(cluster: &Cluster) -> Inherited {
    if cluster.options().kubeconfig.is_some() {
        return Inherited::default();
    }
    // A pod's name is its machine's.
    let machine = rustix::system::uname();
    match cluster.inherited(&machine.nodename().to_string_lossy()).await {
        Ok(inherited) => inherited,
        Err(why) => {
            tracing::warn!(%why, "servers in the cluster inherit no node selector and no tolerations from this pod");
            Inherited::default()
        }
    }
}

/// Tells this process from others that share the store.
fn holder() -> Result<String> {
    let mut holder = [0; 16];
    getrandom::fill(&mut holder).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(holder.iter().map(|byte| format!("{byte:02x}")).collect())
}
