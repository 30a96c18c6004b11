//! The gateway as a whole: its status.

use axum::{Json, extract::State};

use super::{Admin, reply::Answer};
use crate::api::GatewayStatus;

pub(super) async fn status(State(admin): State<Admin>) -> Answer<GatewayStatus> {
    let fleet = admin.registry.snapshot();
    let mut status = admin.view.status();
    status.revision = fleet.revision.0;
    for (key, _) in fleet.iter() {
        *status.resources.entry(key.kind.as_str().to_owned()).or_default() += 1;
    }
    status.files = admin.files.as_ref().map(|f| f.status()).unwrap_or_default();
    Ok(Json(status))
}
