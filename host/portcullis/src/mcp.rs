//! A small MCP client of one gateway, for commands: the house's own transports towards our own door.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use portcullis_console::api::ApiError;
use portcullis_model::{Name, Side, Span, spec::Traffic};
use portcullis_upstream::{
    Account, Endpoint, HttpEndpoint, Incoming, ListKind, MessageKind, Options, Outgoing, Params, Peer, Target,
    TargetKey, UpstreamError, Upstreams, launch::NoLauncher,
};
use serde_json::{Value, value::RawValue};
use url::Url;
use zeroize::Zeroizing;

use crate::exit::{Exit, Failure};

/// The file in a data directory that `quickstart` keeps its token in.
pub const TOKEN_FILE: &str = "token";
/// The variable that a token is read from.
pub const TOKEN_VARIABLE: &str = "PORTCULLIS_TOKEN";

/// A client of one gateway under one token.
pub struct Mcp {
    _pool: Arc<Upstreams>,
    peer: Arc<Peer>,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

impl Mcp {
    /// A client. Connects to nothing yet.
    ///
    /// # Errors
    /// Where the token can't stand in a header, or TLS can't be set up.
    pub fn new(url: Url, token: Option<&str>, timeout: Span) -> Result<Self, Failure> {
        let mut headers = Vec::new();
        if let Some(token) = token {
            let text = Zeroizing::new(format!("Bearer {token}"));
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| Failure::usage("the token is none: it holds characters that no header may hold"))?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        let pool = Upstreams::new(Options::new(Arc::new(NoLauncher))).map_err(failure)?;
        let target = Target {
            key: TargetKey {
                tenant: Name::default_tenant(),
                server: Name::default_tenant(),
                generation: 0,
                account: Account::None,
                conversation: None,
                era: None,
            },
            endpoint: Endpoint::Http(Arc::new(HttpEndpoint { url, headers: Vec::new(), allow_private: true })),
            traffic: Arc::new(Traffic { timeout, ..Traffic::default() }),
        };
        let peer = pool.peer(&target).map_err(failure)?;
        Ok(Self { _pool: pool, peer, headers, timeout: timeout.get() })
    }

    /// The tools that the token's owner sees, as the gateway tells them.
    ///
    /// # Errors
    /// A refusal, or why there is no answer.
    pub async fn tools(&self) -> Result<Vec<Value>, Failure> {
        let listing = self.peer.list(ListKind::Tools, &self.headers).await.map_err(|e| self.failure(e))?;
        listing.items.iter().map(|tool| serde_json::from_slice(&tool.raw).map_err(odd)).collect()
    }

    /// Calls a tool. The answer is its result, whatever it says.
    ///
    /// # Errors
    /// A refusal, or why there is no answer.
    pub async fn call(&self, tool: &str, arguments: &RawValue) -> Result<Value, Failure> {
        let name = serde_json::to_string(tool).map_err(odd)?;
        let members = format!("\"name\":{name},\"arguments\":{}", arguments.get());
        let incoming = self
            .peer
            .send(Outgoing {
                name: Some(tool),
                headers: &self.headers,
                ..Outgoing::new(
                    "tools/call",
                    &Params { method: "tools/call", members: &members },
                    Instant::now() + self.timeout,
                )
            })
            .await
            .map_err(|e| self.failure(e))?;
        let message = match incoming {
            Incoming::Json { message, .. } => message,
            Incoming::Stream { mut stream, .. } => stream.answer().await.map_err(failure)?,
        };
        let payload: Value = serde_json::from_slice(&message.body[message.payload.clone()]).map_err(odd)?;
        if message.kind == MessageKind::Error { Err(refusal(&payload)) } else { Ok(payload) }
    }
}

impl Mcp {
    fn failure(&self, error: UpstreamError) -> Failure {
        let nobody = self.headers.is_empty() && matches!(error, UpstreamError::Status { code: 401, .. });
        let mut failure = failure(error);
        if nobody {
            failure.error.code = "unauthenticated".to_owned();
            failure.error.message = "the gateway has to know who is calling, and no token was sent".to_owned();
            failure.error.next = Some(format!(
                "Give one in {TOKEN_VARIABLE} or --token-file, or call as somebody with --as user:NAME; `portcullis token create` makes one."
            ));
        }
        failure
    }
}

/// What an error response says.
fn refusal(error: &Value) -> Failure {
    let message = error["message"].as_str().unwrap_or("the gateway refused without saying why").to_owned();
    of_fault(&error["data"], message)
}

/// What a fault of the gateway says, as `data` of an error or in a refused tool call's `_meta`.
pub fn of_fault(data: &Value, message: String) -> Failure {
    let text = |name: &str| data[name].as_str().map(ToOwned::to_owned);
    let side = text("side").unwrap_or_else(|| Side::Server.as_str().to_owned());
    let code = text("code").unwrap_or_else(|| "error".to_owned());
    let exit = match (&*side, &*code) {
        (_, "unknown-tool" | "unknown-gateway" | "unknown-tenant" | "not-found") => Exit::NotFound,
        ("policy", _) => Exit::Refused,
        (_, "unauthenticated" | "invalid-credential") => Exit::Refused,
        _ => Exit::Failure,
    };
    let error = ApiError { side, code, message, next: text("next"), problems: Vec::new() };
    Failure { exit, error, request: text("requestId") }
}

/// The sentence of a fault in a tool's result, whose text has the next step and the request id behind it (for models).
pub fn bare(text: &str, data: &Value) -> String {
    let member = |name: &str| data[name].as_str().unwrap_or_default();
    let end = format!(" [{}: {}, request {}]", member("side"), member("code"), member("requestId"));
    let text = text.strip_suffix(&end).unwrap_or(text);
    let next = member("next");
    if next.is_empty() { text } else { text.strip_suffix(next).unwrap_or(text) }.trim_end().to_owned()
}

fn failure(error: UpstreamError) -> Failure {
    let text = error.to_string();
    match error {
        UpstreamError::Connect(_) | UpstreamError::Open { .. } => Failure::new(Exit::Unreachable, "unreachable", text)
            .next("Is the gateway running there? See `portcullis doctor`."),
        UpstreamError::Status { code: 401 | 403, www_authenticate, .. } => {
            let why =
                www_authenticate.as_deref().and_then(description).map(|why| format!(": {why}")).unwrap_or_default();
            let message = format!("the gateway does not take this token{why}");
            let mut failure = Failure::new(Exit::Refused, "invalid-credential", message).next(format!(
                "Make one with `portcullis token create`, or get a new one where this one is from, and give it in {TOKEN_VARIABLE} or \
                 --token-file."
            ));
            failure.error.side = Side::Caller.as_str().to_owned();
            failure
        }
        UpstreamError::Status { code: 404, .. } => {
            Failure::new(Exit::NotFound, "unknown-gateway", "there is no such gateway, or not for this token")
                .next("See `portcullis get gateways`.")
        }
        _ => Failure::new(Exit::Failure, "failed", text),
    }
}

/// What a challenge says of why (RFC 6750 section 3), for the terminal.
fn description(challenge: &str) -> Option<String> {
    let (_, rest) = challenge.split_once("error_description=\"")?;
    let text = portcullis_model::text::shown(rest.split('"').next()?, 200);
    (!text.is_empty()).then_some(text)
}

fn odd(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Failure, "answer", format!("the gateway's answer can't be read: {error}"))
}

/// A token from a file, without its line break.
///
/// # Errors
/// Where the file can't be read.
pub fn read_token(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = Zeroizing::new(
        std::fs::read_to_string(path)
            .map_err(|e| Failure::new(Exit::Failure, "io", format!("{}: {e}", path.display())))?,
    );
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Where `quickstart` keeps the token for the gateway at an admin socket.
pub fn token_beside(socket: &Path) -> PathBuf {
    socket.with_file_name(TOKEN_FILE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_is_told_once() {
        let data = json!({"side": "policy", "code": "denied", "requestId": "r1", "next": "Ask."});
        assert_eq!(bare("no such day. Ask. [policy: denied, request r1]", &data), "no such day.");
        let plain = json!({"side": "policy", "code": "denied", "requestId": "r1"});
        assert_eq!(bare("not [today] [policy: denied, request r1]", &plain), "not [today]");
        assert_eq!(bare("something else", &data), "something else");
        let failure = of_fault(&data, "m".to_owned());
        assert_eq!((failure.exit, failure.request.as_deref()), (Exit::Refused, Some("r1")));
        let wrong = json!({"side": "caller", "code": "invalid-credential"});
        assert_eq!(of_fault(&wrong, String::new()).exit, Exit::Refused);
    }
}
