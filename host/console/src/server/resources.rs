//! Resources: list, get, apply, delete.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use portcullis_model::{Door, Kind, Name, Resource, ResourceKey, Side};
use portcullis_store::registry::Applied;
use serde::Deserialize;

use super::{
    Admin, Tenant, Who,
    page::page,
    reply::{Answer, Body, complaint, not_found},
};
use crate::api::{ApiError, AppliedItem, ApplyAnswer, ApplyRequest, Page};

/// The most resources of one request.
const MAX_SET: usize = 4096;

#[derive(Deserialize)]
pub(super) struct ListQuery {
    kind: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Page<Resource>> {
    let Query(query) = query.map_err(ApiError::from)?;
    let kind = query.kind.as_deref().map(parse_kind).transpose()?;
    let after = query.after.as_deref().map(|text| parse_after(&tenant, text)).transpose()?;
    let mut found = admin.registry.list(Some(&tenant), kind);
    found.retain(|resource| admin.shows(&who, resource));
    let follows = |r: &Arc<Resource>| after.as_ref().is_none_or(|after| r.key() > *after);
    let cursor = |r: &Arc<Resource>| format!("{}/{}", r.spec.kind(), r.metadata.name);
    let (found, next) = page(found, query.limit, follows, cursor);
    Ok(Json(Page { items: found.iter().map(|r| admin.readable(&who, r)).collect(), next }))
}

pub(super) async fn get(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path((kind, name)): Path<(String, String)>,
) -> Answer<Resource> {
    let key = key(tenant, &kind, &name)?;
    let found = admin.registry.get(&key).filter(|resource| admin.shows(&who, resource));
    let resource = found.ok_or_else(|| not_found(&key))?;
    Ok(Json(admin.readable(&who, &resource)))
}

pub(super) async fn apply(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<ApplyRequest>,
) -> Answer<ApplyAnswer> {
    if request.resources.len() > MAX_SET {
        return Err(
            ApiError::new(Side::Caller, "too-large", format!("{MAX_SET} resources are the most at once")).into()
        );
    }
    admin.lets_apply(&who, &tenant, &request.resources)?;
    let dry_run = request.dry_run;
    let attempt =
        if dry_run { None } else { Some(admin.attempt(&who, "apply", &tenant, summary(&request.resources)).await?) };
    let applied = admin.registry.apply(request.resources, Door::Api, dry_run).await;
    if let Some(attempt) = attempt {
        admin.metrics.config_loaded("api", if applied.is_ok() { "applied" } else { "refused" });
        if applied.is_ok() {
            admin.settle().await;
        }
        attempt.end(applied.is_ok()).await?;
    }
    let items = applied?.iter().enumerate().map(|(i, a)| item(i, a)).collect();
    Ok(Json(ApplyAnswer { items, dry_run }))
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path((kind, name)): Path<(String, String)>,
) -> Answer<AppliedItem> {
    let key = key(tenant, &kind, &name)?;
    if let Who::Caller(_) = &who {
        admin.lets_delete(&who, &key)?;
    }
    let attempt = admin.attempt(&who, "delete", &key.tenant, key.to_string()).await?;
    let deleted = admin.registry.delete(&key, &Door::Api).await;
    admin.settle().await;
    attempt.end(deleted.is_ok()).await?;
    let deleted = deleted?;
    Ok(Json(item(0, &deleted)))
}

pub(super) fn item(position: usize, applied: &Applied) -> AppliedItem {
    AppliedItem {
        resource: applied.key.to_string(),
        change: applied.change.as_str().to_owned(),
        revision: applied.revision.map(|r| r.0),
        warnings: applied.warnings.iter().map(|w| complaint(&applied.key, position, w)).collect(),
    }
}

/// What the audit stream says of a set: each resource of a small one, the number of a large one.
fn summary(resources: &[Resource]) -> String {
    const NAMED: usize = 16;
    let mut names: Vec<String> = resources.iter().take(NAMED).map(|r| r.key().to_string()).collect();
    if resources.len() > NAMED {
        names.push(format!("and {} more", resources.len() - NAMED));
    }
    names.join(" ")
}

pub(super) fn parse_kind(text: &str) -> Result<Kind, ApiError> {
    text.parse().map_err(|e: portcullis_model::resource::InvalidKind| {
        ApiError::new(Side::Caller, "invalid-kind", e.to_string())
    })
}

pub(super) fn parse_name(text: &str) -> Result<Name, ApiError> {
    text.parse()
        .map_err(|e: portcullis_model::name::InvalidName| ApiError::new(Side::Caller, "invalid-name", e.to_string()))
}

pub(super) fn key(tenant: Name, kind: &str, name: &str) -> Result<ResourceKey, ApiError> {
    Ok(ResourceKey { tenant, kind: parse_kind(kind)?, name: parse_name(name)? })
}

fn parse_after(tenant: &Name, text: &str) -> Result<ResourceKey, ApiError> {
    let wrong = || ApiError::new(Side::Caller, "invalid-request", "after: not what an earlier page said");
    let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
    key(tenant.clone(), kind, name).map_err(|_| wrong())
}
