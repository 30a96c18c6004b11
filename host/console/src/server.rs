//! The admin API: HTTP over a Unix socket that only its owner and root may use.
//!
//! Whoever holds the store serves it; the command line's verbs are its clients (security.md 27). Every change is in the
//! audit stream before it is made, and how it ended before it is answered (`record`). `door` serves the same routes over TCP where the operator asks for that, to whoever
//! brings a token and may do what is asked (`permit`).

mod connect;
mod describe;
mod doctor;
mod door;
mod explain;
mod oauth;
mod overview;
mod page;
mod permit;
mod plugins;
mod pods;
mod processes;
mod record;
pub(crate) mod reply;
mod resources;
mod signin;
mod socket;
mod store;
pub(crate) mod tokens;
mod who;

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{delete, get, post},
};
use portcullis_credential::{ConnectionBook, Secrets, UpstreamOAuth};
use portcullis_identity::{Directories, OAuth, SignIn, TokenService};
use portcullis_model::{Name, Principal, ResourceKey, Side, Subject, explain::Explanation};
use portcullis_orchestrator::{Orchestrator, Workloads};
use portcullis_store::{BoxFuture, Registry};
use portcullis_telemetry::{Audit, Metrics};

pub(crate) use who::{Tenant, Who};

use crate::{
    api::{ApiError, Condition, Finding, GatewayStatus, MAX_BODY, PluginItem},
    files::FileDoor,
};

pub use door::http_router;
pub use socket::{AdminSocket, Peer, SocketError};

/// What the admin API works on.
#[derive(Clone)]
pub struct Admin {
    /// Resources.
    pub registry: Arc<Registry>,
    /// Tokens.
    pub tokens: Arc<TokenService>,
    /// People, as tokens see them.
    pub directories: Arc<Directories>,
    /// Sign-in codes and sessions.
    pub signin: Arc<SignIn>,
    /// The authorization server for MCP clients, where there is one.
    pub authorization: Option<Arc<OAuth>>,
    /// Sealed secrets of connections.
    pub secrets: Secrets,
    /// Connections, as calls see them.
    pub book: Arc<ConnectionBook>,
    /// Who connects servers with OAuth, where there is anybody.
    pub oauth: Option<Arc<UpstreamOAuth>>,
    /// Servers that run here, as processes.
    pub orchestrator: Orchestrator,
    /// Servers that run in a cluster, where there is one for them.
    pub workloads: Option<Workloads>,
    /// Watched files, where there are some.
    pub files: Option<Arc<FileDoor>>,
    /// Where changes are recorded.
    pub audit: Arc<Audit>,
    /// Where changes are counted.
    pub metrics: Arc<Metrics>,
    /// What only the assembled gateway knows.
    pub view: Arc<dyn View>,
}

/// What is asked about a call that is not made.
#[derive(Debug)]
pub struct Explain {
    /// The tenant.
    pub tenant: Name,
    /// The gateway.
    pub gateway: Name,
    /// The tool as clients name it; none for the list of tools.
    pub tool: Option<String>,
    /// Who would call.
    pub principal: Arc<Principal>,
    /// The arguments, as JSON.
    pub arguments: String,
}

/// What only the assembled gateway knows.
pub trait View: Send + Sync {
    /// Version, addresses, and what keeps it from being ready. Revision, counts and files are filled in by the API.
    fn status(&self) -> GatewayStatus;
    /// What is true of a resource as it is served now, such as whether its plugin is loaded.
    fn conditions(&self, key: &ResourceKey) -> Vec<Condition>;
    /// What is not as it should be, by the resource or the built-in plugin that it is true of.
    fn findings(&self) -> Vec<Finding>;
    /// The link of the page that connects a server for somebody, or mends a connection; none where none can be made.
    fn connect_link(&self, tenant: &Name, server: &Name, wanted: &Subject, connection: Option<&Name>)
    -> Option<String>;
    /// What a call would meet; none where there is no such gateway.
    fn explain(&self, wanted: Explain) -> BoxFuture<'_, Option<Explanation>>;
    /// How a plugin stands; none where there is no such resource.
    fn plugin(&self, tenant: &Name, name: &Name) -> Option<PluginItem>;
    /// Goes back to the version of a plugin that was active before. The error is a sentence for operators.
    fn roll_back<'a>(&'a self, tenant: &'a Name, name: &'a Name) -> BoxFuture<'a, Result<PluginItem, String>>;
    /// Takes that back.
    fn resume<'a>(&'a self, tenant: &'a Name, name: &'a Name) -> BoxFuture<'a, Result<PluginItem, String>>;
    /// Waits until calls see what the store holds now, but not for long.
    fn settle(&self) -> BoxFuture<'_, ()>;
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// The API's routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/v1/status", get(overview::status))
        .route("/v1/doctor", get(doctor::doctor))
        .route("/v1/explain", post(explain::explain))
        .route("/v1/apply", post(resources::apply))
        .route("/v1/resources", get(resources::list))
        .route("/v1/resources/{kind}/{name}", get(resources::get).delete(resources::delete))
        .route("/v1/resources/{kind}/{name}/describe", get(describe::describe))
        .route("/v1/tokens", get(tokens::list).post(tokens::create).delete(tokens::revoke_all))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/signin", post(signin::create))
        .route("/v1/connections", post(connect::connect))
        .route("/v1/store/reseal", post(store::reseal))
        .route("/v1/connections/oauth", post(oauth::begin))
        .route("/v1/connections/oauth/finish", post(oauth::finish))
        .route("/v1/connections/oauth/save", post(oauth::save))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{name}", get(plugins::get))
        .route("/v1/plugins/{name}/rollback", post(plugins::roll_back))
        .route("/v1/plugins/{name}/resume", post(plugins::resume))
        .route("/v1/servers/{name}/logs", get(processes::logs))
        .route("/v1/servers/{name}/restart", post(processes::restart))
        .route("/v1/servers/{name}/stop", post(processes::stop))
        .route("/v1/servers/{name}/start", post(processes::start))
        .route("/v1/servers/{name}/scale", post(pods::scale))
        .route("/v1/render", post(pods::render))
        .fallback(|| async {
            reply::error(ApiError::new(Side::Caller, "unknown-path", "the admin API has no such path"))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(admin)
}

/// How long requests in flight may take to end; whoever follows a log is cut off then.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the API until `until` ends, and a moment longer for requests in flight.
///
/// # Errors
/// Where the socket fails for good.
pub async fn serve(
    socket: AdminSocket,
    admin: Admin,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<(), std::io::Error> {
    let path = socket.path().to_owned();
    let service = router(admin).into_make_service_with_connect_info::<Peer>();
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    let until = async move {
        until.await;
        drop(tell);
    };
    let late = async {
        // An error means that it was dropped, which is the signal.
        let _ = told.await;
        tokio::time::sleep(GRACE).await;
    };
    let served = tokio::select! {
        served = axum::serve(socket, service).with_graceful_shutdown(until).into_future() => served,
        () = late => Ok(()),
    };
    remove(&path);
    served
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "the admin socket was not removed");
    }
}

impl Admin {
    /// Makes what was just written visible to tokens, connections and calls, so that whoever is answered "done" finds it
    /// done.
    pub(crate) async fn settle(&self) {
        self.directories.refresh();
        if let Err(error) = self.book.refresh().await {
            tracing::error!(%error, "the connections could not be read again; those that were known go on serving");
        }
        self.view.settle().await;
    }
}
