//! `tasks/list` of 2025-11-25: the caller's own tasks, of all servers and of both eras, each as its server shows it now.

use std::time::Instant;

use axum::response::Response;
use futures_util::future::join_all;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{rpc, session::Cursor, splice::quote};

use super::made::{self, Place};
use crate::{
    answer,
    asked::Asked,
    gateways::Gateways,
    in_flight::Underway,
    legacy::now_ms,
    list::{CURSOR_MS, invalid_cursor},
    relayed::{Relayed, What},
};

/// Tasks of one page: each is asked for.
const PAGE: usize = 20;
/// What cursors of this list are for.
const LIST: &str = "task-list";

/// Answers it.
///
/// # Errors
/// A fault of the caller for a cursor that was never issued.
pub async fn list(gateways: &Gateways, asked: &Asked<'_>, underway: Option<&Underway>) -> Result<Response, Fault> {
    let start = match asked.message.params.as_ref().and_then(|p| p.cursor.as_ref()) {
        None => 0,
        Some(cursor) => Cursor::open(&gateways.sealer, cursor.as_ref(), &asked.binding(), LIST, now_ms())
            .map_err(|error| {
                gateways.metrics.sealed_rejected("cursor", error.as_str());
                invalid_cursor()
            })?
            .after
            .parse()
            .unwrap_or(0),
    };
    let whose = made::whose(asked);
    let all = gateways.made.of(&whose);
    let talks = underway.is_some_and(|u| u.line.is_some());
    let page: Vec<&Place> = all.iter().skip(start).take(PAGE).collect();
    let tasks = join_all(page.iter().map(|place| one(gateways, asked, place, talks))).await;
    let gone: Vec<Place> =
        page.iter().zip(&tasks).filter(|(_, task)| task.is_none()).map(|(place, _)| (*place).clone()).collect();
    let mut body = format!(r#"{{"tasks":[{}]"#, tasks.into_iter().flatten().collect::<Vec<_>>().join(","));
    // Those that are gone leave no hole in the next page.
    let next = start + page.len() - gone.len();
    if start + page.len() < all.len() {
        let cursor = Cursor {
            binding: asked.binding(),
            list: LIST.to_owned(),
            after: next.to_string(),
            expires_ms: now_ms() + CURSOR_MS,
        };
        let cursor = cursor
            .seal(&gateways.sealer)
            .map_err(|_| Fault::new(Side::Gateway, "internal", "the list could not be paged"))?;
        body.push_str(&format!(r#","nextCursor":{}"#, quote(&cursor)));
    }
    gateways.made.forget(&whose, &gone);
    body.push('}');
    Ok(answer::json(StatusCode::OK, rpc::result(asked.id(), &body)))
}

/// One task as it is now; none where it is gone.
async fn one(gateways: &Gateways, asked: &Asked<'_>, place: &Place, talks: bool) -> Option<String> {
    let Some(server) = &place.server else {
        let kept = gateways.made.result(&place.own, &made::whose(asked))?;
        return Some(kept.task(&place.exposed));
    };
    let at = asked.view.servers.iter().position(|s| s.server == *server)?;
    let assigned = &asked.view.servers[at];
    let (own, exposed) = (&*place.own, &*place.exposed);
    let mut relayed = Relayed {
        gateways,
        asked,
        at,
        assigned,
        what: What::Other,
        exposed,
        own,
        record: None,
        underway: None,
        keep: None,
        task: Some((own, exposed)),
        bridged: false,
    };
    let carried = relayed.account(assigned.plan.as_ref()).await.ok()?;
    relayed.listed(carried.as_ref(), talks, Instant::now() + assigned.traffic.timeout.get()).await
}
