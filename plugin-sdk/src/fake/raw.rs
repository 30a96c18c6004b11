//! The names that the wrappers expect of the host, answered by the fakes.

pub(crate) use super::{
    auth::{Certificate, Identity, Request, Rules, SignedToken as Verified, Token},
    context::{Call, Caller, ToolOutcome as Outcome},
    credential::{Listing, Resolution, Target},
    host::Secret,
    http::Response,
    list::List,
    request::{Prompt, Question, Read},
    session::{Metadata, Session},
    state::{
        Bucket, SigningToken, count, hmac_sha256, observe, open_state, sign, state_delete, state_get, state_set,
        state_swap,
    },
    token::{CallersToken as CallerToken, Earlier, TokenAnswer, TokenRequest},
};
use super::{host::with_host, http::Sent};
use crate::http::{HttpError, Request as HttpRequest};
use crate::{Error, JwtError, Level, LookupError, Part, TokenError, Value};

pub(crate) fn value(value: Value) -> Value {
    value
}

pub(crate) fn lower_value(value: &Value) -> Value {
    value.clone()
}

/// Parts as the text that they make: a fake has nothing to hide.
pub(crate) fn lower_parts(parts: &[Part<'_>]) -> String {
    parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => *text,
            Part::Secret(secret) => secret.0.text(),
        })
        .collect()
}

pub(crate) fn texts(texts: (String, Vec<u32>)) -> (String, Vec<u32>) {
    texts
}

pub(crate) fn config() -> String {
    with_host(|host| host.config.clone())
}

pub(crate) fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    with_host(|host| host.logs.push((level, format!("{message}{}", fields.concat()))));
}

pub(crate) fn secret(name: &str) -> Result<Secret, Error> {
    with_host(|host| host.secrets.get(name).map(|text| Secret::new(text)).ok_or(Error::NotFound))
}

pub(crate) fn reveal(secret: &Secret) -> Result<Vec<u8>, Error> {
    Ok(secret.text().as_bytes().to_vec())
}

pub(crate) fn send(request: HttpRequest<'_>) -> Result<Response, HttpError> {
    let sent = Sent::from(request);
    with_host(|host| {
        let answer = host.answers.iter().find(|(method, url, _)| *method == sent.method && *url == sent.url);
        let answer = answer.map(|(_, _, answer)| answer.clone());
        let refused = || Err(HttpError::Denied(format!("no answer for {} {}", sent.method, sent.url)));
        let answer = answer.unwrap_or_else(refused);
        host.requests.push(sent);
        answer
    })
}

pub(crate) fn caller_token() -> Option<CallerToken> {
    with_host(|host| host.caller_token.clone()).map(CallerToken)
}

pub(crate) fn send_token_request(request: TokenRequest) -> Result<TokenAnswer, TokenError> {
    let sent = request.0.into_inner();
    let answer = with_host(|host| {
        let endpoint = sent.endpoint.clone();
        host.token_requests.push(sent);
        let mut those = host.token_answers.iter().enumerate().filter(|(_, (url, _))| *url == endpoint);
        let Some((at, (_, answer))) = those.next() else {
            return Err(TokenError::Denied(format!("no answer for {endpoint}")));
        };
        let (answer, more) = (answer.clone(), those.next().is_some());
        if more {
            drop(host.token_answers.remove(at));
        }
        answer
    })?;
    serde_json::from_str(&answer).map(TokenAnswer).map_err(|e| TokenError::Malformed(e.to_string()))
}

pub(crate) fn list_connections() -> Listing {
    Listing(with_host(|host| host.connections.clone()))
}

pub(crate) fn lookup(secret: &Secret) -> Result<Token, LookupError> {
    with_host(|host| host.tokens.get(secret.text()).cloned().unwrap_or(Err(LookupError::NotOurs)))
}

pub(crate) fn unverified_issuer(token: &Secret) -> Option<String> {
    with_host(|host| host.signed.get(token.text()).map(|signed| signed.issuer.clone()))
}

pub(crate) fn verify(token: &Secret, rules: &Rules) -> Result<Verified, JwtError> {
    let signed = with_host(|host| host.signed.get(token.text()).cloned()).ok_or(JwtError::Malformed)?;
    signed.check(rules)?;
    Ok(signed)
}
