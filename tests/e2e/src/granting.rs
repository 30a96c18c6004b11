//! A server that wants OAuth with its real authorization server (npm `oidc-provider`), and people who sign in there.

use std::{collections::BTreeMap, process::Stdio};

use ::http::Request;
use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixStream,
    process::{Child, Command},
};

use crate::{
    http::{self, Reply},
    parts::{Parts, root},
    product::{Product, resource},
};

/// Both, running until dropped.
pub struct Granting {
    _child: Child,
    /// The authorization server's issuer.
    pub issuer: String,
    /// The MCP endpoint.
    pub url: String,
    control: String,
}

impl Granting {
    /// Starts both.
    ///
    /// # Errors
    /// Where they do not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_for("").await
    }

    /// Starts both; clients prove themselves in this way alone.
    ///
    /// # Errors
    /// Where they do not start.
    pub async fn start_for(method: &str) -> anyhow::Result<Self> {
        let parts = Parts::get();
        let mut child = Command::new(&parts.node_bin)
            .arg(root().join("tests/fixtures/node/oauth.mjs"))
            .env("PORTCULLIS_TEST_NODE", &parts.node)
            .env("PORTCULLIS_TEST_CLIENTS", method)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the authorization server ended")?;
        let said: Value = serde_json::from_str(&line)?;
        let part = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        Ok(Self { issuer: part("issuer")?, url: part("url")?, control: part("control")?, _child: child })
    }

    /// The server as a resource: everything is discovered. `more` goes into `credential.oauth`.
    pub fn server(&self, name: &str, more: Value) -> Value {
        let mut oauth = json!({"scopes": ["openid", "email", "tools"]});
        for (name, value) in more.as_object().into_iter().flatten() {
            oauth[name] = value.clone();
        }
        resource("McpServer", name, json!({"remote": {"url": self.url}, "credential": {"oauth": oauth}}))
    }

    /// What was asked of both so far.
    ///
    /// # Errors
    /// Where they do not answer.
    pub async fn seen(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&http::get(&self.control, &[]).await?.body)?)
    }

    /// Changes how both behave (`oauth.mjs` says in which ways).
    ///
    /// # Errors
    /// Where they do not answer.
    pub async fn set(&self, change: Value) -> anyhow::Result<()> {
        http::post(&self.control, &[], change.to_string()).await.map(drop)
    }
}

/// Somebody who goes where a server sends them, signs in as `hint`, and agrees: the address that the browser ends at, which is
/// the first one that begins with `until`. The page there is not asked for.
///
/// # Errors
/// Where it does not end there.
pub async fn browse(url: &str, hint: &str, until: &str) -> anyhow::Result<String> {
    let mut jar: BTreeMap<String, String> = BTreeMap::new();
    let mut at = if hint.is_empty() { url.to_owned() } else { format!("{url}&login_hint={hint}") };
    for _ in 0..12 {
        let cookies: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let reply = http::get(&at, &[("cookie", &cookies.join("; "))]).await?;
        for cookie in reply.headers.get_all("set-cookie") {
            if let Some((name, value)) = cookie.to_str()?.split(';').next().and_then(|c| c.split_once('=')) {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        let next = reply
            .headers
            .get("location")
            .with_context(|| format!("{at} answered {}: {}", reply.status, reply.text()))?;
        let next = next.to_str()?;
        at = match next.starts_with('/') {
            true => format!("{}{next}", origin(&at)),
            false => next.to_owned(),
        };
        if at.starts_with(until) {
            return Ok(at);
        }
    }
    anyhow::bail!("it goes on and on: {at}")
}

fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].find('/').map_or(url, |at| &url[..start + at])
}

/// A parameter of an address, decoded.
pub fn parameter(url: &str, name: &str) -> Option<String> {
    let query = url.split_once('?')?.1.split('#').next()?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Posts to the admin API over its socket.
///
/// # Errors
/// Where no answer comes.
pub async fn admin(product: &Product, path: &str, body: &Value) -> anyhow::Result<Reply> {
    let stream = UnixStream::connect(product.home().join("admin.sock")).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let going = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", "admin")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    going.abort();
    Ok(Reply { status: head.status, headers: head.headers, body })
}

/// A sign-in that was begun by the admin API.
pub struct Begun {
    /// Where to sign in.
    pub url: String,
    session: String,
}

/// Begins to connect a server for an owner.
///
/// # Errors
/// Where it is refused; the refusal is the message.
pub async fn begin(product: &Product, server: &str, owner: &str) -> anyhow::Result<Begun> {
    let request = json!({"server": server, "owner": owner, "ownerOnly": false, "direct": true});
    let answer = told(admin(product, "/v1/connections/oauth", &request).await?)?;
    let part = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| answer.to_string());
    Ok(Begun { url: part("url")?, session: part("session")? })
}

/// Brings back where the browser ended, and gives what the gateway says of the account.
///
/// # Errors
/// Where it is refused.
pub async fn finish(product: &Product, begun: &Begun, address: &str) -> anyhow::Result<Value> {
    let mut request = json!({"session": begun.session, "state": parameter(address, "state").unwrap_or_default()});
    for name in ["code", "error", "iss"] {
        if let Some(value) = parameter(address, name) {
            request[name] = json!(value);
        }
    }
    let path = address.split('?').next().unwrap_or_default();
    if let Some((_, mark)) = path.split_once("/oauth-client/callback/") {
        request["mark"] = json!(mark);
    }
    told(admin(product, "/v1/connections/oauth/finish", &request).await?)
}

/// Says that the account is the right one.
///
/// # Errors
/// Where it is refused.
pub async fn save(product: &Product, begun: &Begun, account: &Value) -> anyhow::Result<Value> {
    let request = json!({"session": begun.session, "ticket": account["ticket"]});
    told(admin(product, "/v1/connections/oauth/save", &request).await?)
}

/// The whole way: signs in as `hint` and saves the account.
///
/// # Errors
/// Where any part of it is refused.
pub async fn connect(product: &Product, server: &str, owner: &str, hint: &str) -> anyhow::Result<Value> {
    let begun = begin(product, server, owner).await?;
    let until = parameter(&begun.url, "redirect_uri").context("no redirect_uri")?;
    let address = browse(&begun.url, hint, &until).await?;
    let account = finish(product, &begun, &address).await?;
    save(product, &begun, &account).await?;
    Ok(account)
}

fn told(reply: Reply) -> anyhow::Result<Value> {
    ensure!(reply.status.is_success(), "{}", reply.text());
    Ok(serde_json::from_slice(&reply.body)?)
}
