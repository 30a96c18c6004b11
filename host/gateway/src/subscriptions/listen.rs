//! `subscriptions/listen`: one long answer of notifications that the client asked for, and no others.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::Stream;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{rpc, sse};
use serde::Deserialize;
use tokio::{sync::mpsc, time::Sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::{BUFFERED, Entered, Entry, Lists, resource};
use crate::{
    answer,
    asked::Asked,
    conversation::Who,
    gateways::Gateways,
    offer,
    relay::event,
    session::reader::{KEEP_ALIVE, Open},
};

/// Resources of one stream.
const MOST_URIS: usize = 64;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Params {
    notifications: Filter,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: Vec<String>,
}

/// Answers it.
pub async fn listen(gateways: &Arc<Gateways>, asked: &Asked<'_>) -> Response {
    match stream(gateways, asked).await {
        Ok(response) => response,
        Err(fault) => {
            gateways.metrics.refused(&fault);
            answer::rpc_fault(asked.id(), &fault, asked.request_id, asked.client.era)
        }
    }
}

async fn stream(gateways: &Arc<Gateways>, asked: &Asked<'_>) -> Result<Response, Fault> {
    if let Some(rate) = &asked.view.rate {
        rate.check(&asked.principal.subject_text)?;
    }
    let raw = asked.message.params.as_ref().map_or("{}", |p| p.piece.raw);
    let params: Params = serde_json::from_str(raw).map_err(|_| {
        Fault::new(Side::Caller, "invalid-params", "params.notifications is not what subscriptions/listen takes")
    })?;
    let filter = params.notifications;
    if filter.resource_subscriptions.len() > MOST_URIS {
        return Err(Fault::new(
            Side::Caller,
            "invalid-params",
            format!("more than {MOST_URIS} resource subscriptions"),
        )
        .next("Open another stream for the rest"));
    }
    // What is not offered is left out of what is acknowledged.
    let offer: serde_json::Value =
        serde_json::from_str(&offer::offer(gateways, asked).await.capabilities).unwrap_or_default();
    let offered = |kind: &str| offer[kind]["listChanged"] == true;
    let lists = Lists {
        tools: filter.tools_list_changed && offered("tools"),
        prompts: filter.prompts_list_changed && offered("prompts"),
        resources: filter.resources_list_changed && offered("resources"),
    };
    let over = CancellationToken::new();
    let meta: Arc<str> = format!(r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}"#, asked.id()).into();
    let (sender, receiver) = mpsc::channel(BUFFERED);
    let mut watched = Vec::new();
    let mut refused = None;
    for uri in &filter.resource_subscriptions {
        match resource::watch(gateways, asked, uri).await {
            Ok(watch) => watched.push((uri, watch)),
            Err(fault) => refused = Some(fault),
        }
    }
    if let (true, Some(fault)) = (watched.is_empty() && lists == Lists::default(), refused) {
        return Err(fault);
    }
    let acknowledged = acknowledgement(lists, watched.iter().map(|(uri, _)| uri.as_str()), &meta);
    // The first message of the stream, so that nothing comes before it.
    let first = sender.try_send(Bytes::from(acknowledged));
    debug_assert!(first.is_ok(), "the channel is new");
    let entry = Entry {
        at: (asked.view.tenant.clone(), asked.view.name.clone()),
        caller: asked.binding().principal,
        whose: Arc::clone(asked.principal),
        lists,
        meta: Arc::clone(&meta),
        sender: sender.clone(),
        over: over.clone(),
    };
    let entered = gateways.subscriptions.enter(gateways, entry)?;
    let who = Who::of(asked);
    for (uri, watch) in watched {
        let (sender, meta, uri) = (sender.clone(), Arc::clone(&meta), uri.clone());
        let tell = move |updated: &resource::Updated<'_>| {
            let params = updated.params(&uri, &meta);
            let message =
                format!(r#"{{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{params}}}"#);
            // Whoever has so many unread will read the resource anyway.
            let _ = sender.try_send(Bytes::from(message));
        };
        tokio::spawn(watch.run(who.clone(), over.child_token(), tell));
    }
    let end = rpc::result(asked.id(), &format!(r#"{{"resultType":"complete",{meta}}}"#));
    let body = Listening {
        receiver,
        end: Some(end),
        over: Box::pin(over.clone().cancelled_owned()),
        silent: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
        _entered: entered,
        _guard: over.drop_guard(),
        _open: Open::new(&gateways.metrics.streams),
    };
    Ok(answer::events(Body::from_stream(body)))
}

fn acknowledgement<'u>(lists: Lists, uris: impl Iterator<Item = &'u str>, meta: &str) -> String {
    let mut granted = serde_json::Map::new();
    for (wanted, name) in [
        (lists.tools, "toolsListChanged"),
        (lists.prompts, "promptsListChanged"),
        (lists.resources, "resourcesListChanged"),
    ] {
        if wanted {
            granted.insert(name.to_owned(), true.into());
        }
    }
    let uris: Vec<serde_json::Value> = uris.map(Into::into).collect();
    if !uris.is_empty() {
        granted.insert("resourceSubscriptions".to_owned(), uris.into());
    }
    let granted = serde_json::Value::Object(granted);
    format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{"notifications":{granted},{meta}}}}}"#
    )
}

/// The body of the answer.
struct Listening {
    receiver: mpsc::Receiver<Bytes>,
    /// The result that ends it in good order.
    end: Option<Bytes>,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    silent: Pin<Box<Sleep>>,
    _entered: Entered,
    /// Ends the watches of resources.
    _guard: DropGuard,
    _open: Open,
}

impl Stream for Listening {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.end.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(message) = self.receiver.poll_recv(cx) {
            if let Some(message) = message {
                self.silent.as_mut().reset(tokio::time::Instant::now() + KEEP_ALIVE);
                return Poll::Ready(Some(Ok(event(&message))));
            }
            return Poll::Ready(None);
        }
        if self.over.as_mut().poll(cx).is_ready() {
            let end = self.end.take();
            return Poll::Ready(end.map(|end| Ok(event(&end))));
        }
        match self.silent.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.silent.as_mut().reset(tokio::time::Instant::now() + KEEP_ALIVE);
                Poll::Ready(Some(Ok(Bytes::from_static(sse::KEEP_ALIVE))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_granted_is_acknowledged() {
        let lists = Lists { tools: true, ..Lists::default() };
        let text = acknowledgement(
            lists,
            ["file:///a"].into_iter(),
            r#""_meta":{"io.modelcontextprotocol/subscriptionId":"x"}"#,
        );
        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(message["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(
            message["params"],
            serde_json::json!({
                "notifications": {"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]},
                "_meta": {"io.modelcontextprotocol/subscriptionId": "x"},
            })
        );
    }
}
