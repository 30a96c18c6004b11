//! Servers that run here: their logs, and restarting them.

use std::{
    convert::Infallible,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use portcullis_identity::Action;
use portcullis_model::{Kind, Name, ResourceKey, Side};
use serde::Deserialize;

use super::{
    Admin, Tenant, Who,
    reply::{Answer, Refused, not_found},
    resources::parse_name,
};
use crate::api::{ApiError, LogLine};

/// The most lines of one answer that does not follow.
const MAX_LINES: usize = 10_000;
/// How long a restart waits for calls in flight where nobody says.
const DRAIN: Duration = Duration::from_secs(10);
/// The longest that anybody may ask a restart to wait.
const MAX_DRAIN: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
pub(super) struct LogsQuery {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

/// JSON lines, each a [`LogLine`].
pub(super) async fn logs(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    who.must(&Action::Operate, "read logs of servers")?;
    let Query(query) = query.map_err(ApiError::from)?;
    let server = process(&admin, &tenant, &name)?;
    let ring = admin.orchestrator.logs(&tenant, &server);
    let tail = ring.as_ref().map(|r| r.tail(query.lines.unwrap_or(200).min(MAX_LINES))).unwrap_or_default();
    let first: Vec<u8> = tail.iter().flat_map(line).collect();
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    if !query.follow {
        return Ok((kind, first).into_response());
    }
    let after = tail.last().map_or(0, |l| l.number);
    let orchestrator = admin.orchestrator.clone();
    let further = stream::unfold((ring, after), move |(mut ring, after)| {
        let (orchestrator, tenant, server) = (orchestrator.clone(), tenant.clone(), server.clone());
        async move {
            // A server that never ran has no log yet; it gets one when it starts.
            while ring.is_none() {
                tokio::time::sleep(Duration::from_millis(250)).await;
                ring = orchestrator.logs(&tenant, &server);
            }
            let lines = match &ring {
                Some(ring) => ring.follow(after).await,
                None => Vec::new(),
            };
            let after = lines.last().map_or(after, |l| l.number);
            let bytes: Vec<u8> = lines.iter().flat_map(line).collect();
            Some((Ok::<_, Infallible>(Bytes::from(bytes)), (ring, after)))
        }
    });
    let body = Body::from_stream(stream::iter([Ok(Bytes::from(first))]).chain(further));
    Ok((kind, body).into_response())
}

fn line(line: &portcullis_orchestrator::LogLine) -> Vec<u8> {
    let at_ms = line.time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let told = LogLine { number: line.number, at_ms, text: line.text.clone() };
    let mut bytes = serde_json::to_vec(&told).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[derive(Deserialize)]
pub(super) struct RestartQuery {
    drain_s: Option<u64>,
}

pub(super) async fn restart(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
    query: Result<Query<RestartQuery>, QueryRejection>,
) -> Answer<serde_json::Value> {
    who.must(&Action::Operate, "restart servers")?;
    let Query(query) = query.map_err(ApiError::from)?;
    let server = process(&admin, &tenant, &name)?;
    let drain = query.drain_s.map_or(DRAIN, Duration::from_secs).min(MAX_DRAIN);
    let attempt = admin.attempt(&who, "restart", &tenant, format!("McpServer/{server}")).await?;
    admin.orchestrator.restart(&tenant, &server, drain).await;
    attempt.end(true).await?;
    Ok(Json(serde_json::json!({ "resource": format!("McpServer/{server}"), "change": "restarted" })))
}

/// The name of a server that runs as a process here.
fn process(admin: &Admin, tenant: &Name, name: &str) -> Result<Name, ApiError> {
    let name = parse_name(name)?;
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::McpServer, name };
    let fleet = admin.registry.snapshot();
    let server = fleet.server(tenant, &key.name).ok_or_else(|| not_found(&key))?;
    if server.spec.process.is_none() {
        let message = format!("{key} is a remote server: somebody else runs it");
        return Err(ApiError::new(Side::Caller, "not-a-process", message));
    }
    Ok(key.name)
}
