//! A server of 2026-07-28 that wants input of a legacy client: each of its questions becomes a request on the stream of the
//! client's call, and then the call is made again with the answers (2026-07-28, multi round-trip requests).

use std::{borrow::Cow, collections::BTreeMap, time::Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_model::{Fault, Name, Side};
use portcullis_protocol::{ParseLimits, parse, splice::quote};
use portcullis_upstream::{Body, Message, MessageKind, Spliced, Wire};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::{
    Who,
    line::Line,
    question::{Question, judge},
};
use crate::{
    elicit_url::{self, Page},
    members::Members,
};

/// Rounds of one call: a server that never has enough is given up.
pub const MOST_ROUNDS: usize = 16;
/// Questions of one round.
const MOST_QUESTIONS: usize = 16;

/// What a server that wants input says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted<'a> {
    #[serde(borrow, default)]
    input_requests: BTreeMap<String, Request<'a>>,
    #[serde(borrow, default)]
    request_state: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Request<'a> {
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

impl<'a> Wanted<'a> {
    /// What an answer wants; none where it is an answer like any other.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn of(message: &'a Message) -> Option<Result<Self, Fault>> {
        if message.kind != MessageKind::Result || !message.input_required {
            return None;
        }
        Some(serde_json::from_str(message.payload_text()).map_err(|_| broken()))
    }

    /// Whether the client may be asked all of this, and with which params, where a policy changed them.
    ///
    /// # Errors
    /// Why not.
    pub async fn judge(
        &self,
        who: &Who,
        capabilities: &str,
        server: &Name,
        tool: Option<&str>,
        deadline: Instant,
    ) -> Result<BTreeMap<String, String>, Fault> {
        if self.input_requests.len() > MOST_QUESTIONS {
            return Err(Fault::new(Side::Server, "server-protocol", "the server asks too much at once"));
        }
        let mut changed = BTreeMap::new();
        for (key, request) in &self.input_requests {
            let question =
                Question { server, tool, method: &request.method, params: request.params.map_or("{}", RawValue::get) };
            if let Some(new) = judge(who, capabilities, &question, deadline).await? {
                changed.insert(key.clone(), String::from_utf8_lossy(&new).into_owned());
            }
        }
        Ok(changed)
    }

    /// Every question's params, with other `_meta` in them: those that a policy changed as it left them.
    pub fn with_meta(
        &self,
        changed: &BTreeMap<String, String>,
        meta: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, String> {
        let one = |(key, request): (&String, &Request<'_>)| {
            let params = changed.get(key).map_or_else(|| request.params.map_or("{}", RawValue::get), String::as_str);
            let mut members = Members::read(params)?;
            let new = meta(members.get("_meta").unwrap_or("{}"))?;
            members.set("_meta", new);
            Some((key.clone(), members.to_string()))
        };
        self.input_requests.iter().filter_map(one).collect()
    }

    /// The pages that a person has to open, where the server wants nothing else.
    pub fn pages_only(&self) -> Option<Vec<Page>> {
        let page = |request: &Request<'_>| {
            let params = Members::read(request.params?.get())?;
            let url = request.method == "elicitation/create" && params.text("mode").as_deref() == Some("url");
            url.then_some(())?;
            let message = params.text("message").unwrap_or_default();
            Some(Page { id: elicit_url::fresh_id(), url: params.text("url")?, message })
        };
        let pages: Vec<Page> = self.input_requests.values().map(page).collect::<Option<_>>()?;
        (!pages.is_empty()).then_some(pages)
    }

    /// Asks a legacy client all of it, and gives what the next request has to say beside what the first one did.
    ///
    /// # Errors
    /// Where the client does not answer.
    pub async fn ask(&self, line: &Line, changed: &BTreeMap<String, String>, until: Instant) -> Result<String, Fault> {
        let asked = self.input_requests.iter().map(|(key, request)| async move {
            let params = changed.get(key).map_or_else(|| request.params.map_or("{}", RawValue::get), String::as_str);
            let params = named_page(&request.method, params);
            let message =
                format!(r#"{{"jsonrpc":"2.0","id":0,"method":{},"params":{params}}}"#, quote(&request.method));
            let message = Message::parse(Bytes::from(message)).map_err(|_| broken())?;
            let never = CancellationToken::new();
            let answer = line.ask(&message, until, &never, |_| async {}).await;
            line.count(if answer.is_ok() { "answered" } else { "unanswered" });
            let answer = answer.map_err(unanswered)?;
            let answer = Message::parse(answer).map_err(|_| unanswered("its answer is no JSON-RPC response"))?;
            match answer.kind {
                MessageKind::Result => Ok(format!("{}:{}", quote(key), answer.payload_text())),
                _ => Err(unanswered("the client refused to be asked")),
            }
        });
        let answers: Vec<String> = join_all(asked).await.into_iter().collect::<Result<_, Fault>>()?;
        let mut members = String::new();
        if !self.input_requests.is_empty() {
            members = format!(r#""inputResponses":{{{}}},"#, answers.join(","));
        }
        if let Some(state) = self.request_state {
            members.push_str(&format!(r#""requestState":{},"#, state.get()));
        }
        Ok(members)
    }
}

/// The params of a question; where it is for a page, with the id that each has in the legacy era.
fn named_page<'p>(method: &str, params: &'p str) -> Cow<'p, str> {
    if method != "elicitation/create" || !params.contains("\"url\"") {
        return Cow::Borrowed(params);
    }
    let Some(mut members) = Members::read(params) else { return Cow::Borrowed(params) };
    if members.text("mode").as_deref() != Some("url") || members.get("elicitationId").is_some() {
        return Cow::Borrowed(params);
    }
    members.set("elicitationId", quote(&elicit_url::fresh_id()));
    Cow::Owned(members.to_string())
}

fn broken() -> Fault {
    Fault::new(Side::Server, "server-protocol", "the server wants input in a way that nobody can read")
}

fn unanswered(why: &'static str) -> Fault {
    Fault::new(Side::Caller, "input-missing", format!("the server needs an answer of the client: {why}"))
        .next("Answer it, or call without what it is about")
}

/// A request with what a round adds to it.
pub struct Again<'a> {
    /// The request.
    pub spliced: Spliced<'a>,
    /// Members of its params, each with a comma behind it; may be empty.
    pub members: &'a str,
}

impl Body for Again<'_> {
    fn build(&self, wire: &Wire<'_>) -> Bytes {
        let body = self.spliced.build(wire);
        if self.members.is_empty() {
            return body;
        }
        let limits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };
        // Servers of the modern era get `_meta`, so there are params.
        let at = parse(&body, &limits).ok().and_then(|m| m.params.as_ref().map(|p| p.piece.at + 1));
        let Some(at) = at else { return body };
        let mut out = Vec::with_capacity(body.len() + self.members.len());
        out.extend_from_slice(&body[..at]);
        out.extend_from_slice(self.members.as_bytes());
        out.extend_from_slice(&body[at..]);
        Bytes::from(out)
    }
}
