//! `tools/list`, `prompts/list`, `resources/list` and `resources/templates/list`: from the catalogue, filtered in one plugin
//! call per policy, paged by our own cursor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::response::Response;
use futures_util::future::join_all;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_plugin::Item;
use portcullis_protocol::{
    rpc::{self, Hints},
    seal::SealError,
    session::Cursor,
    splice::quote,
    tool,
};
use sha2::{Digest, Sha256};

use crate::{
    answer,
    asked::Asked,
    catalogue::{Entry, Key, Kind, Listing},
    gateways::Gateways,
    judge,
    legacy::now_ms,
    search,
    uris::{Known, Places},
    view::{Assigned, STAND_IN},
};

/// How long a list waits for servers that have never been listed yet, from when they were first asked.
const FIRST_LIST: Duration = Duration::from_secs(3);
/// The most items and bytes of one page.
const PAGE_ITEMS: usize = 1_000;
const PAGE_BYTES: usize = 4 << 20;
/// How long a cursor can be used.
pub const CURSOR_MS: u64 = 60 * 60 * 1000;
/// How long a client may keep a list where no server says so, or where more than the servers decides about it: policies
/// and connections change as well.
const TTL_MS: u64 = 30_000;

/// One server's part of a list.
pub struct Part {
    /// The assignment.
    pub at: usize,
    /// Its entry in the catalogue; none where the caller has no account.
    pub entry: Option<Arc<Entry>>,
    key: Option<Key>,
    /// What is known.
    pub listing: Option<Arc<Listing>>,
    /// What stands in place of the tools: a tool that says how to connect.
    pub connect: Option<String>,
    problem: Option<String>,
}

/// All servers' parts.
pub struct Gathered {
    /// In the order of the assignments.
    pub parts: Vec<Part>,
}

/// An item on its way to the client.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// The assignment.
    pub at: usize,
    /// Its own name or URI.
    pub key: &'a str,
    raw: Raw<'a>,
}

/// A row's definition.
#[derive(Clone, Copy)]
enum Raw<'a> {
    /// As its server wrote it.
    Server(&'a [u8]),
    /// Ours, with its name as clients see it.
    Ours(&'a str),
    /// Nothing: it stands for a server of which nothing is known, so that policies say whether the caller may hear of it.
    Mark,
}

impl Row<'_> {
    /// Our own definition, where it is one.
    pub fn ours(&self) -> Option<&str> {
        match self.raw {
            Raw::Ours(raw) => Some(raw),
            Raw::Server(_) | Raw::Mark => None,
        }
    }

    /// The server's own definition, where it is one.
    pub fn raw(&self) -> Option<&str> {
        match self.raw {
            Raw::Server(raw) => std::str::from_utf8(raw).ok(),
            Raw::Ours(_) | Raw::Mark => None,
        }
    }
}

/// Lists what this caller may see of one kind.
pub async fn list(gateways: &Gateways, asked: &Asked<'_>, kind: Kind) -> Response {
    match page(gateways, asked, kind).await {
        Ok(response) => response,
        Err(fault) => {
            gateways.metrics.refused(&fault);
            answer::rpc_fault(asked.id(), &fault, asked.request_id, asked.client.era)
        }
    }
}

async fn page(gateways: &Gateways, asked: &Asked<'_>, kind: Kind) -> Result<Response, Fault> {
    if let Some(rate) = &asked.view.rate {
        rate.check(&asked.principal.subject_text)?;
    }
    if kind == Kind::Tools && search::applies(asked.view) {
        return search::page(gateways, asked).await;
    }
    let after = match asked.message.params.as_ref().and_then(|p| p.cursor.as_ref()) {
        None => None,
        Some(cursor) => Some(
            Cursor::open(&gateways.sealer, cursor.as_ref(), &asked.binding(), kind.member(), now_ms())
                .map_err(|error| {
                    gateways.metrics.sealed_rejected("cursor", error.as_str());
                    invalid_cursor()
                })?
                .after,
        ),
    };
    let gathered = gather(gateways, asked, kind).await;
    let rows = visible(asked, &gathered, kind).await?;
    let seen: BTreeSet<usize> = rows.iter().map(|row| row.at).collect();

    let places = (kind.key() != "name").then(|| places(asked, &gathered, kind));
    let start = match &after {
        None => 0,
        Some(after) => resume(&rows, after).ok_or_else(invalid_cursor)?,
    };
    let mut items: Vec<String> = Vec::new();
    let mut bytes = 0;
    let mut next = None;
    for (i, row) in rows.iter().enumerate().skip(start) {
        let Some(item) = shown(asked, places.as_ref(), kind, row) else { continue };
        bytes += item.len();
        items.push(item);
        if (items.len() >= PAGE_ITEMS || bytes >= PAGE_BYTES) && i + 1 < rows.len() {
            let cursor = Cursor {
                binding: asked.binding(),
                list: kind.member().to_owned(),
                after: mark(i, row),
                expires_ms: now_ms() + CURSOR_MS,
            };
            next = Some(cursor.seal(&gateways.sealer).map_err(|e: SealError| {
                tracing::warn!(error = %e, "a cursor could not be sealed");
                Fault::new(Side::Gateway, "internal", "the list could not be paged")
            })?);
            break;
        }
    }
    let meta = marks(asked, &gathered, &seen);
    let body = rpc::list_page(
        asked.id(),
        kind.member(),
        items.iter().map(String::as_str),
        next.as_deref(),
        asked.client.era,
        hints(gateways, asked, &gathered, kind),
        meta.as_deref(),
    );
    Ok(answer::json(StatusCode::OK, body))
}

pub fn invalid_cursor() -> Fault {
    Fault::new(Side::Caller, "invalid-cursor", format!("the cursor is {}", SealError::PUBLIC))
        .next("List again from the start")
}

/// A place in a list: where it was, and what stood there.
fn mark(at: usize, row: &Row<'_>) -> String {
    format!("{at}/{}", digest(row))
}

fn digest(row: &Row<'_>) -> String {
    let digest = Sha256::digest(format!("{}/{}", row.at, row.key));
    digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// Where the list goes on: after what was listed last, or where that was if it is gone.
fn resume(rows: &[Row<'_>], after: &str) -> Option<usize> {
    let (at, wanted) = after.split_once('/')?;
    let at: usize = at.parse().ok()?;
    if rows.get(at).is_some_and(|row| digest(row) == wanted) {
        return Some(at + 1);
    }
    Some(rows.iter().position(|row| digest(row) == wanted).map_or(at.min(rows.len()), |at| at + 1))
}

/// What all servers offer this caller of one kind, waited for no longer than a moment.
pub async fn gather(gateways: &Gateways, asked: &Asked<'_>, kind: Kind) -> Gathered {
    let servers = asked.view.servers.iter().enumerate();
    Gathered { parts: join_all(servers.map(|(at, server)| part(gateways, asked, at, server, kind))).await }
}

/// One server's part as this caller's account sees it, from the catalogue.
async fn part(gateways: &Gateways, asked: &Asked<'_>, at: usize, assigned: &Assigned, kind: Kind) -> Part {
    let mut carried = None;
    if let Some(plan) = &assigned.plan {
        match asked.account(gateways, plan).await {
            Ok(found) => carried = Some(found),
            Err(fault) => {
                let missing = fault.code == "missing-credential";
                let connect = (missing && kind == Kind::Tools).then(|| connect_tool(asked, at, assigned, &fault));
                // What is missing is said by that tool; anything else is a server that can't be listed.
                let problem = (!missing).then(|| fault.message.to_string());
                return Part { at, entry: None, key: None, listing: None, connect, problem };
            }
        }
    }
    let (key, entry) = gateways.catalogue_entry(asked.view, assigned, carried.as_ref(), &[kind]);
    gateways.catalogue.settle(&key, &entry, kind, FIRST_LIST).await;
    let listing = gateways.catalogue.listing(&key, &entry, kind);
    if listing.is_none() {
        // Whoever hears of changes is told when there is something to list.
        entry.shelf(kind).missed();
    }
    let problem = entry.problem(kind).map(|p| p.to_string());
    Part { at, listing, connect: None, problem, entry: Some(entry), key: Some(key) }
}

/// The rows that this caller may see. Policies that filter lists are asked once each.
pub async fn visible<'g>(asked: &'g Asked<'_>, gathered: &'g Gathered, kind: Kind) -> Result<Vec<Row<'g>>, Fault> {
    let mut rows = Vec::new();
    for part in &gathered.parts {
        let exposure = &asked.view.exposures[part.at];
        let items = part
            .listing
            .iter()
            .flat_map(|l| &l.items)
            .filter(|item| exposure.shows(kind, &item.key) && &*item.key != STAND_IN);
        rows.extend(items.map(|item| Row { at: part.at, key: &item.key, raw: Raw::Server(&item.raw) }));
        // Policies see it like any other: who may use nothing of a server does not learn that it is there.
        rows.extend(part.connect.iter().map(|tool| Row { at: part.at, key: STAND_IN, raw: Raw::Ours(tool) }));
        if part.listing.is_none() && part.connect.is_none() {
            rows.push(Row { at: part.at, key: STAND_IN, raw: Raw::Mark });
        }
    }
    let servers = &asked.view.servers;
    judge::filter(asked, kind, rows, |row| Item { server: servers[row.at].server.as_str(), name: row.key }).await
}

/// What is known of all servers' resources, as far as this list needs it.
fn places<'a>(asked: &'a Asked<'_>, gathered: &Gathered, kind: Kind) -> Places<'a> {
    let known = gathered
        .parts
        .iter()
        .map(|part| {
            let offers = part.entry.as_ref().and_then(|e| e.facts()).map(|f| f.offers(Kind::Resources));
            match kind {
                Kind::Templates => Known { templates: part.listing.clone(), offers, resources: None },
                _ => Known { resources: part.listing.clone(), offers, templates: None },
            }
        })
        .collect();
    Places { labels: &asked.view.labels, exposures: &asked.view.exposures, known }
}

/// An item's definition as the client sees it; only its name or URI (and a description that the operator wrote) differs.
pub fn shown(asked: &Asked<'_>, places: Option<&Places<'_>>, kind: Kind, row: &Row<'_>) -> Option<String> {
    let exposure = &asked.view.exposures[row.at];
    let raw = match row.raw {
        Raw::Ours(tool) => return Some(tool.to_owned()),
        Raw::Mark => return None,
        Raw::Server(raw) => std::str::from_utf8(raw).ok()?,
    };
    let exposed = match (kind, places) {
        (Kind::Resources, Some(places)) => places.shown(row.at, row.key),
        (Kind::Templates, Some(places)) => places.shown_template(row.at, row.key),
        _ => exposure.exposed(kind, row.key),
    };
    let described = if kind == Kind::Tools { exposure.tool(row.key) } else { None };
    let description = described.and_then(|t| t.description.as_deref());
    if exposed == row.key && description.is_none() {
        return Some(raw.to_owned());
    }
    tool::replace(raw, kind.key(), &exposed, description).ok()
}

/// Before anybody has connected, one tool that says how to.
fn connect_tool(asked: &Asked<'_>, at: usize, assigned: &Assigned, fault: &Fault) -> String {
    let name = assigned.connect_name(&asked.view.exposures[at]);
    // No link here: lists are kept, and every link is another text.
    let next = match &fault.need {
        Some(_) => "Call this tool to be told where",
        None => fault.next.as_deref().unwrap_or_default(),
    };
    let description = format!(
        "The tools of {} are listed here once an account is connected: {}. {next}",
        assigned.server, fault.message
    );
    format!(
        r#"{{"name":{},"description":{},"inputSchema":{{"type":"object","properties":{{}}}}}}"#,
        quote(&name),
        quote(&description)
    )
}

/// How long the list may be kept, and for whom: the least of what was merged, and by this caller only unless everybody who
/// may ask is given the same.
fn hints(gateways: &Gateways, asked: &Asked<'_>, gathered: &Gathered, kind: Kind) -> Hints {
    let view = asked.view;
    let mut ttl = None;
    let mut public = view.is_open();
    let mut ours = view.policies.enforce();
    for part in &gathered.parts {
        let shared = view.servers[part.at].shared.is_some();
        let (Some(entry), Some(_), None) = (&part.entry, &part.listing, &part.problem) else {
            // Something is missing, and will be there soon.
            return Hints { ttl_ms: 0, public: false };
        };
        ours |= !shared;
        public &= shared && entry.shelf(kind).is_public();
        let holds =
            gateways.catalogue.holds(entry, kind).map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        match holds {
            Some(left) => ttl = Some(ttl.map_or(left, |ttl: u64| ttl.min(left))),
            None => ours = true,
        }
    }
    let ttl = ttl.unwrap_or(TTL_MS);
    Hints { ttl_ms: if ours { ttl.min(TTL_MS) } else { ttl }, public }
}

/// `_meta` that says which servers are listed from memory or not yet, and why.
pub fn marks(asked: &Asked<'_>, gathered: &Gathered, seen: &BTreeSet<usize>) -> Option<String> {
    let mut marks = BTreeMap::new();
    for part in gathered.parts.iter().filter(|part| seen.contains(&part.at) && part.connect.is_none()) {
        let listed = if part.listing.is_some() { "last-known" } else { "not-yet" };
        let mark = match (&part.problem, &part.listing) {
            (Some(problem), _) => {
                serde_json::json!({ "status": "unreachable", "listed": listed, "problem": problem })
            }
            (None, None) if part.key.is_some() => serde_json::json!({ "status": "starting", "listed": listed }),
            (None, _) => continue,
        };
        marks.insert(asked.view.servers[part.at].server.as_str(), mark);
    }
    if marks.is_empty() {
        return None;
    }
    Some(format!(r#"{{"portcullis.dev/servers":{}}}"#, serde_json::to_string(&marks).ok()?))
}
