//! Servers that run in a cluster: their logs, how many pods they have, and what they become there.

use std::{convert::Infallible, sync::Arc, time::SystemTime};

use axum::{
    Json,
    body::{Body as Stream, Bytes},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use portcullis_identity::Action;
use portcullis_model::{Kind, Name, ResourceKey, Side, Spec, spec::MAX_REPLICAS};
use portcullis_orchestrator::{OperateError, Workloads};
use portcullis_telemetry::rfc3339;
use portcullis_workload::Planned;
use serde::Deserialize;
use serde_json::json;

use super::{
    Admin, Tenant, Who, processes,
    reply::{Answer, Body, Refused, not_found},
    resources::parse_name,
};
use crate::{
    api::{ApiError, RenderRequest, Rendered},
    wishes,
};

/// The runtime.
pub(super) fn workloads(admin: &Admin) -> Result<&Workloads, ApiError> {
    admin.workloads.as_ref().ok_or_else(|| {
        ApiError::new(Side::Gateway, "no-cluster", "this gateway runs no servers in a cluster")
            .next("Set `kubernetes.servers` in the server settings: docs/guides/kubernetes.md.")
    })
}

pub(super) fn refused(error: OperateError) -> ApiError {
    match &error {
        OperateError::None => ApiError::new(Side::Caller, "not-deployed", error.to_string()),
        OperateError::TooMany => ApiError::new(Side::Caller, "invalid-request", error.to_string()),
        OperateError::Cluster(_) => ApiError::new(Side::Gateway, "cluster", error.to_string()),
    }
}

/// Now, as annotations have it.
pub(super) fn now() -> String {
    rfc3339(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default())
}

/// JSON lines, each a [`crate::api::LogLine`].
pub(super) async fn logs(
    admin: &Admin,
    tenant: &Name,
    server: &Name,
    how: (usize, bool, bool),
) -> Result<Response, Refused> {
    let mut logs = workloads(admin)?.logs(tenant, server, how).map_err(refused)?;
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let (lines, follow, _) = how;
    if !follow {
        logs.whole().await;
        let all: Vec<u8> = logs.ring.tail(lines).iter().flat_map(processes::line).collect();
        return Ok((kind, all).into_response());
    }
    // Dropped with the answer, which ends the reading.
    let further = stream::unfold((logs, 0), |(logs, after)| async move {
        let lines = logs.ring.follow(after).await;
        let after = lines.last().map_or(after, |l| l.number);
        let bytes: Vec<u8> = lines.iter().flat_map(processes::line).collect();
        Some((Ok::<_, Infallible>(Bytes::from(bytes)), (logs, after)))
    });
    Ok((kind, Stream::from_stream(further)).into_response())
}

#[derive(Deserialize)]
pub(super) struct ScaleQuery {
    /// As many as the definition says where left out.
    replicas: Option<u32>,
}

pub(super) async fn scale(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
    query: Result<Query<ScaleQuery>, QueryRejection>,
) -> Answer<serde_json::Value> {
    who.must(&Action::Operate, "scale servers")?;
    let Query(ScaleQuery { replicas }) = query.map_err(ApiError::from)?;
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::McpServer, name: parse_name(&name)? };
    let fleet = admin.registry.snapshot();
    let server = fleet.server(&tenant, &key.name).ok_or_else(|| not_found(&key))?;
    if server.spec.kubernetes.is_none() {
        let message = format!("{key} does not run in a cluster, where alone there can be several of one");
        return Err(ApiError::new(Side::Caller, "not-in-cluster", message).into());
    }
    if replicas.is_some_and(|replicas| replicas > MAX_REPLICAS) {
        return Err(refused(OperateError::TooMany).into());
    }
    let attempt = admin.attempt(&who, "scale", &tenant, key.to_string()).await?;
    let done = workloads(&admin)?.scale(&tenant, &key.name, replicas).await.map_err(refused);
    attempt.end(done.is_ok()).await?;
    done?;
    Ok(Json(json!({ "resource": format!("McpServer/{}", key.name), "change": "scaled", "replicas": replicas })))
}

/// What a server becomes in the cluster, and with `check` whether the cluster would take it. Nothing is changed.
pub(super) async fn render(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<RenderRequest>,
) -> Answer<Rendered> {
    who.must(&Action::Operate, "see what servers become in the cluster")?;
    let workloads = workloads(&admin)?;
    let (name, server) = match (request.resource, request.server) {
        (Some(resource), None) => {
            // It may name what only some may: it would be read.
            admin.lets_apply(&who, &tenant, std::slice::from_ref(&resource))?;
            let problems: Vec<String> = resource.problems().iter().map(ToString::to_string).collect();
            if !problems.is_empty() {
                return Err(ApiError::new(Side::Caller, "refused", problems.join("; ")).into());
            }
            match resource.spec {
                Spec::McpServer(server) => (resource.metadata.name, server),
                _ => return Err(ApiError::new(Side::Caller, "invalid-request", "only an McpServer is rendered").into()),
            }
        }
        (None, Some(name)) => {
            let key = ResourceKey { tenant: tenant.clone(), kind: Kind::McpServer, name: name.clone() };
            let fleet = admin.registry.snapshot();
            let found = fleet.server(&tenant, &name).ok_or_else(|| not_found(&key))?;
            (name, found.spec.clone())
        }
        _ => return Err(ApiError::new(Side::Caller, "invalid-request", "say one of server and resource").into()),
    };
    if server.kubernetes.is_none() {
        let message = format!("McpServer/{name} does not run in a cluster");
        return Err(ApiError::new(Side::Caller, "not-in-cluster", message).into());
    }
    let (server, book, of) = (Arc::new(server), Arc::clone(&admin.book), (tenant, name.clone()));
    let wishes = tokio::task::spawn_blocking(move || wishes::of(&of.0, &of.1, &server, &book)).await;
    let mut wishes = wishes.map_err(|_| ApiError::new(Side::Gateway, "shutting-down", "the gateway is stopping"))?;
    if let Some(connection) = &request.connection {
        wishes.retain(|wish| wish.identity.connection.as_ref() == Some(connection));
    }
    if wishes.is_empty() {
        let message = format!("no connection of McpServer/{name} would be deployed: each has a deployment of its own");
        return Err(ApiError::new(Side::Caller, "not-deployed", message).next("Connect it first.").into());
    }
    let mut rendered = Rendered { objects: Vec::new(), relaxed: Vec::new(), checked: request.check };
    for wish in &wishes {
        let planned = workloads
            .plan(wish)
            .map_err(|why| ApiError::new(Side::Caller, "refused", format!("{}: {why}", wish.identity)))?;
        if request.check {
            let checked = workloads.check(&planned).await;
            checked.map_err(|why| ApiError::new(Side::Gateway, "cluster", format!("{}: {why}", wish.identity)))?;
        }
        rendered.relaxed = planned.relaxed.iter().map(|name| (*name).to_owned()).collect();
        rendered.objects.extend(shown(planned));
    }
    Ok(Json(rendered))
}

/// The objects with the names of a Secret's keys, and none of its values.
fn shown(planned: Planned) -> impl Iterator<Item = serde_json::Value> {
    planned.objects.into_iter().map(|object| {
        let mut body = object.body;
        if !object.data.is_empty() {
            let keys = object.data.into_keys().map(|key| (key, json!("")));
            body["data"] = serde_json::Value::Object(keys.collect());
        }
        body
    })
}
