//! The store as a whole: sealing again with another key.

use axum::{Json, extract::State};
use portcullis_credential::{SecretsError, VaultError};
use portcullis_model::Side;

use super::{Admin, Tenant, Who, reply::Answer};
use crate::api::{ApiError, Resealed};

pub(super) async fn reseal(State(admin): State<Admin>, Tenant(tenant): Tenant, who: Who) -> Answer<Resealed> {
    let attempt = admin.attempt(&who, "reseal", &tenant, "sealed records").await?;
    let done = admin.secrets.reseal().await;
    attempt.end(done.is_ok()).await?;
    let done = done.map_err(|error| refused(&error))?;
    Ok(Json(Resealed { records: done.records, key: done.key, unneeded: done.unneeded }))
}

fn refused(error: &SecretsError) -> ApiError {
    let refused = ApiError::new(Side::Gateway, "reseal-failed", error.to_string());
    match error {
        SecretsError::Vault { source: VaultError::UnknownKey(_), .. } => {
            refused.next("Put that key back behind the new one, where the sealing keys are, and try again.")
        }
        SecretsError::Vault { .. } => refused.next("Correct the sealing keys; those of before are still in use."),
        _ => refused,
    }
}
