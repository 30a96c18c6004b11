//! Answers and errors as HTTP, and errors of the crates below as the API's.

use axum::{
    Json,
    extract::{
        FromRequest, Request,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use portcullis_identity::TokenError;
use portcullis_model::{Problem, ResourceKey, Side};
use portcullis_store::{
    StoreError,
    registry::{Refusal, RegistryError},
};
use serde::de::DeserializeOwned;

use crate::api::{ApiError, Complaint};

/// What a handler answers.
pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// An error on its way out.
pub(super) struct Refused(ApiError);

impl<E: Into<ApiError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        error(self.0)
    }
}

/// An error as an answer.
pub(super) fn error(error: ApiError) -> Response {
    let status = match &*error.code {
        "not-found" | "unknown-path" => StatusCode::NOT_FOUND,
        "unauthenticated" => StatusCode::UNAUTHORIZED,
        "forbidden" => StatusCode::FORBIDDEN,
        "too-many-failures" => StatusCode::TOO_MANY_REQUESTS,
        "refused" | "conflict" => StatusCode::CONFLICT,
        "store-full" => StatusCode::INSUFFICIENT_STORAGE,
        _ if error.side == Side::Caller.as_str() => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(error)).into_response()
}

/// A body that is read as JSON, or refused in the API's own words.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let wrong = |e: JsonRejection| ApiError::new(Side::Caller, "invalid-request", e.body_text());
        let Json(value) = Json::<T>::from_request(request, state).await.map_err(wrong)?;
        Ok(Self(value))
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Side::Caller, "invalid-request", rejection.body_text())
    }
}

pub(crate) fn complaint(key: &ResourceKey, position: usize, problem: &Problem) -> Complaint {
    Complaint {
        resource: key.to_string(),
        position,
        path: problem.path.clone(),
        message: problem.message.clone(),
        place: None,
    }
}

pub(crate) fn not_found(key: &ResourceKey) -> ApiError {
    ApiError::new(Side::Caller, "not-found", format!("{key} does not exist"))
        .next(format!("See what there is with `portcullis get {}`.", key.kind.plural()))
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::NotFound(key) => not_found(&key),
            RegistryError::Store(error) => error.into(),
            RegistryError::Refused(refusals) => refused(&refusals),
        }
    }
}

fn refused(refusals: &[Refusal]) -> ApiError {
    let all = refusals.iter().flat_map(|r| r.problems.iter().map(|p| complaint(&r.key, r.position, p)));
    let mut error = ApiError::new(Side::Caller, "refused", "nothing was changed, because some of it can't be taken");
    error.problems = all.collect();
    error
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Conflict { .. } => Self::new(Side::Caller, "conflict", text).next("Try again."),
            StoreError::NoSpace => Self::new(Side::Gateway, "store-full", text),
            StoreError::TooLarge => Self::new(Side::Caller, "too-large", text),
            StoreError::Unknown(_) => {
                Self::new(Side::Gateway, "store-unknown", text).next("Look whether it is there, then try again.")
            }
            StoreError::TooOld
            | StoreError::Locked
            | StoreError::Unavailable(_)
            | StoreError::Foreign(_)
            | StoreError::Corrupt(_) => Self::new(Side::Gateway, "store-unavailable", text),
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        match error {
            TokenError::Unknown(_) => {
                Self::new(Side::Caller, "not-found", text).next("List the ids with `portcullis token list`.")
            }
            TokenError::NoOwner(_) => Self::new(Side::Caller, "not-found", text)
                .next("Make it first: apply a User, Team or Agent resource of that name."),
            TokenError::TooLong(_) | TokenError::TooShort | TokenError::Invalid(_) => {
                Self::new(Side::Caller, "invalid-request", text)
            }
            TokenError::TooMany { .. } => Self::new(Side::Policy, "refused", text),
            TokenError::Store(error) => error.into(),
            TokenError::NotSaved(_) | TokenError::NoRandomness => Self::new(Side::Gateway, "store-unavailable", text),
        }
    }
}
