//! A page that a person has to open before a request can go on (URL mode elicitation), asked for in the client's era: an
//! input request that the client answers with its next try (2026-07-28), or the error -32042 that names the pages
//! (2025-11-25, elicitation, "URL Elicitation Required Errors"). Whoever wants a page opened, a server or the gateway, asks
//! here.
//!
//! Nothing is kept: the client sends the whole request again. What it says of our pages is read and taken out before
//! anybody else sees it.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{Era, Version, rpc, splice::quote};

use crate::{
    answer,
    asked::{Asked, Received},
    conversation::capabilities::Capabilities,
    members::Members,
};

/// How the keys of our input requests begin: servers' own keys pass by.
const KEY: &str = "portcullis.url.";
/// Pages of one answer.
pub const MOST: usize = 16;
/// What a client can that is asked to open a page.
pub const CAPABILITIES: &str = r#"{"elicitation":{"url":{}}}"#;

/// A page to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What tells it from others (2025-11-25 only).
    pub id: String,
    /// Where it is. Holds no credential: clients show it.
    pub url: String,
    /// Why it has to be opened, for people.
    pub message: String,
}

impl Page {
    /// The params of `elicitation/create`, without the id that one era has.
    pub fn params(&self) -> String {
        format!(r#"{{"mode":"url","url":{},"message":{}}}"#, quote(&self.url), quote(&self.message))
    }
}

/// Asks the client to open these pages and to send the request again. None where its revision or its capabilities know no
/// such thing, or its request can't be answered so: then whoever asks says it in another way.
#[allow(dead_code, reason = "for whoever in the gateway wants a page opened next")]
pub fn answer(asked: &Asked<'_>, message: &str, pages: &[Page]) -> Option<Response> {
    if !Capabilities::read(asked.capabilities()).allows("elicitation/create", r#"{"mode":"url"}"#) {
        return None;
    }
    match asked.client.era {
        Era::Modern => {
            // Only these have rounds (2026-07-28, multi round-trip requests).
            let rounds = matches!(asked.message.method(), "tools/call" | "prompts/get" | "resources/read");
            let params: Vec<String> = pages.iter().map(Page::params).collect();
            rounds.then(|| answer::json(StatusCode::OK, rpc::result(asked.id(), &input_required(&params))))
        }
        Era::Legacy => (asked.client.version >= Version::V2025_11_25)
            .then(|| answer::json(StatusCode::OK, required(asked.id(), message, pages))),
    }
}

/// The result that asks a modern client to open pages: `params` are those of one `elicitation/create` each.
pub fn input_required(params: &[String]) -> String {
    let requests: Vec<String> = params
        .iter()
        .enumerate()
        .map(|(at, params)| format!(r#""{KEY}{}":{{"method":"elicitation/create","params":{params}}}"#, at + 1))
        .collect();
    format!(r#"{{"resultType":"input_required","inputRequests":{{{}}}}}"#, requests.join(","))
}

/// The error -32042. `id` is the client's, as JSON text.
pub fn required(id: &str, message: &str, pages: &[Page]) -> Bytes {
    let pages: Vec<String> = pages
        .iter()
        .map(|page| {
            let params = page.params();
            format!(r#"{},"elicitationId":{}}}"#, &params[..params.len() - 1], quote(&page.id))
        })
        .collect();
    let data = format!(r#"{{"elicitations":[{}]}}"#, pages.join(","));
    rpc::error(Some(id), rpc::URL_ELICITATION_REQUIRED, message, Some(&data))
}

/// A page's id that nobody has used before.
pub fn fresh_id() -> String {
    let random = crate::held::state::random().unwrap_or_default();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The pages that a server's error -32042 names; none where it is not as the revision has it.
pub fn pages(error: &str) -> Option<Vec<Page>> {
    let error = Members::read(error)?;
    let data = Members::read(error.get("data")?)?;
    let all: Vec<&serde_json::value::RawValue> = serde_json::from_str(data.get("elicitations")?).ok()?;
    if all.is_empty() || all.len() > MOST {
        return None;
    }
    all.into_iter()
        .map(|one| {
            let one = Members::read(one.get())?;
            Some(Page {
                id: one.text("elicitationId").unwrap_or_default(),
                url: one.text("url")?,
                message: one.text("message").unwrap_or_default(),
            })
        })
        .collect()
}

/// A client's next try after it was asked to open pages: the request without what it says of them. None for every other
/// request, which is nearly all.
///
/// # Errors
/// Where the person did not agree to open one of them: asking again at once would only nag.
pub fn returned(received: &Received, asked: &Asked<'_>) -> Option<Result<Received, Fault>> {
    let params = asked.message.params.as_ref()?;
    let responses = params.input_responses.filter(|r| r.raw.contains(KEY))?;
    let mut responses = Members::read(responses.raw)?;
    let mut declined = false;
    let mut found = false;
    responses.retain(|key, answer| {
        let ours = key.starts_with(KEY);
        found |= ours;
        declined |= ours && Members::read(answer).and_then(|a| a.text("action")).as_deref() != Some("accept");
        !ours
    });
    if !found {
        return None;
    }
    if declined {
        return Some(Err(Fault::new(Side::Caller, "input-missing", "the page that this needs was not opened")
            .next("Send the request again, and open the page that it asks for")));
    }
    let left = (!responses.is_empty()).then(|| responses.to_string());
    let mut members = Members::read(params.piece.raw)?;
    match left {
        Some(left) => members.set("inputResponses", left),
        None => drop(members.take("inputResponses")),
    }
    let range = params.piece.range();
    let body =
        [&asked.message.source[..range.start], &members.to_string(), &asked.message.source[range.end..]].concat();
    Some(Ok(Received {
        body: Bytes::from(body),
        headers: Arc::clone(&received.headers),
        returns: true,
        ..received.clone()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_from_one_era_to_the_other() {
        let error = r#"{"code":-32042,"message":"m","data":{"elicitations":[
            {"mode":"url","elicitationId":"e-1","url":"https://a.example/x?y","message":"Sign in"}]}}"#;
        let pages = pages(error).unwrap();
        assert_eq!((&*pages[0].id, &*pages[0].url), ("e-1", "https://a.example/x?y"));
        let asked: serde_json::Value = serde_json::from_str(&input_required(&[pages[0].params()])).unwrap();
        assert_eq!(
            asked["inputRequests"]["portcullis.url.1"],
            serde_json::json!({"method": "elicitation/create",
                "params": {"mode": "url", "url": "https://a.example/x?y", "message": "Sign in"}})
        );
        let back: serde_json::Value = serde_json::from_slice(&required("7", "m", &pages)).unwrap();
        assert_eq!(back["error"]["code"], -32042);
        assert_eq!(back["error"]["data"]["elicitations"][0]["elicitationId"], "e-1");
        for broken in [
            "{}",
            r#"{"data":{}}"#,
            r#"{"data":{"elicitations":[]}}"#,
            r#"{"data":{"elicitations":[{"message":"no url"}]}}"#,
            r#"{"data":{"elicitations":"x"}}"#,
        ] {
            assert!(super::pages(broken).is_none(), "{broken}");
        }
        assert_ne!(fresh_id(), fresh_id());
    }
}
