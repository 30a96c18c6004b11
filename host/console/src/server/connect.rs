//! Connecting a server by the admin API.

use axum::{Json, extract::State};

use super::{
    Admin, Tenant, Who,
    reply::{Answer, Body},
};
use crate::{
    api::{ConnectRequest, Connected},
    install::install,
};

pub(super) async fn connect(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<ConnectRequest>,
) -> Answer<Connected> {
    Ok(Json(install(&admin, &who, &tenant, request).await?))
}
