//! The admin API's client: a typed method for each thing that the API does.

mod transport;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use portcullis_model::{Kind, Name, Resource, Secret, explain::Explanation};
use serde::{Serialize, de::DeserializeOwned};
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::api::{
    ApiError, AppliedItem, ApplyAnswer, ApplyRequest, ConnectRequest, Connected, Described, ExplainRequest, Finding,
    GatewayStatus, LogLine, NewToken, OAuthAccount, OAuthBegin, OAuthBegun, OAuthFinish, OAuthSave, Page, PluginItem,
    RenderRequest, Rendered, Resealed, Revoked, SignInCode, SignInRequest, TokenItem, TokenRequest,
};

use transport::Place;

/// How long an answer may take. A restart waits for calls in flight.
const PATIENCE: Duration = Duration::from_secs(330);
const MAX_ANSWER: usize = 64 << 20;

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("can't reach a gateway at {place}: {source}")]
    Unreachable {
        /// The socket, or the admin listener's URL.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The gateway refused or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The answer makes no sense.
    #[error("the gateway's answer can't be read: {0}")]
    Answer(String),
}

/// A client of one gateway's admin API, for one tenant.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
    tenant: Name,
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// A client of the gateway that serves this socket. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>, tenant: Name) -> Self {
        Self { place: Place::Socket(socket.into()), tenant }
    }

    /// A client of an admin listener (`http://` or `https://`), which proves by `token` who asks. `tls` says whose certificates
    /// are believed. With the default tenant, requests are about the token's own.
    pub fn remote(url: Url, token: Secret, tls: Arc<rustls::ClientConfig>, tenant: Name) -> Self {
        Self { place: Place::Listener { url, token, tls }, tenant }
    }

    /// The socket, where it is one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.place {
            Place::Socket(path) => Some(path),
            Place::Listener { .. } => None,
        }
    }

    /// The tenant that requests are about.
    pub fn tenant(&self) -> &Name {
        &self.tenant
    }

    /// How the gateway is.
    ///
    /// # Errors
    /// [`ClientError`], like all methods.
    pub async fn status(&self) -> Result<GatewayStatus> {
        self.get("/v1/status", &[]).await
    }

    /// What is not as it should be.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        let page: Page<Finding> = self.get("/v1/doctor", &[]).await?;
        Ok(page.items)
    }

    /// What a call would meet.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation> {
        self.post("/v1/explain", &[], Some(request)).await
    }

    /// One page of resources.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_page(&self, kind: Option<Kind>, after: Option<&str>) -> Result<Page<Resource>> {
        let mut query = Vec::new();
        query.extend(kind.map(|k| ("kind", k.plural())));
        query.extend(after.map(|a| ("after", a)));
        self.get("/v1/resources", &query).await
    }

    /// All resources, page by page.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self, kind: Option<Kind>) -> Result<Vec<Resource>> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.list_page(kind, after.as_deref()).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// One resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resource(&self, kind: Kind, name: &Name) -> Result<Resource> {
        self.get(&format!("/v1/resources/{}/{name}", kind.plural()), &[]).await
    }

    /// One resource and what is known about it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe(&self, kind: Kind, name: &Name) -> Result<Described> {
        self.get(&format!("/v1/resources/{}/{name}/describe", kind.plural()), &[]).await
    }

    /// Takes resources, all or nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apply(&self, resources: Vec<Resource>, dry_run: bool) -> Result<ApplyAnswer> {
        self.post("/v1/apply", &[], Some(&ApplyRequest { resources, dry_run })).await
    }

    /// Deletes a resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, kind: Kind, name: &Name) -> Result<AppliedItem> {
        self.ask(Method::DELETE, &format!("/v1/resources/{}/{name}", kind.plural()), &[], None::<&()>).await
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_token(&self, request: &TokenRequest) -> Result<NewToken> {
        self.post("/v1/tokens", &[], Some(request)).await
    }

    /// All tokens, or those of one owner.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tokens(&self, owner: Option<&str>) -> Result<Vec<TokenItem>> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = Vec::new();
            query.extend(owner.map(|o| ("owner", o)));
            query.extend(after.as_deref().map(|a| ("after", a)));
            let page: Page<TokenItem> = self.get("/v1/tokens", &query).await?;
            all.extend(page.items);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Revokes a token: the next call with it is refused.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke_token(&self, id: &str) -> Result<TokenItem> {
        self.ask(Method::DELETE, &format!("/v1/tokens/{}", segment(id)), &[], None::<&()>).await
    }

    /// Revokes every token of an owner.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke_tokens(&self, owner: &str) -> Result<Revoked> {
        self.ask(Method::DELETE, "/v1/tokens", &[("owner", owner)], None::<&()>).await
    }

    /// Makes a one-time code by which a user signs in.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sign_in_code(&self, user: &Name) -> Result<SignInCode> {
        self.post("/v1/signin", &[], Some(&SignInRequest { user: user.clone() })).await
    }

    /// Connects a server.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(&self, request: &ConnectRequest) -> Result<Connected> {
        self.post("/v1/connections", &[], Some(request)).await
    }

    /// Begins to connect a server with OAuth.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn oauth_begin(&self, request: &OAuthBegin) -> Result<OAuthBegun> {
        self.post("/v1/connections/oauth", &[], Some(request)).await
    }

    /// Brings what the authorization server sent the browser back with.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn oauth_finish(&self, request: &OAuthFinish) -> Result<OAuthAccount> {
        self.post("/v1/connections/oauth/finish", &[], Some(request)).await
    }

    /// Saves an account that was connected.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn oauth_save(&self, request: &OAuthSave) -> Result<Connected> {
        self.post("/v1/connections/oauth/save", &[], Some(request)).await
    }

    /// Ends a server's processes after their calls in flight; the next call starts it anew.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn restart(&self, server: &Name, drain: Option<Duration>) -> Result<()> {
        let drain = drain.map(|d| d.as_secs().to_string());
        let query: Vec<_> = drain.iter().map(|d| ("drain_s", d.as_str())).collect();
        let _: serde_json::Value = self.post(&format!("/v1/servers/{server}/restart"), &query, None::<&()>).await?;
        Ok(())
    }

    /// How all plugins of the tenant stand that have a resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plugins(&self) -> Result<Vec<PluginItem>> {
        let page: Page<PluginItem> = self.get("/v1/plugins", &[]).await?;
        Ok(page.items)
    }

    /// How a plugin stands.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plugin(&self, name: &Name) -> Result<PluginItem> {
        self.get(&format!("/v1/plugins/{name}"), &[]).await
    }

    /// Goes back to the version of a plugin that was active before.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn roll_back(&self, name: &Name) -> Result<PluginItem> {
        self.post(&format!("/v1/plugins/{name}/rollback"), &[], None::<&()>).await
    }

    /// Goes forward again to what the resource says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resume(&self, name: &Name) -> Result<PluginItem> {
        self.post(&format!("/v1/plugins/{name}/resume"), &[], None::<&()>).await
    }

    /// Ends what runs of a server, until it is started again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stop(&self, server: &Name, drain: Option<Duration>) -> Result<()> {
        let drain = drain.map(|d| d.as_secs().to_string());
        let query: Vec<_> = drain.iter().map(|d| ("drain_s", d.as_str())).collect();
        let _: serde_json::Value = self.post(&format!("/v1/servers/{server}/stop"), &query, None::<&()>).await?;
        Ok(())
    }

    /// Allows a stopped server again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(&self, server: &Name) -> Result<()> {
        let _: serde_json::Value = self.post(&format!("/v1/servers/{server}/start"), &[], None::<&()>).await?;
        Ok(())
    }

    /// Gives each deployment of a server so many pods; as many as its definition says where left out.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn scale(&self, server: &Name, replicas: Option<u32>) -> Result<()> {
        let replicas = replicas.map(|n| n.to_string());
        let query: Vec<_> = replicas.iter().map(|n| ("replicas", n.as_str())).collect();
        let _: serde_json::Value = self.post(&format!("/v1/servers/{server}/scale"), &query, None::<&()>).await?;
        Ok(())
    }

    /// What a server becomes in the cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn render(&self, request: &RenderRequest) -> Result<Rendered> {
        self.post("/v1/render", &[], Some(request)).await
    }

    /// Reads the sealing keys again and seals everything with the first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reseal(&self) -> Result<Resealed> {
        self.post("/v1/store/reseal", &[], None::<&()>).await
    }

    /// A server's log: the last lines, with `follow` those to come, with `previous` those of the containers before, each given to `line` as it arrives.
    ///
    /// # Errors
    /// [`ClientError`]; an error of `line` ends it as an answer that can't be used.
    pub async fn logs(
        &self,
        server: &Name,
        (lines, follow, previous): (usize, bool, bool),
        mut line: impl FnMut(LogLine) -> io::Result<()>,
    ) -> Result<()> {
        let (lines, follow, previous) = (lines.to_string(), follow.to_string(), previous.to_string());
        let query = [("lines", lines.as_str()), ("follow", follow.as_str()), ("previous", previous.as_str())];
        let response = self.send(Method::GET, &format!("/v1/servers/{server}/logs"), &query, None::<&()>).await?;
        let mut body = self.accepted(response).await?;
        let mut pending: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ClientError::Answer(e.to_string()))?;
            pending.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = pending.iter().position(|b| *b == b'\n') {
                let told: LogLine =
                    serde_json::from_slice(&pending[..end]).map_err(|e| ClientError::Answer(e.to_string()))?;
                pending.drain(..=end);
                line(told).map_err(|e| ClientError::Answer(e.to_string()))?;
            }
            if pending.len() > MAX_ANSWER {
                return Err(ClientError::Answer("a line without end".to_owned()));
            }
        }
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        self.ask(Method::GET, path, query, None::<&()>).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        self.ask(Method::POST, path, query, body).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let answer = async {
            let response = self.send(method, path, query, body).await?;
            let body = self.accepted(response).await?;
            let bytes = collect(body).await?;
            serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer(e.to_string()))
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .map_err(|_| ClientError::Answer("it did not come in time".to_owned()))?
    }

    /// The body of an answer that is no error.
    async fn accepted(&self, response: Response<Incoming>) -> Result<Incoming> {
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK {
            return Ok(body);
        }
        let bytes = collect(body).await?;
        let error: ApiError = serde_json::from_slice(&bytes)
            .map_err(|_| ClientError::Answer(format!("status {} without an explanation", head.status)))?;
        Err(error.into())
    }

    /// Not in the future below: a serializer can't be sent between threads.
    fn query(&self, further: &[(&str, &str)]) -> String {
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        let own = matches!(self.place, Place::Listener { .. }) && self.tenant == Name::default_tenant();
        if !own {
            pairs.append_pair("tenant", self.tenant.as_str());
        }
        pairs.extend_pairs(further);
        pairs.finish()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>> {
        let odd = |e: &dyn std::fmt::Display| ClientError::Answer(e.to_string());
        let stream = self
            .place
            .connect()
            .await
            .map_err(|source| ClientError::Unreachable { place: self.place.shown(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|e| odd(&e))?;
        // Ends with the answer's body.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let query = self.query(query);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|e| odd(&e))?,
            None => Vec::new(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{path}?{query}"))
            .header(header::HOST, self.place.host())
            .header(header::CONTENT_TYPE, "application/json");
        if let Place::Listener { token, .. } = &self.place {
            let bearer = Zeroizing::new([b"Bearer ", token.expose()].concat());
            let mut value = HeaderValue::from_bytes(&bearer).map_err(|_| odd(&"the token can't be sent"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(Bytes::from(bytes))).map_err(|e| odd(&e))?;
        sender.send_request(request).await.map_err(|e| odd(&e))
    }
}

async fn collect(body: Incoming) -> Result<Bytes> {
    let limited = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(limited.map_err(|e| ClientError::Answer(e.to_string()))?.to_bytes())
}

/// A text as one segment of a path.
fn segment(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
