//! `portcullis:host/token-request`: requests to token endpoints, whose answers are handles.

use std::time::Duration;

use http::{
    HeaderName, HeaderValue, Method,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use portcullis_model::{Secret, address::is_loopback};
use portcullis_outbound::Reach;
use url::Url;
use wasmtime::{Error, Result, component::Resource};

use crate::{
    bindings::portcullis::host::{
        secrets::{self, Part},
        token_request::{self as wit, Answer, Refusal, Request, TokenError},
    },
    secrets::{Allowed, Guarded},
    services::{Assertion, OutboundError, OutboundRequest},
    state::{Handle, State},
    token_request::{
        Client, MAX_ANSWER, MAX_FIELDS, Read, Repeated, TokenAnswer, TokenRequest, basic, form, read, returns_callers,
    },
};

/// The longest that one request may take.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// How an assertion is called in a token request (RFC 7523 section 2.2).
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

impl State {
    fn token_request(&mut self, request: &Resource<Request>) -> Result<&mut TokenRequest> {
        match self.handle(request)? {
            Handle::TokenRequest(request) => Ok(request),
            _ => Err(Error::msg("not a token request")),
        }
    }

    fn token_answer(&mut self, answer: &Resource<Answer>) -> Result<&TokenAnswer> {
        match self.handle(answer)? {
            Handle::TokenAnswer(answer) => Ok(answer),
            _ => Err(Error::msg("not a token answer")),
        }
    }

    fn taken(&mut self, answer: &Resource<Answer>, pointer: &str) -> Result<Option<Resource<secrets::Secret>>> {
        let answer = self.token_answer(answer)?;
        let Some(secret) = answer.secret(pointer) else { return Ok(None) };
        let known = match answer.repeated(&secret) {
            Repeated::No => None,
            Repeated::Whole(sent) => Some(sent.clone()),
            Repeated::Partly => return Ok(None),
        };
        let guarded = known.unwrap_or_else(|| {
            let allowed = Allowed { origins: self.fixed.http_origins.clone(), target: true, headers: None, body: true };
            Guarded::secret(secret, allowed, "a token of a token endpoint")
        });
        Ok(Some(self.own(Handle::Secret(guarded))?))
    }

    /// Where the request goes, if all of it may go there.
    fn endpoint(&self, request: &TokenRequest) -> std::result::Result<Url, TokenError> {
        let denied = |why: &str| TokenError::Denied(why.to_owned());
        if let Some(why) = request.invalid {
            return Err(denied(why));
        }
        let url = Url::parse(&request.endpoint).map_err(|_| denied("the token endpoint is no URL"))?;
        if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
            return Err(denied("a token endpoint is reached over https, or http at a loopback address"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(denied("a URL with credentials"));
        }
        if !self.fixed.http_origins.iter().any(|origin| origin.matches(&url)) {
            self.denied("http");
            return Err(denied("the token endpoint's origin is not granted (grants.http)"));
        }
        let target = self.target_url();
        for (secret, header) in request.secrets() {
            let Some(allowed) = secret.allowed() else { continue };
            let place = header.map_or(allowed.body, |name| allowed.in_header(name));
            if !place || !allowed.at(&url, target.as_ref()) {
                self.denied("secret-destination");
                return Err(TokenError::Denied(format!("the secret {} may not go there", secret.label())));
            }
        }
        Ok(url)
    }

    /// The assertion of a client with a key. Signed on a thread of its own: how long that takes is up to the key, and the guest is
    /// charged for what it does itself.
    async fn assertion(&self, request: &TokenRequest, url: &Url) -> std::result::Result<Option<Secret>, TokenError> {
        let Client::Key(id, key) = &request.client else { return Ok(None) };
        let Some(service) = self.fixed.services.assertions.clone() else {
            return Err(TokenError::Denied("assertions can't be signed here".into()));
        };
        let (id, key) = (id.clone(), key.value().clone());
        let audience = request.audience.clone().unwrap_or_else(|| url.as_str().to_owned());
        let (key_id, algorithm) = (request.key_id.clone(), request.algorithm.clone());
        let signing = tokio::task::spawn_blocking(move || {
            let (key_id, algorithm) = (key_id.as_deref(), algorithm.as_deref());
            service.sign(&key, &Assertion { client_id: &id, audience: &audience, key_id, algorithm })
        });
        let signed = signing.await.unwrap_or_else(|_| Err("the assertion was not signed to the end".to_owned()));
        signed.map(Some).map_err(TokenError::Other)
    }

    fn outbound_token_request(
        &self,
        request: &TokenRequest,
        url: Url,
        assertion: Option<Secret>,
    ) -> std::result::Result<OutboundRequest, TokenError> {
        let text = |text: &str| Secret::new(text);
        let mut more: Vec<(&str, Secret)> = Vec::new();
        let mut headers: Vec<(HeaderName, HeaderValue)> = vec![
            (ACCEPT, HeaderValue::from_static("application/json")),
            (CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
        ];
        match &request.client {
            Client::Unsaid => {}
            Client::Public(id) => more.push(("client_id", text(id))),
            Client::Basic(id, secret) => {
                let value = basic(id, secret.value());
                let mut value = HeaderValue::from_bytes(value.value().expose())
                    .map_err(|_| TokenError::Other("the client's secret can't stand in a header".into()))?;
                value.set_sensitive(true);
                headers.push((AUTHORIZATION, value));
            }
            Client::Post(id, secret) => {
                more.push(("client_id", text(id)));
                more.push(("client_secret", secret.value().clone()));
            }
            Client::Key(id, _) => {
                more.push(("client_id", text(id)));
                more.push(("client_assertion_type", text(ASSERTION_TYPE)));
                more.extend(assertion.map(|signed| ("client_assertion", signed)));
            }
        }
        let fields: Vec<(&str, &Secret)> = request
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.value()))
            .chain(more.iter().map(|(name, value)| (*name, value)))
            .collect();
        let timeout = request.timeout_ms.map_or(MAX_TIMEOUT, |ms| Duration::from_millis(ms.into())).min(MAX_TIMEOUT);
        let reach = if self.fixed.grants.http_private { Reach::Any } else { Reach::Public };
        let (method, body) = (Method::POST, form(&fields));
        Ok(OutboundRequest { method, url, headers, body, timeout, max_body: MAX_ANSWER, reach })
    }
}

impl wit::Host for State {
    async fn send(&mut self, request: Resource<Request>) -> Result<std::result::Result<Resource<Answer>, TokenError>> {
        if self.preparing {
            return self.forbid("a request while getting ready");
        }
        let Some(Handle::TokenRequest(request)) = self.take(&request) else {
            return Err(Error::msg("not a token request"));
        };
        let prepared = match self.endpoint(&request) {
            Ok(url) => match self.assertion(&request, &url).await {
                Ok(assertion) => self.outbound_token_request(&request, url, assertion),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let outbound = match prepared {
            Ok(outbound) => outbound,
            Err(error) => {
                self.fixed.metrics.token_request("denied");
                return Ok(Err(error));
            }
        };
        let Some(service) = self.fixed.services.http.clone() else {
            return Ok(Err(TokenError::Denied("not available here".into())));
        };
        let given: Vec<Guarded> = request.secrets().map(|(secret, _)| secret.clone()).collect();
        let sent: Vec<Secret> = given.iter().map(|secret| secret.value().clone()).collect();
        let (outcome, answer) = match service.send(outbound).await {
            Ok(response) => match read(response.status, &response.headers, &response.body, &sent) {
                Read::Answer(body) if returns_callers(&body, &given) => {
                    ("malformed", TokenError::Malformed("it repeats the caller's token".into()))
                }
                Read::Answer(body) => {
                    self.fixed.metrics.token_request("ok");
                    let answer = TokenAnswer { body, sent, given };
                    return Ok(Ok(self.own(Handle::TokenAnswer(Box::new(answer)))?));
                }
                Read::Refused { status, error, description } => {
                    ("refused", TokenError::Refused(Refusal { status, error, description }))
                }
                Read::Unavailable(why) => ("unavailable", TokenError::Unavailable(why)),
                Read::Malformed(why) => ("malformed", TokenError::Malformed(why)),
            },
            Err(error) => match error {
                OutboundError::Denied(why) => {
                    self.denied("address");
                    ("denied", TokenError::Denied(format!("{why}, and `httpPrivate` is not granted")))
                }
                OutboundError::Timeout => ("timeout", TokenError::Timeout),
                OutboundError::TooLarge => ("malformed", TokenError::Malformed("the answer is too large".into())),
                other => ("unavailable", TokenError::Unavailable(other.to_string())),
            },
        };
        self.fixed.metrics.token_request(outcome);
        Ok(Err(answer))
    }
}

impl wit::HostRequest for State {
    fn new(&mut self, endpoint: String) -> Result<Resource<Request>> {
        self.own(Handle::TokenRequest(Box::new(TokenRequest::new(endpoint))))
    }
    fn field(&mut self, request: Resource<Request>, name: String, value: Vec<Part>) -> Result<()> {
        let value = self.assemble(value)?;
        let request = self.token_request(&request)?;
        match value {
            Some(value) if request.fields.len() < MAX_FIELDS && name.len() <= 256 => request.fields.push((name, value)),
            _ => request.invalid = Some("too many or too large fields"),
        }
        Ok(())
    }
    fn client_public(&mut self, request: Resource<Request>, id: String) -> Result<()> {
        self.token_request(&request)?.client = Client::Public(id);
        Ok(())
    }
    fn client_basic(
        &mut self,
        request: Resource<Request>,
        id: String,
        secret: Resource<secrets::Secret>,
    ) -> Result<()> {
        let secret = self.secret(&secret)?.clone();
        self.token_request(&request)?.client = Client::Basic(id, secret);
        Ok(())
    }
    fn client_post(&mut self, request: Resource<Request>, id: String, secret: Resource<secrets::Secret>) -> Result<()> {
        let secret = self.secret(&secret)?.clone();
        self.token_request(&request)?.client = Client::Post(id, secret);
        Ok(())
    }
    fn client_key(&mut self, request: Resource<Request>, id: String, key: Resource<secrets::Secret>) -> Result<()> {
        let key = self.secret(&key)?.clone();
        self.token_request(&request)?.client = Client::Key(id, key);
        Ok(())
    }
    fn key_id(&mut self, request: Resource<Request>, id: String) -> Result<()> {
        self.token_request(&request)?.key_id = Some(id);
        Ok(())
    }
    fn assertion_audience(&mut self, request: Resource<Request>, audience: String) -> Result<()> {
        self.token_request(&request)?.audience = Some(audience);
        Ok(())
    }
    fn algorithm(&mut self, request: Resource<Request>, name: String) -> Result<()> {
        self.token_request(&request)?.algorithm = Some(name);
        Ok(())
    }
    fn timeout_ms(&mut self, request: Resource<Request>, millis: u32) -> Result<()> {
        self.token_request(&request)?.timeout_ms = Some(millis);
        Ok(())
    }
    fn drop(&mut self, request: Resource<Request>) -> Result<()> {
        self.disown(&request)
    }
}

impl wit::HostAnswer for State {
    fn access_token(&mut self, answer: Resource<Answer>) -> Result<Option<Resource<secrets::Secret>>> {
        self.taken(&answer, "/access_token")
    }
    fn refresh_token(&mut self, answer: Resource<Answer>) -> Result<Option<Resource<secrets::Secret>>> {
        self.taken(&answer, "/refresh_token")
    }
    fn issued_token_type(&mut self, answer: Resource<Answer>) -> Result<Option<String>> {
        Ok(self.token_answer(&answer)?.text("issued_token_type"))
    }
    fn token_type(&mut self, answer: Resource<Answer>) -> Result<Option<String>> {
        Ok(self.token_answer(&answer)?.text("token_type"))
    }
    fn expires_in(&mut self, answer: Resource<Answer>) -> Result<Option<u64>> {
        Ok(self.token_answer(&answer)?.expires_in())
    }
    fn scope(&mut self, answer: Resource<Answer>) -> Result<Option<String>> {
        Ok(self.token_answer(&answer)?.text("scope"))
    }
    fn field(&mut self, answer: Resource<Answer>, pointer: String) -> Result<Option<Resource<secrets::Secret>>> {
        self.taken(&answer, &pointer)
    }
    fn drop(&mut self, answer: Resource<Answer>) -> Result<()> {
        self.disown(&answer)
    }
}
