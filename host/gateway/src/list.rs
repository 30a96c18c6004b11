//! `tools/list`: from the catalogue, filtered in one plugin call per policy, paged by our own cursor.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::response::Response;
use futures_util::future::join_all;
use http::StatusCode;
use portcullis_credential::Carried;
use portcullis_model::{Fault, Side, spec::Failure};
use portcullis_plugin::{Attributes, Item, RequestFacts};
use portcullis_protocol::{rpc, seal::SealError, session::Cursor, splice::quote, tool};

use crate::{
    answer,
    asked::Asked,
    catalogue::Listing,
    failure,
    gateways::Gateways,
    legacy::now_ms,
    view::{Assigned, CONNECT},
};

/// How long a list waits for servers that have never been listed yet.
const FIRST_LIST: Duration = Duration::from_secs(3);
/// The most tools and bytes of one page.
const PAGE_TOOLS: usize = 1_000;
const PAGE_BYTES: usize = 4 << 20;
/// How long a cursor can be used.
const CURSOR_MS: u64 = 60 * 60 * 1000;
/// How long a client may keep the list. Ours changes by policies and connections as well, so not for long.
const TTL_MS: u64 = 30_000;

/// One server's part of a list.
struct Part {
    at: usize,
    listing: Option<Arc<Listing>>,
    /// What stands in place of the tools: a tool that says how to connect.
    connect: Option<String>,
    problem: Option<String>,
}

/// A tool on its way to the client.
struct Row<'a> {
    at: usize,
    name: &'a str,
    raw: Raw<'a>,
}

/// A tool's definition.
enum Raw<'a> {
    /// As its server wrote it.
    Server(&'a [u8]),
    /// Ours, with its name as clients see it.
    Ours(&'a str),
}

/// Lists the tools that this caller may see.
pub async fn list(gateways: &Gateways, asked: &Asked<'_>) -> Response {
    match page(gateways, asked).await {
        Ok(response) => response,
        Err(fault) => {
            gateways.metrics.refused(&fault);
            answer::rpc_fault(asked.id(), &fault, asked.request_id, asked.client.era)
        }
    }
}

async fn page(gateways: &Gateways, asked: &Asked<'_>) -> Result<Response, Fault> {
    if let Some(rate) = &asked.view.rate {
        rate.check(&asked.principal.subject_text)?;
    }
    let after = match asked.message.params.as_ref().and_then(|p| p.cursor.as_ref()) {
        None => None,
        Some(cursor) => Some(
            Cursor::open(&gateways.sealer, cursor.as_ref(), &asked.binding(), "tools", now_ms())
                .map_err(|error| {
                    gateways.metrics.sealed_rejected("cursor", error.as_str());
                    invalid_cursor()
                })?
                .after,
        ),
    };
    let parts =
        join_all(asked.view.servers.iter().enumerate().map(|(at, server)| part(gateways, asked, at, server))).await;
    let mut rows = Vec::new();
    for part in &parts {
        let exposure = &asked.view.exposures[part.at];
        let tools = part.listing.iter().flat_map(|l| &l.tools).filter(|t| exposure.shows(&t.name));
        rows.extend(tools.map(|t| Row { at: part.at, name: &t.name, raw: Raw::Server(&t.raw) }));
        // Policies see it like any other: who may use nothing of a server does not learn that it is there.
        rows.extend(part.connect.iter().map(|tool| Row { at: part.at, name: CONNECT, raw: Raw::Ours(tool) }));
    }
    let rows = filtered(asked, rows).await?;

    // Names are made once per page, not per list: the cursor holds the server's position and the tool's own name.
    let start = match &after {
        None => 0,
        Some(after) => {
            let key = |row: &Row<'_>| format!("{}/{}", row.at, row.name);
            1 + rows.iter().position(|row| key(row) == *after).ok_or_else(invalid_cursor)?
        }
    };
    let mut items: Vec<String> = Vec::new();
    let mut bytes = 0;
    let mut next = None;
    for (i, row) in rows.iter().enumerate().skip(start) {
        let Some(item) = shown(asked, row) else { continue };
        bytes += item.len();
        items.push(item);
        if (items.len() >= PAGE_TOOLS || bytes >= PAGE_BYTES) && i + 1 < rows.len() {
            let cursor = Cursor {
                binding: asked.binding(),
                list: "tools".to_owned(),
                after: format!("{}/{}", row.at, row.name),
                expires_ms: now_ms() + CURSOR_MS,
            };
            next = Some(cursor.seal(&gateways.sealer).map_err(|e: SealError| {
                tracing::warn!(error = %e, "a cursor could not be sealed");
                Fault::new(Side::Gateway, "internal", "the list could not be paged")
            })?);
            break;
        }
    }
    let meta = marks(asked, &parts);
    let body = rpc::list_page(
        asked.id(),
        "tools",
        items.iter().map(String::as_str),
        next.as_deref(),
        asked.client.era,
        TTL_MS,
        meta.as_deref(),
    );
    Ok(answer::json(StatusCode::OK, body))
}

fn invalid_cursor() -> Fault {
    Fault::new(Side::Caller, "invalid-cursor", format!("the cursor is {}", SealError::PUBLIC))
        .next("List again from the start")
}

/// One server's tools as this caller's account sees them, from the catalogue.
async fn part(gateways: &Gateways, asked: &Asked<'_>, at: usize, assigned: &Assigned) -> Part {
    let mut carried: Option<Arc<Carried>> = None;
    if let Some(plan) = &assigned.plan {
        match gateways.credentials.resolve(plan, asked.principal, asked.headers).await {
            Ok(found) => carried = Some(found),
            Err(fault) => {
                let connect = connect_tool(asked, at, assigned, &fault);
                // What is missing is said by that tool; anything else is a server that can't be listed.
                let problem = connect.is_none().then(|| fault.message.to_string());
                return Part { at, listing: None, connect, problem };
            }
        }
    }
    let entry = gateways.catalogue_entry(asked.view, assigned, carried.as_ref());
    if entry.listing().is_none() {
        entry.first_fetch(FIRST_LIST).await;
    }
    let problem = entry.problem().map(|p| p.to_string());
    Part { at, listing: entry.listing(), connect: None, problem }
}

/// Policies that filter lists, each asked once.
async fn filtered<'r>(asked: &Asked<'_>, mut rows: Vec<Row<'r>>) -> Result<Vec<Row<'r>>, Fault> {
    let request = RequestFacts {
        gateway: asked.view.name.clone(),
        request_id: Arc::clone(asked.request_id),
        headers: Arc::clone(asked.headers),
        deadline: asked.started + Duration::from_secs(10),
        attributes: Attributes::default(),
    };
    for policy in asked.view.policies.iter().filter(|p| p.plugin.hooks().list_filter) {
        let items: Vec<Item<'_>> =
            rows.iter().map(|r| Item { server: asked.view.servers[r.at].server.as_str(), name: r.name }).collect();
        match policy.plugin.filter(asked.principal, &request, "tools", &items).await {
            Ok(kept) => {
                drop(items);
                let mut kept = kept.into_iter().peekable();
                let mut at = 0u32;
                rows.retain(|_| {
                    let stays = kept.next_if_eq(&at).is_some();
                    at += 1;
                    stays
                });
            }
            Err(_) if policy.on_error == Failure::Allow => {}
            Err(failure) => {
                tracing::warn!(request = &**asked.request_id, policy = policy.plugin.name(), %failure, "list filter failed");
                return Err(failure::meaning(&failure)
                    .unwrap_or_else(|| failure::fault("policy", policy.plugin.name(), &failure)));
            }
        }
    }
    Ok(rows)
}

/// A tool's definition as the client sees it; only its name (and a description that the operator wrote) differs.
fn shown(asked: &Asked<'_>, row: &Row<'_>) -> Option<String> {
    let exposure = &asked.view.exposures[row.at];
    let raw = match row.raw {
        Raw::Ours(tool) => return Some(tool.to_owned()),
        Raw::Server(raw) => std::str::from_utf8(raw).ok()?,
    };
    let exposed = exposure.exposed(row.name);
    let description = exposure.tool(row.name).and_then(|t| t.description.as_deref());
    if exposed == row.name && description.is_none() {
        return Some(raw.to_owned());
    }
    tool::rename(raw, &exposed, description).ok()
}

/// Before anybody has connected, one tool that says how to.
fn connect_tool(asked: &Asked<'_>, at: usize, assigned: &Assigned, fault: &Fault) -> Option<String> {
    if fault.code != "missing-credential" {
        return None;
    }
    let name = assigned.connect_name(&asked.view.exposures[at]);
    let next = fault.next.as_deref().unwrap_or_default();
    let description = format!(
        "The tools of {} are listed here once an account is connected: {}. {next}",
        assigned.server, fault.message
    );
    Some(format!(
        r#"{{"name":{},"description":{},"inputSchema":{{"type":"object","properties":{{}}}}}}"#,
        quote(&name),
        quote(&description)
    ))
}

/// `_meta` that says which servers are listed from memory, and why.
fn marks(asked: &Asked<'_>, parts: &[Part]) -> Option<String> {
    let marks: BTreeMap<&str, serde_json::Value> = parts
        .iter()
        .filter_map(|p| Some((asked.view.servers[p.at].server.as_str(), p.problem.as_ref()?, p.listing.is_some())))
        .map(|(server, problem, listed)| {
            let listed = if listed { "last-known" } else { "not-yet" };
            (server, serde_json::json!({ "status": "unreachable", "listed": listed, "problem": problem }))
        })
        .collect();
    if marks.is_empty() {
        return None;
    }
    Some(format!(r#"{{"portcullis.dev/servers":{}}}"#, serde_json::to_string(&marks).ok()?))
}
