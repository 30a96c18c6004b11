//! A stream of server-sent events, read one by one, and dropped when a test says so.

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use tokio::time::timeout;

use crate::PATIENCE;

/// One event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// Its type; none for a message.
    pub kind: Option<String>,
    /// Its id.
    pub id: Option<String>,
    /// Its data; empty for one that primes.
    pub data: String,
    /// How soon to come again, in milliseconds.
    pub retry: Option<u64>,
}

/// An open stream.
pub struct Events {
    /// The status of the response.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
}

impl Events {
    /// Sends a request and reads its answer as a stream, whatever it is.
    ///
    /// # Errors
    /// Where no answer begins.
    pub async fn open(method: &str, url: &str, headers: &[(&str, &str)], body: String) -> anyhow::Result<Self> {
        let mut request = Request::builder().method(method).uri(url);
        if !headers.iter().any(|(n, _)| *n == "accept") {
            request = request.header("accept", "application/json, text/event-stream");
        }
        if method == "POST" {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = timeout(PATIENCE, client.request(request.body(Full::new(Bytes::from(body)))?))
            .await
            .context("no answer begins")??;
        let (head, body) = answer.into_parts();
        Ok(Self { status: head.status, headers: head.headers, body, text: String::new() })
    }

    /// The next event, priming ones included; none at the end.
    ///
    /// # Errors
    /// Where none comes in time.
    pub async fn event(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some((head, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                let mut told = false;
                for (field, value) in head.lines().filter_map(|l| l.split_once(':')) {
                    let value = value.trim_start();
                    told |= !field.is_empty();
                    match field {
                        "event" => event.kind = Some(value.to_owned()),
                        "id" => event.id = Some(value.to_owned()),
                        "data" => event.data.push_str(value),
                        "retry" => event.retry = value.parse().ok(),
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                if told {
                    return Ok(Some(event));
                }
                continue;
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.context("no event in time")?;
            let Some(frame) = frame else { return Ok(None) };
            let Ok(data) = frame.context("the stream broke")?.into_data() else { continue };
            self.text.push_str(std::str::from_utf8(&data)?);
        }
    }

    /// The next message, and the id of its event; none at the end.
    ///
    /// # Errors
    /// Where none comes in time, or something that is none.
    pub async fn message(&mut self) -> anyhow::Result<Option<(Option<String>, Value)>> {
        while let Some(event) = self.event().await? {
            if !event.data.is_empty() {
                return Ok(Some((event.id, serde_json::from_str(&event.data)?)));
            }
        }
        Ok(None)
    }

    /// The body of an answer that is no stream.
    ///
    /// # Errors
    /// Where it breaks off or is no JSON.
    pub async fn json(self) -> anyhow::Result<Value> {
        let body = timeout(PATIENCE, self.body.collect()).await.context("no end")??.to_bytes();
        serde_json::from_slice(&body).with_context(|| String::from_utf8_lossy(&body).into_owned())
    }
}
