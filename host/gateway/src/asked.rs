//! What is known of a request once it is read and its caller is known; every method starts from it.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::HeaderMap;
use portcullis_model::Principal;
use portcullis_protocol::{Era, Message, session::Binding};

use crate::view::View;

/// A client, as far as the protocol goes.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its era.
    pub era: Era,
    /// The session of a legacy client.
    pub session: Option<[u8; 12]>,
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
}

impl Asked<'_> {
    /// The JSON-RPC id as the client wrote it.
    pub fn id(&self) -> &str {
        self.message.id.map_or("null", |piece| piece.raw)
    }

    /// Whom sealed texts of this caller are bound to.
    pub fn binding(&self) -> Binding {
        binding(self.view, self.principal)
    }
}

/// Whom sealed texts of this caller at this gateway are bound to.
pub fn binding(view: &View, principal: &Principal) -> Binding {
    Binding {
        tenant: view.tenant.clone(),
        gateway: view.name.clone(),
        principal: portcullis_protocol::session::principal_hash(&principal.subject_text, principal.token.as_deref()),
    }
}
