//! Where state is kept: this machine's own store, or the database that several gateways share.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    extract::Request,
    http::StatusCode,
    middleware::{self, Next},
    response::IntoResponse as _,
};
use portcullis_console::api::ApiError;
use portcullis_gateway::Currency;
use portcullis_store::{PostgresStore, SledOptions, SledStore, Store};
use portcullis_telemetry::Metrics;

use crate::settings::Settings;

/// Opens it.
///
/// # Errors
/// Where it can't be opened.
pub async fn open(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Arc<dyn Store>> {
    let Some(database) = &settings.store else {
        let state = settings.data_dir.join("state");
        let opened = tokio::task::spawn_blocking(move || SledStore::open(&state, SledOptions::default())).await?;
        return Ok(opened.context("the store can't be opened")?);
    };
    let options = database.options()?.metrics(Arc::clone(metrics));
    let place = options.place();
    if options.in_the_clear() {
        tracing::warn!(place, "the store is reached without TLS: whoever is in between reads and changes it");
    }
    let store = PostgresStore::open(options).await.with_context(|| format!("the store at {place} can't be opened"))?;
    tracing::info!(place, "state is in a database, which other gateways may share");
    Ok(store)
}

/// How long calls go on by what was known last while the store can't be reached.
pub fn stale_for(settings: &Settings) -> Duration {
    settings.store.as_ref().map_or(Duration::MAX, |database| database.stale_for.get())
}

/// Where state is, for people.
pub fn place(settings: &Settings) -> String {
    let database = settings.store.as_ref().and_then(|d| portcullis_store::PostgresOptions::parse(&d.url).ok());
    database.map_or_else(|| settings.data_dir.display().to_string(), |options| options.place())
}

/// The router, which answers only while what is known is up to date: a token for it may have been revoked elsewhere.
pub fn asking(router: Router, currency: Currency) -> Router {
    let ask = move |request: Request, next: Next| {
        let currency = currency.clone();
        async move {
            match currency.check().await {
                Ok(()) => next.run(request).await,
                Err(fault) => {
                    let error = ApiError::new(fault.side, fault.code, fault.message).next("Try again.");
                    let body = Json(serde_json::json!({ "error": error }));
                    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
                }
            }
        }
    };
    router.layer(middleware::from_fn(ask))
}
