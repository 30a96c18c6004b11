//! What is known of a request once it is read and its caller is known; every method starts from it.

use std::{sync::Arc, time::Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::HeaderMap;
use portcullis_credential::{Carried, CredentialPlan};
use portcullis_model::{Fault, Principal};
use portcullis_plugin::Attributes;
use portcullis_protocol::{Era, Message, Version, session::Binding};

use crate::{Gateways, view::View};

/// A client, as far as the protocol goes.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its era.
    pub era: Era,
    /// The session of a legacy client.
    pub session: Option<[u8; 12]>,
    /// The revision that it speaks.
    pub version: Version,
    /// What a legacy client can be asked, as a JSON object; none for nothing. A modern one says it in each request.
    pub capabilities: Option<Arc<str>>,
    /// Whether it speaks the transport of 2024-11-05: answers go out on its one stream, not to its POSTs.
    pub over_sse: bool,
}

impl Client {
    /// A client of the modern era.
    pub fn modern() -> Self {
        Self { era: Era::Modern, session: None, version: Version::LATEST, capabilities: None, over_sse: false }
    }

    /// A legacy client that has no session yet.
    pub fn newcomer() -> Self {
        Self { era: Era::Legacy, session: None, version: Version::LATEST_LEGACY, capabilities: None, over_sse: false }
    }

    /// Its session as text, for keys and logs.
    pub fn short_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.session.unwrap_or_default())
    }
}

/// What phases 1 to 3 made of a request, without the message that is read from its body.
#[derive(Clone)]
pub struct Received {
    /// The gateway that was asked.
    pub view: Arc<View>,
    /// Who asks.
    pub principal: Arc<Principal>,
    /// The client's side of the protocol.
    pub client: Client,
    /// The whole body.
    pub body: Bytes,
    /// The request's headers.
    pub headers: Arc<HeaderMap>,
    /// Its id in logs, traces, audit and errors.
    pub request_id: Arc<str>,
    /// When it came.
    pub started: Instant,
    /// Whether the client comes back from a page that it was asked to open.
    pub returns: bool,
    /// What the policies that it meets tell each other.
    pub attributes: Attributes,
}

impl Received {
    /// The request with its message, which was read from the body.
    pub fn asked<'a>(&'a self, message: &'a Message<'a>) -> Asked<'a> {
        Asked {
            view: &self.view,
            principal: &self.principal,
            client: &self.client,
            message,
            body: &self.body,
            headers: &self.headers,
            request_id: &self.request_id,
            started: self.started,
            returns: self.returns,
            attributes: &self.attributes,
        }
    }
}

/// A request after phases 1 to 3.
pub struct Asked<'a> {
    /// The gateway that was asked.
    pub view: &'a Arc<View>,
    /// Who asks.
    pub principal: &'a Arc<Principal>,
    /// The client's side of the protocol.
    pub client: &'a Client,
    /// The message, borrowed from `body`.
    pub message: &'a Message<'a>,
    /// The whole body.
    pub body: &'a Bytes,
    /// The request's headers.
    pub headers: &'a Arc<HeaderMap>,
    /// Its id in logs, traces, audit and errors.
    pub request_id: &'a Arc<str>,
    /// When it came.
    pub started: Instant,
    /// Whether the client comes back from a page that it was asked to open.
    pub returns: bool,
    /// What the policies that it meets tell each other.
    pub attributes: &'a Attributes,
}

impl Asked<'_> {
    /// Under whose account this goes to the server of a plan. What went wrong inside is in the log, by the request's id.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub async fn account(&self, gateways: &Gateways, plan: &Arc<CredentialPlan>) -> Result<Arc<Carried>, Fault> {
        let resolved = gateways.credentials.resolve(plan, self.principal, self.headers).await;
        if let Err(fault) = &resolved
            && let Some(why) = &fault.inside
        {
            let (request, server) = (&**self.request_id, fault.server.as_deref());
            tracing::warn!(request, server, code = fault.code, why, "a credential could not be had");
        }
        resolved
    }

    /// The JSON-RPC id as the client wrote it.
    pub fn id(&self) -> &str {
        self.message.id.map_or("null", |piece| piece.raw)
    }

    /// What the client can be asked, as a JSON object.
    pub fn capabilities(&self) -> &str {
        let said = match self.client.era {
            Era::Legacy => self.client.capabilities.as_deref(),
            Era::Modern => self.message.meta().and_then(|m| m.client_capabilities).map(|c| c.raw),
        };
        said.unwrap_or("{}")
    }

    /// Whom sealed texts of this caller are bound to.
    pub fn binding(&self) -> Binding {
        binding(self.view, self.principal)
    }
}

/// Whom sealed texts of this caller at this gateway are bound to.
pub fn binding(view: &View, principal: &Principal) -> Binding {
    // A client that renews its token is the same client.
    let credential = principal.grant.as_deref().or(principal.token.as_deref());
    Binding {
        tenant: view.tenant.clone(),
        gateway: view.name.clone(),
        principal: portcullis_protocol::session::principal_hash(&principal.subject_text, credential),
    }
}
