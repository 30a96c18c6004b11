//! Plugins: how they stand, and the way back to an earlier version and forward again.

use axum::{
    Json,
    extract::{Path, State},
};
use portcullis_identity::Action;
use portcullis_model::{Kind, Name, ResourceKey, Side};

use super::{
    Admin, Tenant, Who,
    reply::{Answer, not_found},
    resources::parse_name,
};
use crate::api::{ApiError, Page, PluginItem};

/// All plugins of the tenant that have a resource.
pub(super) async fn list(State(admin): State<Admin>, Tenant(tenant): Tenant, who: Who) -> Answer<Page<PluginItem>> {
    who.must(&Action::Operate, "see how plugins stand")?;
    let plugins = admin.registry.list(Some(&tenant), Some(Kind::Plugin));
    let items = plugins.iter().filter_map(|p| admin.view.plugin(&tenant, &p.metadata.name)).collect();
    Ok(Json(Page { items, next: None }))
}

/// One of them.
pub(super) async fn get(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
) -> Answer<PluginItem> {
    who.must(&Action::Operate, "see how plugins stand")?;
    let key = key(&tenant, &name)?;
    let item = admin.view.plugin(&tenant, &key.name).ok_or_else(|| not_found(&key))?;
    Ok(Json(item))
}

/// Back to the version that was active before.
pub(super) async fn roll_back(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
) -> Answer<PluginItem> {
    let key = movable(&admin, &tenant, &who, &name)?;
    let attempt = admin.attempt(&who, "roll-back", &tenant, key.to_string()).await?;
    let moved = admin.view.roll_back(&tenant, &key.name).await;
    attempt.end(moved.is_ok()).await?;
    ended(&key, moved)
}

/// Forward again to what the resource says.
pub(super) async fn resume(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Path(name): Path<String>,
) -> Answer<PluginItem> {
    let key = movable(&admin, &tenant, &who, &name)?;
    let attempt = admin.attempt(&who, "resume", &tenant, key.to_string()).await?;
    let moved = admin.view.resume(&tenant, &key.name).await;
    attempt.end(moved.is_ok()).await?;
    ended(&key, moved)
}

/// Whoever may change a plugin may say which version of it serves.
fn movable(admin: &Admin, tenant: &Name, who: &Who, name: &str) -> Result<ResourceKey, ApiError> {
    let key = key(tenant, name)?;
    let resource = admin.registry.get(&key).filter(|r| admin.shows(who, r)).ok_or_else(|| not_found(&key))?;
    admin.lets_move(who, &key, &resource)?;
    Ok(key)
}

fn ended(key: &ResourceKey, moved: Result<PluginItem, String>) -> Answer<PluginItem> {
    let moved = moved.map_err(|why| {
        ApiError::new(Side::Caller, "refused", why)
            .next(format!("What served goes on serving: `portcullis plugin status {}`.", key.name))
    })?;
    Ok(Json(moved))
}

fn key(tenant: &Name, name: &str) -> Result<ResourceKey, ApiError> {
    Ok(ResourceKey { tenant: tenant.clone(), kind: Kind::Plugin, name: parse_name(name)? })
}
