//! Conversations: what a server says and asks while a call runs, and what its client answers.
//!
//! | question | where |
//! |---|---|
//! | what can this client be asked? | `capabilities` |
//! | on which peer does its call run? | `pick`, `pool` |
//! | how does the call speak with it? | `line` |
//! | what becomes of a server's request? | `question` |
//! | what becomes of what a server sends before its answer? | `follow` |
//! | a server of 2026-07-28 that wants input of a legacy client | `rounds` |
//! | who runs the call, and what becomes of it when its client goes away? | `drive` |
//! | what belongs to no call | `attend` |

use std::sync::Arc;

use http::HeaderMap;
use portcullis_model::Principal;
use portcullis_plugin::Attributes;

use crate::{
    asked::{Asked, Received},
    view::View,
};

pub mod attend;
pub mod capabilities;
pub mod drive;
pub mod follow;
pub mod line;
pub mod pick;
pub mod pool;
pub mod question;
pub mod rounds;

/// On whose behalf something is asked.
#[derive(Clone)]
pub struct Who {
    /// The gateway.
    pub view: Arc<View>,
    /// The caller.
    pub principal: Arc<Principal>,
    /// The headers of the caller's request.
    pub headers: Arc<HeaderMap>,
    /// The request's id in logs.
    pub request_id: Arc<str>,
    /// What the policies that the request meets tell each other.
    pub attributes: Attributes,
}

impl Who {
    /// Whoever asked this.
    pub fn of(asked: &Asked<'_>) -> Self {
        Self {
            view: Arc::clone(asked.view),
            principal: Arc::clone(asked.principal),
            headers: Arc::clone(asked.headers),
            request_id: Arc::clone(asked.request_id),
            attributes: asked.attributes.clone(),
        }
    }
}

impl From<&Received> for Who {
    fn from(received: &Received) -> Self {
        Self {
            view: Arc::clone(&received.view),
            principal: Arc::clone(&received.principal),
            headers: Arc::clone(&received.headers),
            request_id: Arc::clone(&received.request_id),
            attributes: received.attributes.clone(),
        }
    }
}
