//! `portcullis:host/http`: requests that a plugin has a grant for. Origins, places of secrets and sizes are checked here.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use portcullis_model::Secret;
use portcullis_outbound::Reach;
use serde_json::Value;
use url::Url;
use wasmtime::{Error, Result, component::Resource};

use super::credential::is_hop_by_hop;
use crate::{
    bindings::portcullis::host::{
        http::{self as wit, Body, HeaderValue as WitValue, HttpError, Response},
        secrets,
    },
    secrets::{Allowed, Guarded, OriginPattern},
    services::{OutboundError, OutboundRequest},
    state::{Answered, Handle, State},
};

/// The most bytes of a body, either way.
const MAX_BODY: usize = 1 << 20;
/// The most headers of a request.
const MAX_HEADERS: usize = 32;
/// The longest that one request may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

impl State {
    fn answered(&mut self, response: &Resource<Response>) -> Result<&mut Answered> {
        match self.handle(response)? {
            Handle::Response(answered) => Ok(answered),
            _ => Err(Error::msg("not a response")),
        }
    }

    /// Checks that a secret may go into this place of this request.
    fn may_go(&self, value: &Guarded, url: &Url, header: Option<&str>) -> std::result::Result<(), HttpError> {
        let Some(allowed) = value.allowed() else { return Ok(()) };
        let place = header.map_or(allowed.body, |name| allowed.in_header(name));
        if place && allowed.at(url, self.target_url().as_ref()) {
            return Ok(());
        }
        self.denied("secret-destination");
        Err(HttpError::Denied(format!("the secret {} may not go there", value.label())))
    }

    fn prepare(&mut self, request: wit::Request) -> Result<std::result::Result<(OutboundRequest, Sent), HttpError>> {
        let denied = |why: &str| Ok(Err(HttpError::Denied(why.to_owned())));
        let Ok(url) = Url::parse(&request.url) else { return denied("the URL is not valid") };
        if !url.username().is_empty() || url.password().is_some() {
            return denied("a URL with credentials");
        }
        if !self.fixed.http_origins.iter().any(|origin| origin.matches(&url)) {
            self.denied("http");
            return denied("the origin is not granted");
        }
        let Ok(method) = request.method.parse::<Method>() else { return denied("no such method") };
        if method == Method::CONNECT || request.headers.len() > MAX_HEADERS {
            return denied("CONNECT, or too many headers");
        }
        let mut sent = Sent { secrets: false, label: String::new(), allowed: None };
        let mut headers = Vec::with_capacity(request.headers.len());
        for header in request.headers {
            let Ok(name) = header.name.parse::<HeaderName>() else { return denied("a header has no valid name") };
            if is_hop_by_hop(name.as_str()) && name != "content-type" && name != "accept" {
                return denied("a header that is the host's to set");
            }
            let value = match header.value {
                WitValue::Text(text) => Guarded::text(text),
                WitValue::Secret(secret) => self.secret(&secret)?.clone(),
            };
            if let Err(why) = self.may_go(&value, &url, Some(name.as_str())) {
                return Ok(Err(why));
            }
            let Ok(mut placed) = HeaderValue::from_bytes(value.value().expose()) else {
                return denied("a header has no valid value");
            };
            placed.set_sensitive(value.is_secret());
            sent.add(&value);
            headers.push((name, placed));
        }
        let body = match request.body {
            Body::Empty => Guarded::text(String::new()),
            Body::Bytes(bytes) if bytes.len() > MAX_BODY => return Ok(Err(HttpError::TooLarge)),
            Body::Bytes(bytes) => {
                let outbound = Secret::new(bytes);
                return Ok(Ok((self.outbound(method, url, headers, outbound, request.timeout_ms), sent)));
            }
            Body::Secret(secret) => self.secret(&secret)?.clone(),
        };
        if let Err(why) = self.may_go(&body, &url, None) {
            return Ok(Err(why));
        }
        sent.add(&body);
        let body = body.value().clone();
        Ok(Ok((self.outbound(method, url, headers, body, request.timeout_ms), sent)))
    }

    fn outbound(
        &self,
        method: Method,
        url: Url,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Secret,
        timeout_ms: Option<u32>,
    ) -> OutboundRequest {
        let timeout = timeout_ms.map_or(MAX_TIMEOUT, |ms| Duration::from_millis(ms.into())).min(MAX_TIMEOUT);
        let reach = if self.fixed.grants.http_private { Reach::Any } else { Reach::Public };
        OutboundRequest { method, url, headers, body, timeout, max_body: MAX_BODY, reach }
    }
}

/// What secrets a request carries.
struct Sent {
    secrets: bool,
    label: String,
    allowed: Option<Allowed>,
}

impl Sent {
    fn add(&mut self, value: &Guarded) {
        if let Some(allowed) = value.allowed() {
            self.secrets = true;
            self.label.push_str(value.label());
            self.allowed = Some(allowed.clone());
        }
    }
}

impl wit::Host for State {
    async fn send(&mut self, request: wit::Request) -> Result<Result<Resource<Response>, HttpError>> {
        if self.preparing {
            return self.forbid("a request while getting ready");
        }
        let (outbound, sent) = match self.prepare(request)? {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(error)),
        };
        let Some(service) = self.fixed.services.http.clone() else {
            return Ok(Err(HttpError::Denied("not available here".into())));
        };
        let origin = OriginPattern::parse(&outbound.url.origin().ascii_serialization());
        let from = outbound.url.host_str().unwrap_or_default().to_owned();
        match service.send(outbound).await {
            Ok(response) if response.body.len() > MAX_BODY => Ok(Err(HttpError::TooLarge)),
            Ok(response) => {
                // What a token endpoint gives may go back there, and to the server that is being resolved.
                let allowed =
                    Allowed { origins: origin.into_iter().collect(), target: true, headers: None, body: true };
                let hidden = sent.secrets && !self.fixed.grants.reveal;
                let label = format!("an answer of {from}");
                let answered = Answered { response, hidden, json: None, allowed, label };
                Ok(Ok(self.own(Handle::Response(Box::new(answered)))?))
            }
            Err(error) => Ok(Err(match error {
                OutboundError::Denied(why) => {
                    self.denied("address");
                    HttpError::Denied(format!("{why}, and `httpPrivate` is not granted"))
                }
                OutboundError::Dns => HttpError::Dns,
                OutboundError::Connect(why) => HttpError::Connect(why),
                OutboundError::Tls(why) => HttpError::Tls(why),
                OutboundError::Timeout => HttpError::Timeout,
                OutboundError::TooLarge => HttpError::TooLarge,
                OutboundError::Other(why) => HttpError::Other(why),
            })),
        }
    }
}

impl Answered {
    fn json(&mut self) -> Option<&Value> {
        let body = &self.response.body;
        self.json.get_or_insert_with(|| serde_json::from_slice(body).ok()).as_ref()
    }
}

impl wit::HostResponse for State {
    fn status(&mut self, response: Resource<Response>) -> Result<u16> {
        Ok(self.answered(&response)?.response.status.as_u16())
    }
    fn header(&mut self, response: Resource<Response>, name: String) -> Result<Option<String>> {
        let answered = self.answered(&response)?;
        let name = name.to_ascii_lowercase();
        // A server may echo a request's secret in any header but those that describe the body.
        if answered.hidden && !matches!(name.as_str(), "content-type" | "content-length" | "retry-after" | "date") {
            return Ok(None);
        }
        Ok(answered.response.headers.get(&name).and_then(|v| v.to_str().ok()).map(str::to_owned))
    }
    fn body(&mut self, response: Resource<Response>) -> Result<Vec<u8>> {
        let answered = self.answered(&response)?;
        Ok(if answered.hidden { Vec::new() } else { answered.response.body.to_vec() })
    }
    fn take_secret(
        &mut self,
        response: Resource<Response>,
        pointer: String,
    ) -> Result<Option<Resource<secrets::Secret>>> {
        let answered = self.answered(&response)?;
        let (allowed, label) = (answered.allowed.clone(), answered.label.clone());
        let found = answered.json().and_then(|json| json.pointer(&pointer)).and_then(Value::as_str).map(Secret::new);
        match found {
            Some(secret) => Ok(Some(self.own(Handle::Secret(Guarded::secret(secret, allowed, label)))?)),
            None => Ok(None),
        }
    }
    fn number(&mut self, response: Resource<Response>, pointer: String) -> Result<Option<f64>> {
        Ok(self.answered(&response)?.json().and_then(|json| json.pointer(&pointer)).and_then(Value::as_f64))
    }
    fn drop(&mut self, response: Resource<Response>) -> Result<()> {
        self.disown(&response)
    }
}
