//! Which cluster, and who we are there.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, Config,
    api::ApiResource,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use portcullis_model::{API_VERSION, Kind, Name};
use portcullis_telemetry::Metrics;
use tower::util::MapRequestLayer;

use crate::{ClusterError, Options, custom::MAX_STATUSES};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one request may take that is no watch.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster, as the gateway's own account sees it.
pub struct Cluster {
    pub(crate) client: Client,
    options: Options,
    own: Name,
    /// Statuses are written a few at a time.
    pub(crate) writing: tokio::sync::Semaphore,
}

impl Cluster {
    /// The cluster that the settings name. Nothing is asked of it yet: one that can't be reached is found out later.
    ///
    /// # Errors
    /// [`ClusterError::Settings`] where the settings, the kubeconfig or the pod name none.
    pub async fn open(options: Options, metrics: Arc<Metrics>) -> Result<Arc<Self>, ClusterError> {
        options.check().map_err(ClusterError::Settings)?;
        let wrong = |why: String| ClusterError::Settings(format!("kubernetes: {why}"));
        let mut config = match &options.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|e| wrong(e.to_string()))?;
                let which = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
                Config::from_custom_kubeconfig(file, &which).await.map_err(|e| wrong(e.to_string()))?
            }
            None => Config::incluster().map_err(|e| wrong(format!("this is no pod ({e}): name a `kubeconfig`")))?,
        };
        config.connect_timeout = Some(CONNECT);
        // Who asks again, and when, is said where it is asked.
        config.default_retry = false;
        let own = match &options.namespace {
            Some(own) => own.clone(),
            None => config.default_namespace.parse().map_err(|e| wrong(format!("namespace: {e}")))?,
        };
        let count = MapRequestLayer::new(move |request: http::Request<kube::client::Body>| {
            // The client notes there what it asks for.
            metrics.cluster_request(request.extensions().get::<&'static str>().copied().unwrap_or("other"));
            request
        });
        let client = ClientBuilder::try_from(config).map_err(|e| wrong(e.to_string()))?.with_layer(&count).build();
        Ok(Arc::new(Self { client, options, own, writing: tokio::sync::Semaphore::new(MAX_STATUSES) }))
    }

    /// One with this client and nothing set.
    #[cfg(test)]
    pub(crate) fn of(client: Client) -> Self {
        let (options, own, writing) = (Options::default(), Name::default_tenant(), tokio::sync::Semaphore::new(1));
        Self { client, options, own, writing }
    }

    /// The settings.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The namespace that is ours.
    pub fn own_namespace(&self) -> &Name {
        &self.own
    }

    /// Custom resources of a kind in a namespace.
    pub(crate) fn customs(&self, kind: Kind, namespace: &Name) -> Api<kube::api::DynamicObject> {
        let (group, version) = API_VERSION.split_once('/').unwrap_or((API_VERSION, ""));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: API_VERSION.to_owned(),
            kind: kind.as_str().to_owned(),
            plural: kind.plural().to_owned(),
        };
        Api::namespaced_with(self.client.clone(), namespace.as_str(), &resource)
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("own", &self.own).finish_non_exhaustive()
    }
}
