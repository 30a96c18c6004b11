//! Connecting a server: for whom, with what, and who may use it; from the registry, or from the link of a call.
//!
//! A link carries no authority (security.md 21): whoever opens it is signed in, and asked whether they may connect for whom
//! it was made. What is given is checked and kept by [`crate::install`], as the admin API's is.

mod ask;
pub(super) mod oauth;
mod task;

use axum::{
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{SignedForm, Visitor, Web, form::Fields, tokens::who, view};
use crate::{api::ConnectRequest, install};
use task::Task;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// For whom, once that was chosen.
    owner: Option<String>,
    /// A connection that is to be mended.
    connection: Option<String>,
}

/// `GET /servers/{name}/connect`.
pub async fn at_server(
    State(web): State<Web>,
    visitor: Visitor,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    match Task::of_server(&web, &visitor, &name, asked.connection.as_deref()) {
        Ok(task) => ask::page(&web, &visitor, &task, asked.owner.as_deref(), None, &[]).into_response(),
        Err(response) => response,
    }
}

/// `POST /servers/{name}/connect`.
pub async fn take_at_server(
    State(web): State<Web>,
    Path(name): Path<String>,
    SignedForm { visitor, fields }: SignedForm,
) -> Response {
    match Task::of_server(&web, &visitor, &name, fields.get("connection")) {
        Ok(task) => take(&web, &visitor, &task, &fields).await,
        Err(response) => response,
    }
}

/// `GET /connect/{link}`.
pub async fn at_link(
    State(web): State<Web>,
    visitor: Visitor,
    Path(link): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    match Task::of_link(&web, &visitor, &link) {
        Ok(task) => ask::page(&web, &visitor, &task, asked.owner.as_deref(), None, &[]).into_response(),
        Err(response) => response,
    }
}

/// `POST /connect/{link}`.
pub async fn take_at_link(
    State(web): State<Web>,
    Path(link): Path<String>,
    SignedForm { visitor, fields }: SignedForm,
) -> Response {
    match Task::of_link(&web, &visitor, &link) {
        Ok(task) => take(&web, &visitor, &task, &fields).await,
        Err(response) => response,
    }
}

/// Connects with what the form brought, or shows the form again with what is wrong.
async fn take(web: &Web, visitor: &Visitor, task: &Task, fields: &Fields) -> Response {
    let again = |wrong: &[(String, String)]| {
        let page = ask::page(web, visitor, task, fields.get("owner"), Some(fields), wrong);
        (StatusCode::BAD_REQUEST, page).into_response()
    };
    let Some(choice) = task.choice(fields.get("owner")) else {
        return again(&[]);
    };
    let owner_only = match (task.rule(&choice.owner), fields.get("owner_only")) {
        (Some(rule), _) => Some(rule.owner_only),
        (None, Some("true")) => Some(true),
        (None, Some("false")) => Some(false),
        _ => None,
    };
    let (values, secrets) = task.given(fields);
    let request = ConnectRequest {
        server: task.server.clone(),
        owner: choice.owner.to_string(),
        name: task.connection.clone(),
        values,
        secrets,
        owner_only: owner_only.unwrap_or(true),
    };
    // All that is wrong at once, so that nobody is sent back twice.
    let mut wrong = tied(task, install::wrong(&web.admin, &visitor.principal.tenant, &request));
    if owner_only.is_none() {
        wrong.push((ask::OWNER_ONLY.to_owned(), "Say whose calls may run under it".to_owned()));
    }
    if !wrong.is_empty() {
        return again(&wrong);
    }
    if task.spec.oauth().is_some() {
        return oauth::begin(web, visitor, task, request).await.unwrap_or_else(|refused| refused);
    }
    match install::install(&web.admin, &who(visitor), &visitor.principal.tenant, request).await {
        Ok(connected) => Redirect::to(&format!("/connections/{}?new=1", connected.connection)).into_response(),
        Err(error) => view::failed(visitor, &error),
    }
}

/// Each problem, tied to its field.
fn tied(task: &Task, problems: Vec<(String, String)>) -> Vec<(String, String)> {
    let label = |field: &str| view::title(task.spec.field(field).map_or(field, |f| f.label()));
    problems.into_iter().map(|(field, what)| (ask::id(&field), format!("{} {what}", label(&field)))).collect()
}
