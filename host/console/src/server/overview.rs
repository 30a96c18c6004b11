//! The gateway as a whole: its status.

use axum::{Json, extract::State};
use portcullis_identity::Action;

use super::{Admin, Tenant, Who, reply::Answer};
use crate::api::GatewayStatus;

pub(super) async fn status(State(admin): State<Admin>, Tenant(tenant): Tenant, who: Who) -> Answer<GatewayStatus> {
    who.must(&Action::Operate, "see how the gateway does")?;
    let fleet = admin.registry.snapshot();
    let mut status = admin.view.status();
    status.revision = fleet.revision.0;
    let all = matches!(who, Who::Local(_));
    for (key, _) in fleet.iter().filter(|(key, _)| all || key.tenant == tenant) {
        *status.resources.entry(key.kind.as_str().to_owned()).or_default() += 1;
    }
    if who.is_of_the_machine() {
        status.files = admin.files.as_ref().map(|f| f.status()).unwrap_or_default();
    } else {
        // What is on the machine, and what other tenants lack, is not this tenant's to know.
        (status.pid, status.data_dir, status.missing) = (0, String::new(), Vec::new());
        (status.local_url, status.metrics_url) = (String::new(), None);
    }
    Ok(Json(status))
}
