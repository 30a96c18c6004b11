//! Servers that Portcullis runs: their logs, and ending and starting them. [`super::pods`] does it for those in a cluster.

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
    Admin, Tenant, Who, pods,
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
    /// Of the containers before those that run (pods).
    #[serde(default)]
    previous: bool,
}

/// What a server runs as.
enum Runs {
    Processes(Name),
    Pods(Name),
}

impl Runs {
    fn name(&self) -> &Name {
        match self {
            Self::Processes(name) | Self::Pods(name) => name,
        }
    }
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
    let lines = query.lines.unwrap_or(200).min(MAX_LINES);
    let server = match runs(&admin, &tenant, &name)? {
        Runs::Processes(server) => server,
        Runs::Pods(server) => return pods::logs(&admin, &tenant, &server, (lines, query.follow, query.previous)).await,
    };
    if query.previous {
        let message = "a process has one log, which goes on when it is started anew: leave out `previous`";
        return Err(ApiError::new(Side::Caller, "invalid-request", message).into());
    }
    let ring = admin.orchestrator.logs(&tenant, &server);
    let tail = ring.as_ref().map(|r| r.tail(lines)).unwrap_or_default();
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

pub(super) fn line(line: &portcullis_orchestrator::LogLine) -> Vec<u8> {
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
    let drain = query.drain_s.map_or(DRAIN, Duration::from_secs).min(MAX_DRAIN);
    operate(&admin, &who, &tenant, &name, Verb::Restart(drain)).await
}

pub(super) async fn stop(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
    query: Result<Query<RestartQuery>, QueryRejection>,
) -> Answer<serde_json::Value> {
    who.must(&Action::Operate, "stop servers")?;
    let Query(query) = query.map_err(ApiError::from)?;
    let drain = query.drain_s.map_or(DRAIN, Duration::from_secs).min(MAX_DRAIN);
    operate(&admin, &who, &tenant, &name, Verb::Stop(drain)).await
}

pub(super) async fn start(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
) -> Answer<serde_json::Value> {
    who.must(&Action::Operate, "start servers")?;
    operate(&admin, &who, &tenant, &name, Verb::Start).await
}

/// What is done with a server that runs.
enum Verb {
    /// After so long at most for calls in flight.
    Restart(Duration),
    Stop(Duration),
    Start,
}

async fn operate(admin: &Admin, who: &Who, tenant: &Name, name: &str, verb: Verb) -> Answer<serde_json::Value> {
    let runs = runs(admin, tenant, name)?;
    let server = runs.name();
    let (word, change) = match verb {
        Verb::Restart(_) => ("restart", "restarted"),
        Verb::Stop(_) => ("stop", "stopped"),
        Verb::Start => ("start", "started"),
    };
    let attempt = admin.attempt(who, word, tenant, format!("McpServer/{server}")).await?;
    let done: Result<(), ApiError> = match &runs {
        Runs::Processes(server) => {
            match verb {
                Verb::Restart(drain) => admin.orchestrator.restart(tenant, server, drain).await,
                Verb::Stop(drain) => admin.orchestrator.stop(tenant, server, drain).await,
                Verb::Start => admin.orchestrator.start(tenant, server),
            }
            Ok(())
        }
        Runs::Pods(server) => {
            let workloads = pods::workloads(admin)?;
            let done = match verb {
                Verb::Restart(_) => workloads.restart(tenant, server, &pods::now()).await,
                Verb::Stop(_) => workloads.stop(tenant, server).await,
                Verb::Start => workloads.start(tenant, server).await,
            };
            done.map_err(pods::refused)
        }
    };
    attempt.end(done.is_ok()).await?;
    done?;
    Ok(Json(serde_json::json!({ "resource": format!("McpServer/{server}"), "change": change })))
}

/// What a server runs as.
fn runs(admin: &Admin, tenant: &Name, name: &str) -> Result<Runs, ApiError> {
    let name = parse_name(name)?;
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::McpServer, name };
    let fleet = admin.registry.snapshot();
    let server = fleet.server(tenant, &key.name).ok_or_else(|| not_found(&key))?;
    match (&server.spec.process, &server.spec.kubernetes) {
        (Some(_), _) => Ok(Runs::Processes(key.name)),
        (None, Some(_)) => Ok(Runs::Pods(key.name)),
        (None, None) => {
            let message = format!("{key} is a remote server: somebody else runs it");
            Err(ApiError::new(Side::Caller, "not-a-process", message))
        }
    }
}
