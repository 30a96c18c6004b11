//! Progressive disclosure (`exposure: search`): two tools in place of a long list. `search_tools` finds tools by what they
//! do; `call_tool` calls one, and what it calls is judged, limited, recorded and answered as if it had been called directly.

use std::borrow::Cow;

use axum::response::Response;
use http::StatusCode;
use portcullis_model::{Fault, Side, spec::Disclosure};
use portcullis_protocol::{
    Era, Message, ParseLimits, parse,
    rpc::{self, Hints},
    splice::quote,
    strict,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    answer,
    asked::Asked,
    call::{self, Caller},
    catalogue::Kind,
    gateways::Gateways,
    in_flight::Underway,
    list::{self, Gathered},
    members::Members,
    naming,
    record::Record,
    view::View,
};

mod rank;

pub use rank::Doc;

/// Finds tools.
pub const SEARCH: &str = "search_tools";
/// Calls one.
pub const CALL: &str = "call_tool";
/// How many tools are shown, at most and where the caller does not say.
const MOST_FOUND: usize = 20;
const FOUND: usize = 5;
/// The most bytes of definitions in one answer.
const MOST_BYTES: usize = 128 << 10;
/// The most bytes that the names of servers take in the description: the whole list stays under 2 kB.
const MOST_NAMES: usize = 400;
/// How long a client may keep the list.
const TTL_MS: u64 = 30_000;

/// Whether this gateway shows these two tools in place of a list.
pub fn applies(view: &View) -> bool {
    view.disclosure == Disclosure::Search
}

/// Whether a call is of one of them.
pub fn is_ours(view: &View, name: &str) -> bool {
    applies(view) && matches!(name, SEARCH | CALL)
}

/// The list: the two tools.
///
/// # Errors
/// As for the long list.
pub async fn page(gateways: &Gateways, asked: &Asked<'_>) -> Result<Response, Fault> {
    let gathered = list::gather(gateways, asked, Kind::Tools).await;
    let rows = list::visible(asked, &gathered, Kind::Tools).await?;
    let mut servers: Vec<&str> = Vec::new();
    for row in &rows {
        let name = asked.view.servers[row.at].server.as_str();
        if servers.last() != Some(&name) {
            servers.push(name);
        }
    }
    let of = naming::cut(&servers.join(", "), MOST_NAMES).into_owned();
    let search = format!(
        "Finds tools by what they do, among {} tools of these servers: {of}. Say in a few words what has to be done; the \
         answer has the best tools' names, descriptions and input schemas. Call one by {CALL}.",
        rows.iter().filter(|row| row.raw().is_some() || row.ours().is_some()).count()
    );
    let items = [
        format!(
            r#"{{"name":"{SEARCH}","title":"Search tools","description":{},"inputSchema":{{"type":"object","properties":{{"query":{{"type":"string","description":"What the tool has to do"}},"limit":{{"type":"integer","minimum":1,"maximum":{MOST_FOUND},"description":"How many to show; {FOUND} where left out"}}}},"required":["query"]}},"annotations":{{"readOnlyHint":true,"openWorldHint":false}}}}"#,
            quote(&search)
        ),
        format!(
            r#"{{"name":"{CALL}","title":"Call a tool","description":"Calls a tool that {SEARCH} found. Its result is the tool's own.","inputSchema":{{"type":"object","properties":{{"name":{{"type":"string","description":"The tool's name, as {SEARCH} shows it"}},"arguments":{{"type":"object","description":"What the tool's input schema asks for"}}}},"required":["name"]}}}}"#
        ),
    ];
    let meta = list::marks(asked, &gathered, &rows.iter().map(|row| row.at).collect());
    let body = rpc::list_page(
        asked.id(),
        Kind::Tools.member(),
        items.iter().map(String::as_str),
        None,
        asked.client.era,
        Hints { ttl_ms: TTL_MS, public: false },
        meta.as_deref(),
    );
    Ok(answer::json(StatusCode::OK, body))
}

#[derive(Deserialize)]
struct Search<'a> {
    #[serde(borrow)]
    query: Cow<'a, str>,
    #[serde(default)]
    limit: Option<u64>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

/// Calls one of the two.
pub async fn call(gateways: &Gateways, asked: &Asked<'_>, name: &str, underway: Option<Underway>) -> Response {
    let arguments = asked.message.params.as_ref().and_then(|p| p.arguments).map_or("{}", |piece| piece.raw);
    // A key that stands twice could be read in two ways.
    if let Err(error) = strict::check(arguments.as_bytes(), &ParseLimits::default()) {
        return refused(gateways, asked, name, error.to_fault()).await;
    }
    if name == SEARCH {
        return match search(gateways, asked, arguments).await {
            Ok(response) => {
                Record::ours(gateways, asked, SEARCH).ended();
                response
            }
            Err(fault) => refused(gateways, asked, name, fault).await,
        };
    }
    match inner(asked, arguments) {
        // On record, limited and refused under the inner tool's name.
        Ok(body) => {
            let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
            let message: Message<'_> = match parse(body.as_bytes(), &limits) {
                Ok(message) => message,
                Err(error) => return refused(gateways, asked, name, error.to_fault()).await,
            };
            let body = bytes::Bytes::copy_from_slice(body.as_bytes());
            let asked = Asked { message: &message, body: &body, ..*asked };
            Box::pin(call::call(gateways, &asked, underway, Caller::Inner)).await
        }
        Err(fault) => refused(gateways, asked, name, fault).await,
    }
}

async fn refused(gateways: &Gateways, asked: &Asked<'_>, name: &str, fault: Fault) -> Response {
    Record::ours(gateways, asked, if name == SEARCH { SEARCH } else { CALL }).refused(&fault).await;
    answer::tool_fault(asked.id(), &fault, asked.request_id, asked.client.era)
}

/// The inner call as a message of its own, with everything of the outer one but name and arguments.
fn inner(asked: &Asked<'_>, arguments: &str) -> Result<String, Fault> {
    let invalid = || {
        Fault::new(Side::Caller, "invalid-params", format!("{CALL} takes the name of a tool, and its arguments"))
            .next(format!("Find a tool by {SEARCH} first"))
    };
    let inner: Inner<'_> = serde_json::from_str(arguments).map_err(|_| invalid())?;
    let params = asked.message.params.as_ref().ok_or_else(invalid)?;
    // Some models write an object as a text.
    let text: Option<String> = inner.arguments.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let arguments = match (&text, inner.arguments) {
        (Some(text), _) if text.trim_start().starts_with('{') => {
            strict::check(text.as_bytes(), &ParseLimits::default()).map_err(|e| e.to_fault())?;
            text.as_str()
        }
        (_, Some(raw)) => raw.get(),
        (_, None) => "{}",
    };
    let mut members = format!(r#""name":{},"arguments":{arguments}"#, quote(&inner.name));
    let kept = [
        ("_meta", params.meta.as_ref().map(|m| m.piece)),
        ("requestState", params.request_state),
        ("inputResponses", params.input_responses),
    ];
    for (key, piece) in kept {
        if let Some(piece) = piece {
            members.push_str(&format!(r#","{key}":{}"#, piece.raw));
        }
    }
    // A client of 2025-11-25 that wants a task of it.
    if asked.client.era == Era::Legacy
        && let Some(task) = Members::read(params.piece.raw).as_ref().and_then(|all| all.get("task"))
    {
        members.push_str(&format!(r#","task":{task}"#));
    }
    Ok(format!(r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{{members}}}}}"#, asked.id()))
}

async fn search(gateways: &Gateways, asked: &Asked<'_>, arguments: &str) -> Result<Response, Fault> {
    if let Some(rate) = &asked.view.rate {
        rate.check(&asked.principal.subject_text)?;
    }
    let search: Search<'_> = serde_json::from_str(arguments).map_err(|_| {
        Fault::new(Side::Caller, "invalid-params", format!("{SEARCH} takes a query, and a limit"))
            .next("Say in a few words what the tool has to do")
    })?;
    let most = search.limit.map_or(FOUND, |limit| usize::try_from(limit).unwrap_or(MOST_FOUND).clamp(1, MOST_FOUND));
    let gathered = list::gather(gateways, asked, Kind::Tools).await;
    let rows = list::visible(asked, &gathered, Kind::Tools).await?;
    let found = find(asked, &gathered, &rows, &search.query, most);

    let mut definitions = Vec::new();
    let mut bytes = 0;
    for row in found {
        let Some(definition) = list::shown(asked, None, Kind::Tools, row) else { continue };
        bytes += definition.len();
        if bytes > MOST_BYTES && !definitions.is_empty() {
            break;
        }
        definitions.push(definition);
    }
    let found = format!(r#"{{"tools":[{}]}}"#, definitions.join(","));
    let text = match definitions.len() {
        0 => format!(
            "No tool fits \"{}\". Try other words: what has to be done, and to what.",
            naming::quoted(&search.query)
        ),
        _ => found.clone(),
    };
    let kind = if asked.client.era == Era::Modern { r#""resultType":"complete","# } else { "" };
    let result = format!(
        r#"{{{kind}"content":[{{"type":"text","text":{}}}],"structuredContent":{found},"isError":false}}"#,
        quote(&text)
    );
    Ok(answer::json(StatusCode::OK, rpc::result(asked.id(), &result)))
}

/// The rows that fit a query best.
fn find<'r, 'g>(
    asked: &Asked<'_>,
    gathered: &Gathered,
    rows: &'r [list::Row<'g>],
    query: &str,
    most: usize,
) -> Vec<&'r list::Row<'g>> {
    let view = asked.view;
    // A name, as it is shown, needs no ranking.
    let exact =
        rows.iter().find(|row| row.raw().is_some() && view.exposures[row.at].exposed(Kind::Tools, row.key) == query);
    let servers: Vec<Vec<u64>> = (0..view.servers.len())
        .map(|at| rank::server_terms(&format!("{} {}", view.servers[at].server, view.exposures[at].prefix)))
        .collect();
    let ours: Vec<Doc> = rows.iter().filter_map(|row| Some(Doc::of(row.ours()?))).collect();
    let mut ours_left = ours.iter();
    let mut positions = Vec::new();
    let mut candidates = Vec::new();
    for (position, row) in rows.iter().enumerate() {
        let doc = match row.ours() {
            Some(_) => ours_left.next(),
            None => gathered.parts.get(row.at).and_then(|p| p.listing.as_ref()).and_then(|l| l.doc(row.key)),
        };
        let Some(doc) = doc else { continue };
        positions.push(position);
        candidates.push(rank::Candidate { doc, server: &servers[row.at] });
    }
    let ranked = rank::best(&rank::Query::new(query), &candidates, most);
    let ranked = ranked.into_iter().map(|at| &rows[positions[at]]);
    let mut found: Vec<&list::Row<'_>> = exact.into_iter().collect();
    found.extend(ranked.filter(|row| exact.is_none_or(|exact| !std::ptr::eq(*row, exact))));
    found.truncate(most);
    found
}
