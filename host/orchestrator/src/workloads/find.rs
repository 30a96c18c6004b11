//! Where a call goes: the pods of a server that can be called, waited for while they come up.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use portcullis_model::{Name, Secret, spec::Kubernetes};
use portcullis_upstream::{BoxFuture, Hosts, HttpEndpoint};
use portcullis_workload::{Identity, Phase, plan};
use tokio::time::Instant;

use super::{Inner, Workloads};

/// How long a call waits for what is not known yet, such as a server that was written a moment ago.
const UNKNOWN: Duration = Duration::from_secs(5);

/// What is known of where a host is.
enum Found {
    At(Vec<IpAddr>),
    /// It may come up: for so long from the beginning.
    Later(Duration),
    Not(String),
}

impl Hosts for Workloads {
    fn endpoint(
        &self,
        tenant: &Name,
        server: &Name,
        connection: Option<&Name>,
        spec: &Kubernetes,
    ) -> Result<Arc<HttpEndpoint>, String> {
        let inner = &self.0.inner;
        let identity = Identity { tenant: tenant.clone(), server: server.clone(), connection: connection.cloned() };
        let url = plan::url(&inner.place(tenant), &identity, spec);
        let url = url.parse().map_err(|e| format!("its endpoint is no URL ({e})"))?;
        // Where pods are is not of the public internet, and the cluster alone says where.
        Ok(Arc::new(HttpEndpoint { url, headers: Vec::new(), allow_private: true }))
    }

    fn keys(&self, host: &str, at: IpAddr) -> Option<Vec<Secret>> {
        let (inner, name) = (&self.0.inner, host.split('.').next().unwrap_or_default());
        match inner.known.load().workloads.get(name) {
            Some(known) => known.epochs.as_ref().map(|epochs| epochs.keys(&inner.installation, name, at)),
            // Gone since its address was looked up: nobody holds its key any more.
            None => Some(Vec::new()),
        }
    }

    fn find(&self, host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, String>> {
        let (inner, name) = (Arc::clone(&self.0.inner), host.split('.').next().unwrap_or_default().to_owned());
        Box::pin(async move {
            let (mut news, begun) = (inner.news.subscribe(), Instant::now());
            loop {
                match inner.find(&name) {
                    Found::At(addresses) => return Ok(addresses),
                    Found::Not(why) => return Err(why),
                    Found::Later(patience) => {
                        // What is known may not change until then; the sender lives as long as this.
                        let changed = tokio::time::timeout_at(begun + patience, news.changed()).await;
                        if !matches!(changed, Ok(Ok(()))) {
                            return Err("it is still starting: try again in a moment".to_owned());
                        }
                    }
                }
            }
        })
    }
}

impl Inner {
    fn find(&self, name: &str) -> Found {
        let knowledge = self.known.load();
        let Some(known) = knowledge.workloads.get(name) else {
            let wished = self.wishes.borrow().as_ref().is_some_and(|wishes| wishes.contains_key(name));
            return match wished || !knowledge.complete {
                true => Found::Later(UNKNOWN),
                false => Found::Not("it is not deployed: ask your operator".to_owned()),
            };
        };
        // What containers and the cluster say is for operators.
        let reason = known.observed.trouble.as_ref().map_or("", |trouble| &trouble.reason);
        match known.observed.phase {
            Phase::Ready | Phase::Degraded if !known.ready.is_empty() => Found::At(self.chosen(name, &known.ready)),
            Phase::Ready | Phase::Degraded | Phase::Starting => Found::Later(known.start),
            Phase::Pending if reason.is_empty() => Found::Later(known.start),
            Phase::Pending | Phase::Failed => {
                Found::Not(format!("its pods do not come up ({reason}): ask your operator"))
            }
            Phase::Stopped => Found::Not("an operator stopped it".to_owned()),
            Phase::Idle => Found::Not("it has no pods (replicas: 0)".to_owned()),
        }
    }

    /// The same pod first for as long as it can be called, also where others come, since a server of the 2025 revisions knows its sessions
    /// in one; another gateway's may be another.
    fn chosen(&self, name: &str, ready: &[(String, IpAddr)]) -> Vec<IpAddr> {
        let mut ranked: Vec<(u64, &(String, IpAddr))> =
            ready.iter().map(|pod| (rank(self.nonce, &pod.0), pod)).collect();
        ranked.sort();
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = chosen.get(name);
        ranked.sort_by_key(|(_, (pod, _))| Some(pod) != before);
        if let Some((_, (pod, _))) = ranked.first().filter(|(_, (pod, _))| Some(pod) != before) {
            if !chosen.contains_key(name) {
                let known = self.known.load();
                chosen.retain(|other, _| known.workloads.contains_key(other));
            }
            chosen.insert(name.to_owned(), pod.clone());
        }
        ranked.into_iter().map(|(_, (_, at))| *at).collect()
    }
}

fn rank(nonce: u64, pod: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    (nonce, pod).hash(&mut hash);
    hash.finish()
}
