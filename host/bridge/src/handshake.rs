//! The first words to the shared process: which era it speaks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_protocol::{Era, Version, parse, rpc::ServerInfo};
use serde::Deserialize;

use crate::link::{Call, LIMITS, Link};

/// How long a server may stay silent to `server/discover` before `initialize` is sent as well. One that is still downloading
/// itself finds both when it comes up, in this order.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the process said.
#[derive(Clone, Debug)]
pub(crate) struct Greeting {
    pub(crate) era: Era,
    /// The result of `initialize`, as JSON; empty in the stateless era.
    pub(crate) result: Box<str>,
}

/// Greets the process. Not bounded in time: whoever calls it is.
///
/// # Errors
/// In words.
pub(crate) async fn shake(link: &Arc<Link>) -> Result<Greeting, String> {
    let info = ServerInfo { name: "portcullis-bridge", title: None, version: env!("CARGO_PKG_VERSION") }.json();
    let version = Version::LATEST;
    let discover = format!(
        r#"{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{info}}}}}"#
    );
    let version = Version::LATEST_LEGACY;
    let initialize = format!(r#"{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{info}}}"#);
    let mut discovery = ask(link, "server/discover", &discover).await?;
    let early = tokio::time::timeout(PATIENCE, discovery.answered()).await;
    if let Ok(answer) = early {
        if is_modern(&answer.ok_or_else(ended)?) {
            return Ok(Greeting { era: Era::Modern, result: "".into() });
        }
        let mut greeting = ask(link, "initialize", &initialize).await?;
        return legacy(link, greeting.answered().await).await;
    }
    let mut greeting = ask(link, "initialize", &initialize).await?;
    tokio::select! {
        biased;
        answer = discovery.answered() => match is_modern(&answer.ok_or_else(ended)?) {
            true => Ok(Greeting { era: Era::Modern, result: "".into() }),
            false => legacy(link, greeting.answered().await).await,
        },
        answer = greeting.answered() => legacy(link, answer).await,
    }
}

fn ended() -> String {
    "it ended before it answered".to_owned()
}

async fn ask(link: &Arc<Link>, method: &str, params: &str) -> Result<Call, String> {
    link.own(method, params).await.map_err(|fault| fault.message.into_owned())
}

fn is_modern(answer: &Bytes) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Discovered {
        supported_versions: Vec<String>,
    }
    let Ok(message) = parse(answer, &LIMITS) else { return false };
    let found = message.result.and_then(|r| serde_json::from_str::<Discovered>(r.piece.raw).ok());
    let modern = |v: &String| v.parse::<Version>().is_ok_and(|v| v.era() == Era::Modern);
    found.is_some_and(|d| d.supported_versions.iter().any(modern))
}

async fn legacy(link: &Arc<Link>, answer: Option<Bytes>) -> Result<Greeting, String> {
    let answer = answer.ok_or_else(ended)?;
    let message = parse(&answer, &LIMITS).map_err(|e| e.to_string())?;
    let Some(result) = message.result.filter(|r| r.is_object) else {
        let why = message.error.and_then(|e| e.message.map(|m| m.value.chars().take(200).collect::<String>()));
        return Err(format!("it refuses to initialize: {}", why.unwrap_or_default()));
    };
    link.tell(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    Ok(Greeting { era: Era::Legacy, result: result.piece.raw.into() })
}
