//! The host behind the wrappers, in the component: the bindings, and the conversions between their types and the SDK's.
//! Natively `fake/raw.rs` offers the same names.

pub(crate) use crate::bindings::imports::portcullis::{
    auth::{
        identity::Identity,
        jwt::{Rules, Verified},
        request::{Certificate, Request},
        resource_metadata::Metadata,
        tokens::Token,
    },
    credential::{
        caller_token::Token as CallerToken, connections::Listing, earlier::Earlier, resolution::Resolution,
        target::Target,
    },
    host::{
        http::Response,
        secrets::Secret,
        signing::Token as SigningToken,
        state::Bucket,
        token_request::{Answer as TokenAnswer, Request as TokenRequest},
    },
    policy::{
        lists::Listing as List,
        requests::{Prompt, Question, Read},
        results::Outcome,
        sessions::Session,
    },
    types::context::{Call, Caller},
};
use crate::{
    Error, JwtError, Level, LookupError, Part, SigningError, StateEntry, StateError, SwapError, TokenError, Value,
    bindings::imports::portcullis::{auth, credential, host, policy, types},
    http,
};

pub(crate) fn value(value: types::context::Value) -> Value {
    match value {
        types::context::Value::Text(text) => Value::Text(text),
        types::context::Value::Number(number) => Value::Number(number),
        types::context::Value::Truth(truth) => Value::Truth(truth),
        types::context::Value::Texts(texts) => Value::Texts(texts),
        types::context::Value::Other(json) => Value::Other(json),
    }
}

pub(crate) fn lower_value(value: &Value) -> types::context::Value {
    match value {
        Value::Text(text) => types::context::Value::Text(text.clone()),
        Value::Number(number) => types::context::Value::Number(*number),
        Value::Truth(truth) => types::context::Value::Truth(*truth),
        Value::Texts(texts) => types::context::Value::Texts(texts.clone()),
        Value::Other(json) => types::context::Value::Other(json.clone()),
    }
}

pub(crate) fn lower_parts<'a>(parts: &[Part<'a>]) -> Vec<host::secrets::Part<'a>> {
    let lower = |part: &Part<'a>| match *part {
        Part::Text(text) => host::secrets::Part::Text(text.to_owned()),
        Part::Secret(secret) => host::secrets::Part::Secret(&secret.0),
    };
    parts.iter().map(lower).collect()
}

fn error(error: types::error::Error) -> Error {
    use types::error::Error as E;
    match error {
        E::InvalidConfig(what) => Error::InvalidConfig(what),
        E::Denied(denial) => Error::denied(denial.code, denial.message),
        E::NotFound => Error::NotFound,
        E::Expired => Error::Expired,
        E::NeedsConsent(info) => Error::NeedsConsent { url: info.url, message: info.message },
        E::Upstream(upstream) => Error::Upstream { status: upstream.status, message: upstream.message },
        E::Timeout => Error::Timeout,
        E::Unavailable(what) => Error::Unavailable(what),
        E::Other(what) => Error::Other(what),
    }
}

pub(crate) fn texts(texts: policy::lists::Texts) -> (String, Vec<u32>) {
    (texts.text, texts.ends)
}

pub(crate) fn config() -> String {
    host::config::get()
}

pub(crate) fn log(level: Level, message: &str, fields: &[(&str, &str)]) {
    let level = match level {
        Level::Error => host::log::Level::Error,
        Level::Warn => host::log::Level::Warn,
        Level::Info => host::log::Level::Info,
        Level::Debug => host::log::Level::Debug,
    };
    let fields: Vec<(String, String)> = fields.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    host::log::log(level, message, &fields);
}

pub(crate) fn secret(name: &str) -> Result<Secret, Error> {
    host::secrets::get(name).map_err(error)
}

pub(crate) fn reveal(secret: &Secret) -> Result<Vec<u8>, Error> {
    host::reveal::reveal(secret).map_err(error)
}

pub(crate) fn send(request: http::Request<'_>) -> Result<Response, http::HttpError> {
    use host::http::{Body, Header, HeaderValue, HttpError as E};
    let headers = request.headers.iter().map(|(name, value)| Header {
        name: name.clone(),
        value: match value {
            http::HeaderValue::Text(text) => HeaderValue::Text(text.clone()),
            http::HeaderValue::Secret(secret) => HeaderValue::Secret(&secret.0),
            http::HeaderValue::Joined(secret) => HeaderValue::Secret(&secret.0),
        },
    });
    let lowered = host::http::Request {
        method: request.method.to_owned(),
        url: request.url,
        headers: headers.collect(),
        body: match request.body {
            http::Body::Empty => Body::Empty,
            http::Body::Bytes => Body::Bytes(request.bytes),
            http::Body::Secret(secret) => Body::Secret(&secret.0),
        },
        timeout_ms: request.timeout_ms,
    };
    host::http::send(&lowered).map_err(|error| match error {
        E::Denied(what) => http::HttpError::Denied(what),
        E::Dns => http::HttpError::Dns,
        E::Connect(why) => http::HttpError::Connect(why),
        E::Tls(why) => http::HttpError::Tls(why),
        E::Timeout => http::HttpError::Timeout,
        E::TooLarge => http::HttpError::TooLarge,
        E::Other(why) => http::HttpError::Other(why),
    })
}

pub(crate) fn open_state() -> Bucket {
    host::state::open()
}

fn entry(entry: host::state::Entry) -> StateEntry {
    StateEntry { value: entry.value, version: entry.version }
}

fn state_error(error: host::state::StateError) -> StateError {
    use host::state::StateError as E;
    match error {
        E::Quota => StateError::Quota,
        E::TooLarge => StateError::TooLarge,
        E::Unavailable(why) => StateError::Unavailable(why),
        E::Other(why) => StateError::Other(why),
    }
}

pub(crate) fn state_get(bucket: &Bucket, key: &str) -> Result<Option<StateEntry>, StateError> {
    bucket.get(key).map(|found| found.map(entry)).map_err(state_error)
}

pub(crate) fn state_set(bucket: &Bucket, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<u64, StateError> {
    bucket.set(key, value, ttl_ms).map_err(state_error)
}

pub(crate) fn state_delete(bucket: &Bucket, key: &str) -> Result<(), StateError> {
    bucket.delete(key).map_err(state_error)
}

pub(crate) fn state_swap(
    bucket: &Bucket,
    key: &str,
    version: Option<u64>,
    value: &[u8],
    ttl_ms: Option<u64>,
) -> Result<u64, SwapError> {
    bucket.swap(key, version, value, ttl_ms).map_err(|error| match error {
        host::state::SwapError::Stale(there) => SwapError::Stale(there.map(entry)),
        host::state::SwapError::Failed(why) => SwapError::Failed(state_error(why)),
    })
}

fn signing_error(error: host::signing::SigningError) -> SigningError {
    use host::signing::SigningError as E;
    match error {
        E::Denied(why) => SigningError::Denied(why),
        E::Key(why) => SigningError::Key(why),
        E::Claims(why) => SigningError::Claims(why),
        E::Other(why) => SigningError::Other(why),
    }
}

pub(crate) fn sign(token: &SigningToken, key: &Secret) -> Result<Secret, SigningError> {
    token.sign(key).map_err(signing_error)
}

pub(crate) fn hmac_sha256(key: &Secret, message: &[u8]) -> Result<Secret, SigningError> {
    host::signing::hmac_sha256(key, message).map_err(signing_error)
}

fn lower_labels(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn count(name: &str, labels: &[(&str, &str)], add: u64) {
    host::metrics::count(name, &lower_labels(labels), add);
}

pub(crate) fn observe(name: &str, labels: &[(&str, &str)], value: f64) {
    host::metrics::observe(name, &lower_labels(labels), value);
}

pub(crate) fn caller_token() -> Option<CallerToken> {
    credential::caller_token::get()
}

pub(crate) fn send_token_request(request: TokenRequest) -> Result<TokenAnswer, TokenError> {
    use host::token_request::TokenError as E;
    host::token_request::send(request).map_err(|error| match error {
        E::Denied(what) => TokenError::Denied(what),
        E::Refused(said) => {
            TokenError::Refused { status: said.status, error: said.error, description: said.description }
        }
        E::Unavailable(why) => TokenError::Unavailable(why),
        E::Timeout => TokenError::Timeout,
        E::Malformed(why) => TokenError::Malformed(why),
        E::Other(why) => TokenError::Other(why),
    })
}

pub(crate) fn list_connections() -> Listing {
    credential::connections::list()
}

pub(crate) fn lookup(secret: &Secret) -> Result<Token, LookupError> {
    use auth::tokens::LookupError as E;
    auth::tokens::lookup(secret).map_err(|error| match error {
        E::NotOurs => LookupError::NotOurs,
        E::Unknown => LookupError::Unknown,
        E::Expired => LookupError::Expired,
        E::Revoked => LookupError::Revoked,
        E::WrongGateway => LookupError::WrongGateway,
        E::Unavailable(why) => LookupError::Unavailable(why),
        E::Other(why) => LookupError::Other(why),
    })
}

pub(crate) fn unverified_issuer(token: &Secret) -> Option<String> {
    auth::jwt::unverified_issuer(token)
}

pub(crate) fn verify(token: &Secret, rules: &Rules) -> Result<Verified, JwtError> {
    use auth::jwt::JwtError as E;
    auth::jwt::verify(token, rules).map_err(|error| match error {
        E::Malformed => JwtError::Malformed,
        E::Algorithm(name) => JwtError::Algorithm(name),
        E::UnknownKey => JwtError::UnknownKey,
        E::Signature => JwtError::Signature,
        E::Issuer => JwtError::Issuer,
        E::Audience => JwtError::Audience,
        E::Expired => JwtError::Expired,
        E::NotYetValid => JwtError::NotYetValid,
        E::TokenType => JwtError::TokenType,
        E::Unavailable(why) => JwtError::Unavailable(why),
        E::Other(why) => JwtError::Other(why),
    })
}
