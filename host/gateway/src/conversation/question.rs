//! One request of a server to a client: judged, asked under an id of ours, and its answer handed back under the server's.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_model::{Fault, Name};
use portcullis_plugin::{QuestionFacts, RequestFacts};
use portcullis_protocol::{
    ParseLimits, parse,
    splice::{self, Raw, RequestEdit},
    strict,
};
use portcullis_upstream::{Message, Peer};
use tokio_util::sync::CancellationToken;

use super::{Who, capabilities::Capabilities, line::Line};
use crate::judge;

/// What a server learns of a client that was not asked, or did not answer.
const DECLINED: i64 = -32603;

/// A server's request in the words of the protocol.
pub struct Question<'q> {
    /// The server.
    pub server: &'q Name,
    /// The tool in whose call it asks, as the server knows it.
    pub tool: Option<&'q str>,
    /// The method.
    pub method: &'q str,
    /// The params, as JSON text; `{}` where there are none.
    pub params: &'q str,
}

/// Whether the client may be asked, and with which params, where a policy changed them.
///
/// # Errors
/// Why not.
pub async fn judge(
    who: &Who,
    capabilities: &str,
    question: &Question<'_>,
    deadline: Instant,
) -> Result<Option<Bytes>, Fault> {
    let refused = |code, why: &str| {
        Err(Fault::new(portcullis_model::Side::Server, code, why.to_owned()).server(question.server.as_str()))
    };
    if !Capabilities::read(capabilities).allows(question.method, question.params) {
        return refused("client-capability", "the server asked the client for what it can't do");
    }
    let policies = || who.view.policies.about_questions(&who.principal, question.server.as_str(), question.tool);
    if policies().next().is_none() {
        return Ok(None);
    }
    let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
    if policies().any(|policy| policy.enforces()) && strict::check(question.params.as_bytes(), &limits).is_err() {
        return refused("server-protocol", "the server's request can be read in two ways");
    }
    let request = RequestFacts {
        gateway: who.view.name.clone(),
        request_id: Arc::clone(&who.request_id),
        headers: Arc::clone(&who.headers),
        deadline,
        attributes: who.attributes.clone(),
    };
    let mut facts = QuestionFacts {
        server: question.server.clone(),
        method: Arc::from(question.method),
        params: Bytes::copy_from_slice(question.params.as_bytes()),
        tool: question.tool.map(Arc::from),
    };
    let mut changed = None;
    for policy in policies() {
        let decision = policy.ask(&who.principal, &request, &facts).await;
        if let Some(new) = judge::meaning_for(&who.request_id, policy, decision)? {
            let new = judge::unambiguous(policy.name(), new)?;
            facts.params = new.clone();
            changed = Some(new);
        }
    }
    Ok(changed)
}

/// Where a server's request came from, and where its answer goes.
pub struct Asker<'q> {
    /// The server's peer.
    pub peer: &'q Peer,
    /// The credential.
    pub headers: &'q [(HeaderName, HeaderValue)],
    /// The server.
    pub server: &'q Name,
    /// The tool in whose call it asks.
    pub tool: Option<&'q str>,
    /// On whose behalf.
    pub who: &'q Who,
    /// What the client can be asked, as a JSON object.
    pub capabilities: &'q str,
    /// How it is reached.
    pub line: &'q Line,
}

impl Asker<'_> {
    /// Asks the client what the server asks, and gives the server the answer, or says why there is none. `withdrawn` fires
    /// when the server does not want it any more.
    pub async fn ask(&self, request: &Message, until: Instant, withdrawn: CancellationToken) {
        let reply = self.reply(request, until, &withdrawn).await;
        let Some(reply) = reply else { return };
        let soon = Instant::now() + super::line::ASIDE;
        if let Err(error) = self.peer.reply(reply, self.headers, soon).await {
            tracing::debug!(server = %self.server, %error, "the server does not wait for the client's answer any more");
        }
    }

    async fn reply(&self, request: &Message, until: Instant, withdrawn: &CancellationToken) -> Option<Bytes> {
        let method = request.method().unwrap_or_default().into_owned();
        let params = match request.payload_text() {
            "" => "{}",
            params => params,
        };
        let question = Question { server: self.server, tool: self.tool, method: &method, params };
        let judged = judge(self.who, self.capabilities, &question, until).await;
        let changed = match judged {
            Ok(changed) => changed,
            Err(fault) => {
                self.line.count("refused");
                tracing::info!(request = &*self.who.request_id, server = %self.server, method, code = fault.code, "a question was refused");
                return Some(declined(request, "the client can't be asked this"));
            }
        };
        let changed = changed.and_then(|params| request.with_payload(&params).ok());
        let request = changed.as_ref().unwrap_or(request);
        let answer = self.line.ask(request, until, withdrawn, |progress| self.progress(request, progress)).await;
        match answer {
            Ok(answer) => {
                self.line.count("answered");
                match Message::parse(answer) {
                    Ok(answer) => Some(Bytes::from(answer.with_id(request.id_text()))),
                    Err(_) => Some(declined(request, "the client's answer is none")),
                }
            }
            Err(why) => {
                self.line.count("unanswered");
                // Whoever withdrew a request wants no answer to it.
                (!withdrawn.is_cancelled()).then(|| declined(request, why))
            }
        }
    }

    /// Progress of the client with what the server asked, under the server's token.
    async fn progress(&self, request: &Message, progress: Bytes) {
        let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
        let token = parse(&request.body, &limits)
            .ok()
            .and_then(|m| m.meta().and_then(|m| m.progress_token).map(|p| p.raw.to_owned()));
        let (Some(token), Ok(progress)) = (token, parse(&progress, &limits)) else { return };
        let body = splice::notification(&progress, Some(&token));
        // Progress may get lost.
        let _ = self.peer.reply(body, self.headers, Instant::now() + super::line::ASIDE).await;
    }
}

/// The request as the client gets it: under our id, with our progress token.
pub fn renumbered(request: &Message, number: u64) -> Bytes {
    let limits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };
    let edit = RequestEdit {
        id: Some(Raw::Number(number)),
        progress_token: Some(Raw::Number(number)),
        ..RequestEdit::default()
    };
    match parse(&request.body, &limits) {
        Ok(message) => splice::request(&message, &edit),
        Err(_) => Bytes::from(request.with_id(&number.to_string())),
    }
}

fn declined(request: &Message, why: &str) -> Bytes {
    portcullis_protocol::rpc::error(Some(request.id_text()), DECLINED, why, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_gets_our_id_and_token_and_keeps_the_rest() {
        let request = Message::parse(Bytes::from_static(
            br#"{"jsonrpc":"2.0","id":"s-1","method":"elicitation/create","params":{"x":1.10,"_meta":{"progressToken":"p","v":1}}}"#,
        ))
        .unwrap();
        assert_eq!(
            renumbered(&request, 7),
            r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"x":1.10,"_meta":{"progressToken":7,"v":1}}}"#
        );
        let declined = declined(&request, "no");
        assert!(String::from_utf8_lossy(&declined).contains(r#""id":"s-1""#));
    }
}
