//! One-time codes, by which people without an identity provider sign in.

use axum::{Json, extract::State};
use portcullis_identity::{Action, signin::CodeError};
use portcullis_model::{Kind, ResourceKey, Side, Subject};

use super::{
    Admin, Tenant, Who,
    reply::{Answer, Body, not_found},
};
use crate::api::{ApiError, SignInCode, SignInRequest};

pub(super) async fn create(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<SignInRequest>,
) -> Answer<SignInCode> {
    let whose = admin.whose(&tenant, &Subject::User(request.user.clone()));
    who.must(&Action::SignInCode(&whose), &format!("make a sign-in code for {}", whose.subject))?;
    let attempt = admin.attempt(&who, "signin.code", &tenant, format!("User/{}", request.user)).await?;
    let made = admin.signin.make_code(&tenant, &request.user).await;
    attempt.end(made.is_ok()).await?;
    let made = made.map_err(|error| match error {
        CodeError::NoUser(name) => not_found(&ResourceKey { tenant: tenant.clone(), kind: Kind::User, name }),
        error => ApiError::new(Side::Gateway, "store-unavailable", error.to_string()).next("Try again."),
    })?;
    let url = format!("{}/signin", admin.view.status().url);
    // A named exit: the code is told once, to whoever made it, over the owner's own socket.
    let code = String::from_utf8_lossy(made.text.expose()).into_owned();
    Ok(Json(SignInCode { url, code, expires_ms: made.until_ms }))
}
