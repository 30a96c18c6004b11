//! What a legacy session asks for that lasts: a log level, subscriptions to resources.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_protocol::rpc;

use super::Level;
use crate::{answer, asked::Asked, conversation::Who, gateways::Gateways, subscriptions::resource};

/// Resources that one session may be subscribed to.
const MOST_URIS: usize = 64;

/// `logging/setLevel`. Servers are told with the session's next call to them.
pub fn set_level(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    answered(
        gateways,
        asked,
        (|| {
            let params = asked.message.params.as_ref().map_or("{}", |p| p.piece.raw);
            let level = Level::of_params(params).ok_or_else(|| {
                Fault::new(Side::Caller, "invalid-params", "params.level is no log level")
                    .next("Send debug, info, notice, warning, error, critical, alert or emergency")
            })?;
            gateways.live(asked)?.set_level(level);
            Ok(())
        })(),
    )
}

/// `resources/subscribe`.
pub async fn subscribe(gateways: &Arc<Gateways>, asked: &Asked<'_>) -> Response {
    let done = async {
        let uri = uri(asked)?;
        if let Some(rate) = &asked.view.rate {
            rate.check(&asked.principal.subject_text)?;
        }
        let watch = resource::watch(gateways, asked, uri).await?;
        let live = gateways.live(asked)?;
        let over = live.subscribe(uri, MOST_URIS).ok_or_else(|| {
            Fault::new(
                Side::Caller,
                "too-many-subscriptions",
                format!("a session has {MOST_URIS} subscriptions at most"),
            )
            .next("Unsubscribe from what you don't need")
        })?;
        let exposed = uri.to_owned();
        let live = Arc::downgrade(&live);
        let tell = move |updated: &resource::Updated<'_>| {
            let params = updated.params(&exposed, "");
            let message =
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{params}}}"#);
            if let Some(live) = live.upgrade() {
                live.tell(Bytes::from(message));
            }
        };
        tokio::spawn(watch.run(Who::of(asked), over, tell));
        Ok(())
    };
    answered(gateways, asked, done.await)
}

/// `resources/unsubscribe`.
pub fn unsubscribe(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    answered(
        gateways,
        asked,
        uri(asked).map(|uri| {
            if let Some(live) = asked.client.session.and_then(|session| gateways.sessions.get(&session)) {
                live.unsubscribe(uri);
            }
        }),
    )
}

fn uri<'a>(asked: &'a Asked<'_>) -> Result<&'a str, Fault> {
    let uri = asked.message.params.as_ref().and_then(|p| p.uri.as_ref()).map(AsRef::as_ref);
    uri.ok_or_else(|| Fault::new(Side::Caller, "invalid-params", "params.uri is missing").next("Name the resource"))
}

fn answered(gateways: &Gateways, asked: &Asked<'_>, done: Result<(), Fault>) -> Response {
    match done {
        Ok(()) => answer::json(StatusCode::OK, rpc::empty(asked.id(), asked.client.era)),
        Err(fault) => {
            gateways.metrics.refused(&fault);
            answer::rpc_fault(asked.id(), &fault, asked.request_id, asked.client.era)
        }
    }
}
