//! The OAuth side of the official Python, JavaScript and Rust clients (`tests/fixtures/python/oauth.py`,
//! `node/oauth_client.mjs`, `rust`), and an OAuth client that does what no well-behaved one would.

use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use url::{Url, form_urlencoded};

use crate::{
    PATIENCE,
    browser::Browser,
    http::{Reply, send},
    parts::{Parts, root},
};

/// Where clients of these tests are sent back to. Nobody listens there: the way ends where it would begin.
pub const BACK: &str = "http://127.0.0.1:4999/callback";

/// An official client.
pub struct OAuthDriver {
    _child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl OAuthDriver {
    /// Starts the Python one.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(Parts::get().venv.join("bin/python"));
        command.arg(root().join("tests/fixtures/python/oauth.py"));
        Self::spawn(command)
    }

    /// Starts the JavaScript one, which knows sessions only.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start_javascript() -> anyhow::Result<Self> {
        let parts = Parts::get();
        let mut command = Command::new(&parts.node_bin);
        command.arg(root().join("tests/fixtures/node/oauth_client.mjs")).env("PORTCULLIS_TEST_NODE", &parts.node);
        Self::spawn(command)
    }

    /// Starts the Rust one, which knows sessions and assertions only.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start_rust() -> anyhow::Result<Self> {
        let program = Parts::get().rust_client.as_ref().context("PORTCULLIS_TEST_RUST_CLIENT is not set")?;
        Self::spawn(Command::new(program))
    }

    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self { _child: child, stdin, stdout: BufReader::new(stdout).lines() })
    }

    /// Sends a command and reads an answer: what it holds under `ok`, or the whole where it is no end yet.
    ///
    /// # Errors
    /// What the client says.
    pub async fn ask(&mut self, command: Value) -> anyhow::Result<Value> {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await?;
        let line = timeout(2 * PATIENCE, self.stdout.next_line()).await.context("the client is silent")??;
        let mut answer: Value = serde_json::from_str(&line.context("the client ended")?)?;
        if let Some(error) = answer.get("error") {
            bail!("{error}");
        }
        Ok(if answer.get("ok").is_some() { answer["ok"].take() } else { answer })
    }

    /// The same, and whenever the client wants a person to sign in, `browser`, which has signed in, consents and comes back.
    ///
    /// # Errors
    /// What the client says, and where the way does not lead back to it.
    pub async fn ask_with(&mut self, browser: &mut Browser, command: Value) -> anyhow::Result<Value> {
        let mut answer = self.ask(command).await?;
        while let Some(open) = answer["open"].as_str() {
            let back = consent(browser, open).await?;
            ensure!(back.starts_with(BACK), "the way ended at {back}: {}", browser.html);
            answer = self.ask(json!({"back": back})).await?;
        }
        Ok(answer)
    }

    /// A signing key: its PEM, and its JSON Web Key Set.
    ///
    /// # Errors
    /// What the client says.
    pub async fn keys(&mut self) -> anyhow::Result<(String, Value)> {
        let made = self.ask(json!({"do": "keys"})).await?;
        Ok((made["pem"].as_str().context("no key")?.to_owned(), made["jwks"].clone()))
    }

    /// A signed JWT.
    ///
    /// # Errors
    /// What the client says.
    pub async fn sign(&mut self, pem: &str, typ: Option<&str>, claims: Value) -> anyhow::Result<String> {
        let signed = self.ask(json!({"do": "sign", "pem": pem, "typ": typ, "claims": claims})).await?;
        Ok(signed["jwt"].as_str().context("no JWT")?.to_owned())
    }
}

/// A client by hand.
#[derive(Clone, Debug)]
pub struct Hand {
    /// The issuer.
    pub base: String,
    /// The client id.
    pub client: String,
    /// The gateway.
    pub resource: String,
    verifier: String,
}

impl Hand {
    /// Registers itself.
    ///
    /// # Errors
    /// Where that is refused.
    pub async fn register(base: &str, resource: &str) -> anyhow::Result<Self> {
        let wanted = json!({
            "client_name": "By hand", "redirect_uris": [BACK], "token_endpoint_auth_method": "none",
        });
        let reply = send("POST", &format!("{base}/oauth/register"), &[], wanted.to_string()).await?;
        let client: Value = serde_json::from_str(&reply.text())?;
        let id = client["client_id"].as_str().with_context(|| reply.text())?;
        Ok(Self::new(base, id, resource))
    }

    /// One that is known already.
    pub fn new(base: &str, client: &str, resource: &str) -> Self {
        let verifier = "v".repeat(43);
        Self { base: base.to_owned(), client: client.to_owned(), resource: resource.to_owned(), verifier }
    }

    /// The authorization request, with these parameters in place of its own; an empty one is left out.
    pub fn authorize(&self, with: &[(&str, &str)]) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&self.verifier));
        let own = [
            ("response_type", "code"),
            ("client_id", &self.client),
            ("redirect_uri", BACK),
            ("state", "st&te"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &self.resource),
        ];
        let own = own.into_iter().filter(|(n, _)| !with.iter().any(|(w, _)| w == n));
        let all = own.chain(with.iter().copied()).filter(|(_, v)| !v.is_empty());
        let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish();
        format!("{}/oauth/authorize?{query}", self.base)
    }

    /// Sends a browser that has signed in there and says yes where it is asked: the code.
    ///
    /// # Errors
    /// Where it does not come back with one.
    pub async fn code(&self, browser: &mut Browser) -> anyhow::Result<String> {
        let back = consent(browser, &self.authorize(&[])).await?;
        parameter(&back, "code").with_context(|| format!("no code: {back}: {}", browser.html))
    }

    /// Asks the token endpoint.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn token(&self, with: &[(&str, &str)]) -> anyhow::Result<Reply> {
        let mut fields = vec![("client_id", self.client.as_str())];
        fields.retain(|(n, _)| !with.iter().any(|(w, _)| w == n));
        fields.extend(with.iter().copied().filter(|(_, v)| !v.is_empty()));
        self.post("/oauth/token", &fields).await
    }

    /// Redeems a code.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn redeem(&self, code: &str) -> anyhow::Result<Reply> {
        let verifier = self.verifier.clone();
        let resource = self.resource.clone();
        self.token(&[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", BACK),
            ("code_verifier", &verifier),
            ("resource", &resource),
        ])
        .await
    }

    /// Posts a form.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<Reply> {
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let form = [("content-type", "application/x-www-form-urlencoded")];
        send("POST", &format!("{}{path}", self.base), &form, body).await
    }
}

/// Goes to an authorization request and says yes where that is asked: where it ended.
///
/// # Errors
/// Where nobody answers.
pub async fn consent(browser: &mut Browser, url: &str) -> anyhow::Result<String> {
    browser.stops = vec![BACK.to_owned()];
    let ended = browser.go(url).await?;
    if browser.status == 200 && !ended.starts_with(BACK) && browser.form("decision").is_ok() {
        return browser.submit("decision", &[("decision", "allow")]).await;
    }
    Ok(ended)
}

/// Serves something at an address of its own until the test ends: its URL without a slash at the end.
///
/// # Panics
/// Where it can't be served.
pub async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A parameter of a URL.
pub fn parameter(url: &str, name: &str) -> Option<String> {
    Url::parse(url).ok()?.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
}

/// A member of a JSON answer, as text.
///
/// # Panics
/// Where there is none.
pub fn member(reply: &Reply, name: &str) -> String {
    let body: Value = serde_json::from_str(&reply.text()).unwrap_or_default();
    body[name].as_str().unwrap_or_else(|| panic!("no {name}: {} {}", reply.status, reply.text())).to_owned()
}
