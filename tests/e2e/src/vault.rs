//! A FAKE of HashiCorp Vault: no registry that the tests may use has the real server. It answers the requests that Portcullis
//! makes as Vault's API documentation says: key-value version 2, AppRole and Kubernetes logins, tokens that are looked up,
//! renewed and run out.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

/// The secret id that the role `portcullis` logs in with.
pub const SECRET_ID: &str = "canary-vault-secret-id";
/// The service account's token that the Kubernetes role `portcullis` logs in with.
pub const SERVICE_ACCOUNT: &str = "canary-vault-service-account";

/// The server, running in this process until dropped.
pub struct Vault {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Versions of each secret, by mount and path.
    secrets: BTreeMap<String, Vec<Value>>,
    /// Until when each token holds.
    tokens: BTreeMap<String, Instant>,
    logins: u32,
    renewals: u32,
    /// Whether it answers 503 to everything, as a sealed Vault does.
    sealed: bool,
    /// How long tokens hold.
    lease: Duration,
    /// The cluster that says whose a service account's token is, and whose is let in; else [`SERVICE_ACCOUNT`] alone.
    cluster: Option<(kube::Client, String)>,
}

type Held = Arc<Mutex<Shared>>;

impl Vault {
    /// Starts it on loopback; its tokens hold for so long.
    ///
    /// # Errors
    /// Where no port can be had.
    pub async fn start(lease: Duration) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(Shared { lease, ..Shared::default() }));
        let router = Router::new()
            .route("/v1/auth/approle/login", post(app_role))
            .route("/v1/auth/kubernetes/login", post(kubernetes))
            .route("/v1/auth/token/renew-self", post(renew))
            .route("/v1/auth/token/lookup-self", get(look_up))
            .route("/v1/{mount}/data/{*path}", get(read))
            .layer(middleware::from_fn_with_state(Arc::clone(&shared), gate))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("vault: {error}");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a new version of a secret.
    pub fn put(&self, place: &str, data: Value) {
        lock(&self.shared).secrets.entry(place.to_owned()).or_default().push(data);
    }

    /// Deletes a secret with all its versions.
    pub fn delete(&self, place: &str) {
        lock(&self.shared).secrets.remove(place);
    }

    /// A token that was made beside any login.
    pub fn token(&self, text: &str) {
        let mut shared = lock(&self.shared);
        let until = Instant::now() + shared.lease;
        shared.tokens.insert(text.to_owned(), until);
    }

    /// Lets in whoever the cluster says is this user, by a token for the audience `vault`, and nobody else.
    pub fn ask_cluster(&self, client: kube::Client, user: &str) {
        lock(&self.shared).cluster = Some((client, user.to_owned()));
    }

    /// Ends all tokens at once.
    pub fn revoke_all(&self) {
        lock(&self.shared).tokens.clear();
    }

    /// Seals or unseals it.
    pub fn seal(&self, sealed: bool) {
        lock(&self.shared).sealed = sealed;
    }

    /// How often somebody logged in, and renewed a token.
    pub fn counts(&self) -> (u32, u32) {
        let shared = lock(&self.shared);
        (shared.logins, shared.renewals)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(held: &Held) -> MutexGuard<'_, Shared> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn gate(State(held): State<Held>, request: Request, next: Next) -> Response {
    if lock(&held).sealed {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"errors": ["Vault is sealed"]}))).into_response();
    }
    next.run(request).await
}

fn denied() -> Response {
    (StatusCode::FORBIDDEN, Json(json!({"errors": ["permission denied"]}))).into_response()
}

/// The token of a request, if it holds.
fn holds(held: &Held, headers: &HeaderMap) -> Option<String> {
    let token = headers.get("x-vault-token")?.to_str().ok()?.to_owned();
    let until = *lock(held).tokens.get(&token)?;
    (until > Instant::now()).then_some(token)
}

fn grant(held: &Held) -> Response {
    let mut shared = lock(held);
    shared.logins += 1;
    let token = format!("hvs.canary-vault-token-{}", shared.logins);
    let lease = shared.lease;
    shared.tokens.insert(token.clone(), Instant::now() + lease);
    let auth = json!({"client_token": token, "lease_duration": lease.as_secs(), "renewable": true, "policies": ["p"]});
    Json(json!({"auth": auth, "data": null})).into_response()
}

async fn app_role(State(held): State<Held>, Json(body): Json<Value>) -> Response {
    let right = body["role_id"] == "portcullis" && body["secret_id"] == SECRET_ID;
    if right {
        grant(&held)
    } else {
        (StatusCode::BAD_REQUEST, Json(json!({"errors": ["invalid role or secret ID"]}))).into_response()
    }
}

async fn kubernetes(State(held): State<Held>, Json(body): Json<Value>) -> Response {
    let cluster = lock(&held).cluster.clone();
    let jwt = body["jwt"].as_str().unwrap_or_default();
    let known = match cluster {
        None => jwt == SERVICE_ACCOUNT,
        Some((client, user)) => {
            let spec = TokenReviewSpec { token: Some(jwt.to_owned()), audiences: Some(vec!["vault".to_owned()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            let answer = Api::<TokenReview>::all(client).create(&PostParams::default(), &review).await;
            let status = answer.ok().and_then(|r| r.status).unwrap_or_default();
            status.authenticated == Some(true) && status.user.and_then(|u| u.username) == Some(user)
        }
    };
    if body["role"] == "portcullis" && known { grant(&held) } else { denied() }
}

async fn renew(State(held): State<Held>, headers: HeaderMap) -> Response {
    let Some(token) = holds(&held, &headers) else { return denied() };
    let mut shared = lock(&held);
    shared.renewals += 1;
    let lease = shared.lease;
    shared.tokens.insert(token.clone(), Instant::now() + lease);
    let auth = json!({"client_token": token, "lease_duration": lease.as_secs(), "renewable": true});
    Json(json!({"auth": auth})).into_response()
}

async fn look_up(State(held): State<Held>, headers: HeaderMap) -> Response {
    if holds(&held, &headers).is_none() {
        return denied();
    }
    let lease = lock(&held).lease.as_secs();
    Json(json!({"data": {"ttl": lease, "renewable": true, "display_name": "token"}})).into_response()
}

async fn read(
    State(held): State<Held>,
    Path((mount, path)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if holds(&held, &headers).is_none() || path.starts_with("forbidden") {
        return denied();
    }
    let shared = lock(&held);
    let none = || (StatusCode::NOT_FOUND, Json(json!({"errors": []}))).into_response();
    let Some(versions) = shared.secrets.get(&format!("{mount}/{path}")) else { return none() };
    let newest = versions.len();
    let wanted = query.get("version").and_then(|v| v.parse::<usize>().ok()).filter(|v| *v > 0).unwrap_or(newest);
    let Some(data) = versions.get(wanted - 1) else { return none() };
    let metadata =
        json!({"version": wanted, "created_time": "2026-11-28T00:00:00Z", "deletion_time": "", "destroyed": false});
    Json(json!({"data": {"data": data, "metadata": metadata}})).into_response()
}
