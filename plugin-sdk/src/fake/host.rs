//! A fake of what a plugin asks of the host. One per thread, so tests run side by side.

use std::{cell::RefCell, collections::BTreeMap, marker::PhantomData};

use super::{
    CallerToken, Connection, Response, Sent, SignedToken, TokenSent, auth::Token, http::Answers, token::TokenAnswers,
};
use crate::{Level, LookupError, StateEntry, TokenError, http::HttpError};

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host::new());
}

pub(crate) fn with_host<T>(ask: impl FnOnce(&mut Host) -> T) -> T {
    HOST.with_borrow_mut(ask)
}

/// What the host answers. Until one is installed there is nothing: configuration `{}`, no tokens, no connections.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) config: String,
    pub(crate) secrets: BTreeMap<String, String>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) tokens: BTreeMap<String, Result<Token, LookupError>>,
    pub(crate) signed: BTreeMap<String, SignedToken>,
    pub(crate) logs: Vec<(Level, String)>,
    pub(crate) answers: Answers,
    pub(crate) requests: Vec<Sent>,
    pub(crate) caller_token: Option<CallerToken>,
    pub(crate) token_answers: TokenAnswers,
    pub(crate) token_requests: Vec<TokenSent>,
    pub(crate) state: BTreeMap<String, StateEntry>,
    pub(crate) state_full: bool,
    pub(crate) version: u64,
    pub(crate) figures: Vec<(String, String, f64)>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host that has nothing.
    pub fn new() -> Self {
        Self {
            config: "{}".into(),
            secrets: BTreeMap::new(),
            connections: Vec::new(),
            tokens: BTreeMap::new(),
            signed: BTreeMap::new(),
            logs: Vec::new(),
            answers: Vec::new(),
            requests: Vec::new(),
            caller_token: None,
            token_answers: Vec::new(),
            token_requests: Vec::new(),
            state: BTreeMap::new(),
            state_full: false,
            version: 0,
            figures: Vec::new(),
        }
    }

    /// The plugin's configuration, as JSON text.
    #[must_use]
    pub fn config(mut self, json: impl ToString) -> Self {
        self.config = json.to_string();
        self
    }

    /// A secret granted under a name.
    #[must_use]
    pub fn secret(mut self, name: &str, text: &str) -> Self {
        self.secrets.insert(name.into(), text.into());
        self
    }

    /// A connection that the caller may run under.
    #[must_use]
    pub fn connection(mut self, connection: Connection) -> Self {
        self.connections.push(connection);
        self
    }

    /// A valid token of ours, and whose it is.
    #[must_use]
    pub fn token(mut self, text: &str, subject: &str, expires_ms: Option<u64>) -> Self {
        self.tokens.insert(text.into(), Ok(Token { subject: subject.into(), expires_ms }));
        self
    }

    /// A token of ours that is not accepted. One that was never mentioned is [`LookupError::NotOurs`].
    #[must_use]
    pub fn refused_token(mut self, text: &str, why: LookupError) -> Self {
        self.tokens.insert(text.into(), Err(why));
        self
    }

    /// A signed token of somebody else, and the text that stands for it. Any other text is no JWT.
    #[must_use]
    pub fn signed(mut self, text: &str, token: SignedToken) -> Self {
        self.signed.insert(text.into(), token);
        self
    }

    /// The answer to requests with a method and a URL. What has none is not granted.
    #[must_use]
    pub fn answer(mut self, method: &str, url: &str, response: Response) -> Self {
        self.answers.push((method.into(), url.into(), Ok(response)));
        self
    }

    /// Requests with a method and a URL fail.
    #[must_use]
    pub fn failure(mut self, method: &str, url: &str, error: HttpError) -> Self {
        self.answers.push((method.into(), url.into(), Err(error)));
        self
    }

    /// The token that the caller came with.
    #[must_use]
    pub fn caller_token(mut self, token: CallerToken) -> Self {
        self.caller_token = Some(token);
        self
    }

    /// What a token endpoint answers: JSON, or why it gives no token. Said several times, the answers come in that order, and the last
    /// one stays. An endpoint that was never mentioned is not granted.
    #[must_use]
    pub fn token_answer(mut self, endpoint: &str, answer: Result<&str, TokenError>) -> Self {
        self.token_answers.push((endpoint.into(), answer.map(str::to_owned)));
        self
    }

    /// Nothing more fits into what the plugin remembers.
    #[must_use]
    pub fn with_full_state(mut self) -> Self {
        self.state_full = true;
        self
    }

    /// Answers on this thread until the guard is dropped.
    #[must_use = "the host is gone when the guard is dropped"]
    pub fn install(self) -> Installed {
        with_host(|host| *host = self);
        Installed(PhantomData)
    }
}

/// Keeps a [`Host`] installed on its thread.
#[derive(Debug)]
pub struct Installed(PhantomData<*const ()>);

impl Installed {
    /// The lines that the plugin logged.
    pub fn logs(&self) -> Vec<(Level, String)> {
        with_host(|host| host.logs.clone())
    }

    /// The token requests that the plugin sent.
    pub fn token_requests(&self) -> Vec<TokenSent> {
        with_host(|host| host.token_requests.clone())
    }

    /// What the plugin remembers under a key.
    pub fn state(&self, key: &str) -> Option<Vec<u8>> {
        with_host(|host| host.state.get(key).map(|entry| entry.value.clone()))
    }

    /// The figures that the plugin gave: name, labels as `name=value,..`, and what was added or noted.
    pub fn figures(&self) -> Vec<(String, String, f64)> {
        with_host(|host| host.figures.clone())
    }

    /// The requests that the plugin sent.
    pub fn requests(&self) -> Vec<Sent> {
        with_host(|host| host.requests.clone())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        with_host(|host| *host = Host::new());
    }
}

/// A secret, which a fake does not hide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret by its text.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// What it holds.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// As a plugin holds it.
    pub fn hand_over(self) -> crate::Secret {
        crate::Secret(self)
    }

    pub(crate) fn base64(&self) -> Self {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in self.0.as_bytes().chunks(3) {
            let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for i in 0..4 {
                let sextet = (bits >> (18 - 6 * i) & 0x3f) as usize;
                out.push(if i <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
            }
        }
        Self(out)
    }

    pub(crate) fn hex(&self) -> Self {
        Self(self.0.bytes().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(crate) fn form_encoded(&self) -> Self {
        let encode = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            b' ' => "+".into(),
            other => format!("%{other:02X}"),
        };
        Self(self.0.bytes().map(encode).collect())
    }

    pub(crate) fn concat(text: &str) -> Self {
        Self::new(text)
    }
}
