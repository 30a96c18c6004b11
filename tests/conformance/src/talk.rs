//! A client without an SDK: it keeps every message of an exchange as it came, and answers what the server asks meanwhile.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use portcullis_e2e::{
    PATIENCE,
    http::{LEGACY, MODERN},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::timeout;

/// The extension that tools may answer tasks to.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";
/// How often a server may ask in one call.
const ROUNDS: usize = 8;

/// A message that is no answer: its method and parameters, as they came.
pub type Said = (String, String);

/// How an exchange ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// `result`.
    Result(String),
    /// `error`.
    Error(String),
}

/// Everything that came of one request.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// What the server asked, in whichever way its era has; sorted, since several things may be asked at once.
    pub asked: BTreeSet<Said>,
    /// What it told before the answer, in order.
    pub told: Vec<Said>,
    /// The answer.
    pub end: End,
}

/// A client of one era.
#[derive(Clone)]
pub struct Talk {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    version: &'static str,
    capabilities: Value,
    session: Option<String>,
    id: u64,
    /// What the server said when it was greeted; empty in the modern era.
    pub greeting: String,
}

#[derive(Deserialize)]
struct Message {
    id: Option<Value>,
    method: Option<String>,
    params: Option<Box<RawValue>>,
    result: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

impl Message {
    fn params(&self) -> String {
        self.params.as_ref().map_or_else(String::new, |p| p.get().to_owned())
    }
}

impl Talk {
    /// Connects; in the legacy era with a handshake.
    ///
    /// # Errors
    /// Where the handshake fails.
    pub async fn open(url: &str, version: &'static str, capabilities: Value) -> anyhow::Result<Self> {
        let http = Client::builder(TokioExecutor::new()).build_http();
        let mut talk =
            Self { http, url: url.to_owned(), version, capabilities, session: None, id: 0, greeting: String::new() };
        if version == LEGACY {
            let hello = json!({"protocolVersion": LEGACY, "capabilities": talk.capabilities,
                "clientInfo": {"name": "portcullis-tests", "version": "1"}});
            match talk.ask("initialize", hello).await?.end {
                End::Result(result) => talk.greeting = result,
                End::Error(error) => bail!("initialize: {error}"),
            }
            talk.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}), &[]).await?;
        }
        Ok(talk)
    }

    /// Asks and answers until there is an answer.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn ask(&mut self, method: &str, params: Value) -> anyhow::Result<Exchange> {
        timeout(PATIENCE, self.exchange(method, params))
            .await
            .with_context(|| format!("{method}: no answer in time"))?
    }

    async fn exchange(&mut self, method: &str, params: Value) -> anyhow::Result<Exchange> {
        let mut exchange = Exchange { asked: BTreeSet::new(), told: Vec::new(), end: End::Error(String::new()) };
        let mut more = params.clone();
        for _ in 0..ROUNDS {
            exchange.end = self.once(method, more.clone(), &mut exchange).await?;
            let End::Result(text) = &exchange.end else { return Ok(exchange) };
            let result: Value = serde_json::from_str(text)?;
            if result["resultType"] != "input_required" {
                return Ok(exchange);
            }
            let mut asked: Asked = serde_json::from_str(text)?;
            let mut answers = json!({});
            for (key, request) in asked.input_requests.take().unwrap_or_default() {
                let params = request.params();
                let asked = request.method.context("an input request without a method")?;
                answers[&key] = canned(&asked, &params);
                exchange.asked.insert((asked, params));
            }
            more = params.clone();
            more["inputResponses"] = answers;
            if let Some(state) = asked.request_state {
                more["requestState"] = json!(state);
            }
        }
        bail!("{method}: still not answered after {ROUNDS} rounds")
    }

    async fn once(&mut self, method: &str, mut params: Value, exchange: &mut Exchange) -> anyhow::Result<End> {
        self.id += 1;
        let id = self.id;
        if self.version == MODERN {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        }
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let headers = if self.version == MODERN { headers_of(&message) } else { Vec::new() };
        let answer = self.post(&message, &headers).await?;
        if let Some(session) = answer.headers().get("mcp-session-id") {
            self.session = Some(session.to_str()?.to_owned());
        }
        let mut events = Events::of(answer);
        loop {
            let Some(text) = events.next().await? else {
                // A server may let a stream go before it has answered; whoever comes back gets the rest (SEP-1699).
                let last =
                    events.last_id.take().with_context(|| format!("{method}: the stream ended without an answer"))?;
                let again = self.send("GET", Bytes::new(), &[("last-event-id".to_owned(), last)]).await?;
                ensure!(again.status() == 200, "GET with Last-Event-ID: {}", again.status());
                events = Events::of(again);
                continue;
            };
            let found: Message = serde_json::from_str(&text).with_context(|| text.clone())?;
            match (&found.method, &found.id) {
                (Some(asked), Some(theirs)) => {
                    let params = found.params();
                    let reply = json!({"jsonrpc": "2.0", "id": theirs, "result": canned(asked, &params)});
                    exchange.asked.insert((asked.clone(), params));
                    let taken = self.post(&reply, &[]).await?.status();
                    ensure!(taken == 202, "an answer to {asked} was met with {taken}");
                }
                (Some(method), None) => exchange.told.push((method.clone(), found.params())),
                _ => {
                    ensure!(found.id == Some(json!(id)), "an answer to another request: {text}");
                    return match (found.result, found.error) {
                        (Some(result), None) => Ok(End::Result(result.get().to_owned())),
                        (None, Some(error)) => Ok(End::Error(error.get().to_owned())),
                        _ => bail!("neither result nor error: {text}"),
                    };
                }
            }
        }
    }

    /// Opens the stream of what belongs to no request; `filter` is that of `subscriptions/listen`.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn listen(&mut self, filter: Value) -> anyhow::Result<Events> {
        if self.version == LEGACY {
            let answer = self.send("GET", Bytes::new(), &[]).await?;
            ensure!(answer.status() == 200, "GET: {}", answer.status());
            return Ok(Events::of(answer));
        }
        self.id += 1;
        let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": self.capabilities});
        let message = json!({"jsonrpc": "2.0", "id": self.id, "method": "subscriptions/listen",
            "params": {"notifications": filter, "_meta": meta}});
        let answer = self.post(&message, &headers_of(&message)).await?;
        ensure!(answer.status() == 200, "subscriptions/listen: {}", answer.status());
        Ok(Events::of(answer))
    }

    async fn post(&self, message: &Value, headers: &[(String, String)]) -> anyhow::Result<Response<Incoming>> {
        self.send("POST", Bytes::from(message.to_string()), headers).await
    }

    async fn send(
        &self,
        method: &str,
        body: Bytes,
        headers: &[(String, String)],
    ) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", self.version);
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.http.request(request.body(Full::new(body))?).await.with_context(|| self.url.clone())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    input_requests: Option<std::collections::BTreeMap<String, Message>>,
    request_state: Option<String>,
}

/// The headers that repeat what the body says (SEP-2243).
fn headers_of(message: &Value) -> Vec<(String, String)> {
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let mut headers = Vec::new();
    headers.extend(text("/method").map(|m| ("mcp-method".to_owned(), m)));
    let name = text("/params/name").or(text("/params/uri")).or(text("/params/taskId"));
    headers.extend(name.map(|n| ("mcp-name".to_owned(), n)));
    if message["params"]["name"] == "test_custom_header" {
        for parameter in ["value", "count"] {
            let Some(value) = message["params"]["arguments"].get(parameter) else { continue };
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            headers.push((format!("mcp-param-{parameter}"), value));
        }
    }
    headers
}

/// What this client says to each request of a server.
pub fn canned(method: &str, params: &str) -> Value {
    match method {
        "elicitation/create" => {
            let params: Value = serde_json::from_str(params).unwrap_or_default();
            let properties = params["requestedSchema"]["properties"].as_object().cloned().unwrap_or_default();
            let fill = |schema: &Value| match schema["type"].as_str() {
                _ if schema.get("default").is_some() => schema["default"].clone(),
                Some("boolean") => json!(true),
                Some("number" | "integer") => json!(7),
                Some("array") => json!([]),
                _ => json!("canned"),
            };
            let content: serde_json::Map<String, Value> =
                properties.iter().map(|(name, schema)| (name.clone(), fill(schema))).collect();
            json!({"action": "accept", "content": content})
        }
        "sampling/createMessage" => json!({"role": "assistant", "model": "canned", "stopReason": "endTurn",
            "content": {"type": "text", "text": "sampled"}}),
        "roots/list" => json!({"roots": [{"uri": "file:///canned", "name": "canned"}]}),
        _ => json!({}),
    }
}

/// The messages of an answer: one document, or a stream of events.
pub struct Events {
    body: Incoming,
    stream: bool,
    buffer: Vec<u8>,
    ended: bool,
    last_id: Option<String>,
}

impl Events {
    fn of(answer: Response<Incoming>) -> Self {
        let kind = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let stream = kind.starts_with("text/event-stream");
        Self { body: answer.into_body(), stream, buffer: Vec::new(), ended: false, last_id: None }
    }

    /// The next message; none at the end.
    ///
    /// # Errors
    /// Where the body breaks off.
    pub async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(frame) => self.buffer.extend(frame?.data_ref().map(|d| d.to_vec()).unwrap_or_default()),
                None => self.ended = true,
            }
        }
    }

    fn take(&mut self) -> anyhow::Result<Option<String>> {
        if !self.stream {
            let whole = self.ended && !self.buffer.is_empty();
            return whole.then(|| String::from_utf8(std::mem::take(&mut self.buffer))).transpose().map_err(Into::into);
        }
        while let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
            let event = String::from_utf8(self.buffer.drain(..end + 2).collect())?;
            self.last_id =
                event.lines().find_map(|l| l.strip_prefix("id:")).map(|l| l.trim().to_owned()).or(self.last_id.take());
            let data: Vec<&str> = event
                .lines()
                .filter_map(|l| l.strip_prefix("data:"))
                .map(|l| l.strip_prefix(' ').unwrap_or(l))
                .collect();
            let data = data.join("\n");
            // The event that only says where to come back to has no data.
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
