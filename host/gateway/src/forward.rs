//! `prompts/get`, `resources/read`, `completion/complete`, and methods that nobody here knows: phases 4 to 6, and what is
//! their own of the others.

use std::{borrow::Cow, sync::Arc, time::Instant};

use axum::response::Response;
use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use portcullis_model::{Fault, Side};
use portcullis_plugin::{PromptPurpose, ReadPurpose};
use portcullis_protocol::{Era, Message, ParseLimits, parse, splice::RequestEdit, strict};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    answer,
    asked::Asked,
    catalogue::Kind,
    connecting,
    gateways::Gateways,
    in_flight::Underway,
    judge, naming,
    reads::{Keep, Key},
    record::Record,
    relayed::{Relayed, Sent, Unreviewed, What, with_text},
    tasks,
    uris::{Known, Places},
};

/// How long a request waits for servers of which nothing is known yet, where only their lists say who is meant.
const FIRST_LIST: std::time::Duration = std::time::Duration::from_secs(3);
/// Methods of the specification that are never passed on as they are: they are about a connection, which is ours, or about
/// what the gateway keeps apart for its callers.
const OURS: [&str; 7] =
    ["initialize", "ping", "server/discover", "logging/setLevel", "subscriptions/", "resources/", "tasks/"];

/// Answers a request that is no tool call. `underway` is how a legacy client can cancel.
pub async fn forward(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Response {
    let cancelled = underway.as_ref().map(|u| u.cancelled.clone());
    let answered = async {
        if let Some(rate) = &asked.view.rate {
            rate.check(&asked.principal.subject_text)?;
        }
        match asked.message.method() {
            "prompts/get" => prompt(gateways, asked, underway).await,
            "resources/read" => read(gateways, asked, underway).await,
            "completion/complete" => complete(gateways, asked, underway).await,
            method if tasks::is_about_one(method, asked.client.era) => task(gateways, asked, underway).await,
            "tasks/list" if asked.client.era == Era::Legacy && has_tasks(gateways, asked) => {
                tasks::list::list(gateways, asked, underway.as_ref()).await
            }
            _ => unknown(gateways, asked, underway).await,
        }
    };
    let outcome = match cancelled {
        None => answered.await,
        Some(cancelled) => tokio::select! {
            outcome = answered => outcome,
            // Nothing is said about a cancelled request (2025-11-25, cancellation).
            () = cancelled.cancelled() => return answer::empty(StatusCode::ACCEPTED),
        },
    };
    outcome.unwrap_or_else(|fault| {
        gateways.metrics.refused(&fault);
        answer::rpc_fault(asked.id(), &fault, asked.request_id, asked.client.era)
    })
}

/// Begins the record of a request that has been led to a server: from here on it is written however it ends.
fn begin(mut relayed: Relayed<'_>) -> Relayed<'_> {
    let Relayed { gateways, asked, assigned, what, exposed, own, .. } = relayed;
    relayed.record = Some(Record::of(gateways, asked, assigned, what, exposed, own));
    relayed
}

/// Ends it: a refusal is written, and told. Whoever does not see the thing in the list (`hidden`) is told `unknown`.
async fn finish(
    mut relayed: Relayed<'_>,
    outcome: Result<Response, Fault>,
    hidden: Option<(Kind, &str)>,
    unknown: impl FnOnce() -> Fault,
) -> Result<Response, Fault> {
    let asked = relayed.asked;
    let fault = match outcome {
        Ok(response) => return Ok(response),
        Err(fault) => fault,
    };
    // What is on record says why.
    let conceal = match hidden {
        Some((kind, name)) if fault.side == Side::Policy => {
            let server = relayed.assigned.server.as_str();
            judge::is_hidden(asked, kind, server, name, deadline(&relayed)).await
        }
        _ => false,
    };
    match relayed.record.take() {
        Some(record) if conceal => record.hidden(&fault).await,
        Some(record) => record.refused(&fault).await,
        None => {}
    }
    let shown = if conceal { unknown() } else { fault };
    let shown = match connecting::answer(relayed.gateways, asked, shown, relayed.assigned.plan.as_ref()) {
        Ok(page) => return Ok(page),
        Err(fault) => fault,
    };
    Ok(answer::rpc_fault(asked.id(), &shown, asked.request_id, asked.client.era))
}

fn deadline(relayed: &Relayed<'_>) -> Instant {
    relayed.asked.started + relayed.assigned.traffic.timeout.get()
}

async fn prompt(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Result<Response, Fault> {
    let Some(exposed) = asked.message.name() else {
        return Err(Fault::new(Side::Caller, "invalid-params", "params.name is missing")
            .next("Name the prompt as prompts/list shows it"));
    };
    let Some(route) = asked.view.prompt(exposed, &gateways.catalogue) else {
        return Err(unknown_prompt(exposed));
    };
    let own = &*route.name;
    let assigned = &asked.view.servers[route.server];
    let (what, record, keep, task) = (What::Prompt, None, None, None);
    let mut relayed = begin(Relayed {
        gateways,
        asked,
        at: route.server,
        assigned,
        what,
        exposed,
        own,
        record,
        underway,
        keep,
        task,
        bridged: false,
    });
    let outcome = async {
        let relayed = &mut relayed;
        let deadline = deadline(relayed);
        let sent = arguments(asked)?;
        let purpose = PromptPurpose::Get;
        let server = &assigned.server;
        let changed = judge::prompt(asked, server, own, exposed, purpose, sent, deadline).await;
        let changed = changed.map_err(|fault| relayed.fault(fault))?;
        if let Some(record) = &mut relayed.record {
            record.decided(changed.is_some());
        }
        let carried = relayed.account(assigned.plan.as_ref()).await?;
        let deadline = relayed.after_the_page(deadline);
        relayed.runs_under(carried.as_ref());
        let edit = RequestEdit {
            name: (own != exposed).then_some(own),
            arguments: changed.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()),
            ..RequestEdit::default()
        };
        let sent = Sent { message: asked.message, edit, name: Some(own), arguments: None, deadline };
        relayed.send(&sent, carried.as_ref(), None::<&Unreviewed>).await
    }
    .await;
    finish(relayed, outcome, Some((Kind::Prompts, own)), || unknown_prompt(exposed)).await
}

fn unknown_prompt(exposed: &str) -> Fault {
    let name = naming::quoted(exposed);
    Fault::new(Side::Caller, "unknown-prompt", format!("there is no prompt \"{name}\" at this gateway"))
        .next("List the prompts again: the list may have changed")
}

/// The arguments for policies; read strictly where there are any, since a key that stands twice could be read in two ways
/// (security decision 14).
fn arguments(asked: &Asked<'_>) -> Result<Bytes, Fault> {
    let Some(piece) = asked.message.params.as_ref().and_then(|p| p.arguments) else {
        return Ok(Bytes::from_static(b"{}"));
    };
    if asked.view.policies.enforce() {
        let limits = ParseLimits { max_bytes: usize::MAX, ..ParseLimits::default() };
        strict::check(piece.raw.as_bytes(), &limits).map_err(|e| e.to_fault())?;
        if !piece.raw.starts_with('{') {
            return Err(Fault::new(Side::Caller, "invalid-params", "params.arguments must be an object"));
        }
    }
    Ok(Bytes::copy_from_slice(piece.raw.as_bytes()))
}

async fn read(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Result<Response, Fault> {
    let Some(exposed) = asked.message.params.as_ref().and_then(|p| p.uri.as_ref()).map(AsRef::as_ref) else {
        return Err(Fault::new(Side::Caller, "invalid-params", "params.uri is missing")
            .next("Give the URI as resources/list shows it"));
    };
    let (at, own) = locate(gateways, asked, exposed).await?;
    let assigned = &asked.view.servers[at];
    let (what, record, keep, task) = (What::Resource, None, None, None);
    let mut relayed = begin(Relayed {
        gateways,
        asked,
        at,
        assigned,
        what,
        exposed,
        own: &own,
        record,
        underway,
        keep,
        task,
        bridged: false,
    });
    let outcome = async {
        let relayed = &mut relayed;
        let deadline = deadline(relayed);
        judge::read(asked, &assigned.server, &own, exposed, ReadPurpose::Read, deadline)
            .await
            .map_err(|fault| relayed.fault(fault))?;
        if let Some(record) = &mut relayed.record {
            record.decided(false);
        }
        let carried = relayed.account(assigned.plan.as_ref()).await?;
        let deadline = relayed.after_the_page(deadline);
        relayed.runs_under(carried.as_ref());
        let kept = Key::of(asked, assigned, carried.as_deref(), &own);
        if let Some((message, left)) = kept.as_ref().and_then(|key| gateways.reads.get(key)) {
            return relayed.again(&message, left);
        }
        relayed.keep = kept.map(|key| Keep { reads: Arc::clone(&gateways.reads), key });
        let edit = RequestEdit { uri: (own != exposed).then_some(&*own), ..RequestEdit::default() };
        let sent = Sent { message: asked.message, edit, name: Some(&own), arguments: None, deadline };
        relayed.send(&sent, carried.as_ref(), None::<&Unreviewed>).await
    }
    .await;
    finish(relayed, outcome, Some((Kind::Resources, &own)), || unknown_resource(exposed)).await
}

/// Which assignment a URI of a client means, and the URI as its server knows it. Asks this caller's own accounts what they
/// list; waits a moment where only an unknown list could say.
///
/// # Errors
/// Where nobody, or more than one, may be meant.
pub async fn locate(gateways: &Gateways, asked: &Asked<'_>, exposed: &str) -> Result<(usize, String), Fault> {
    places(gateways, asked).await.find(exposed).ok_or_else(|| unknown_resource(exposed))
}

/// What this caller's accounts know of all servers' resources.
pub async fn places<'a>(gateways: &Gateways, asked: &'a Asked<'_>) -> Places<'a> {
    let view = asked.view;
    let one = async |at: usize| {
        let assigned = &view.servers[at];
        let carried = match &assigned.plan {
            None => None,
            Some(plan) => asked.account(gateways, plan).await.ok(),
        };
        if assigned.plan.is_some() && carried.is_none() {
            // Nobody has connected an account: whatever others see, this caller can read nothing there.
            return Known { offers: Some(false), ..Known::default() };
        }
        let kinds = [Kind::Resources, Kind::Templates];
        let (key, entry) = gateways.catalogue_entry(view, assigned, carried.as_ref(), &kinds);
        let catalogue = &gateways.catalogue;
        if view.servers.len() > 1 {
            for kind in kinds {
                catalogue.settle(&key, &entry, kind, FIRST_LIST).await;
            }
        }
        Known {
            resources: catalogue.listing(&key, &entry, Kind::Resources),
            templates: catalogue.listing(&key, &entry, Kind::Templates),
            offers: entry.facts().map(|f| f.offers(Kind::Resources)),
        }
    };
    let known = join_all((0..view.servers.len()).map(one)).await;
    Places { labels: &view.labels, exposures: &view.exposures, known }
}

/// What is said of a resource that is not there, or not for this caller.
pub fn unknown_resource(exposed: &str) -> Fault {
    let uri = naming::quoted(exposed);
    Fault::new(Side::Caller, "unknown-resource", format!("there is no resource \"{uri}\" at this gateway"))
        .next("List the resources again: the list may have changed")
}

/// What a completion is for (2025-11-25 and 2026-07-28, server/utilities/completion).
#[derive(Deserialize)]
struct Reference<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    uri: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Completing<'a> {
    #[serde(borrow, rename = "ref")]
    reference: Reference<'a>,
}

async fn complete(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Result<Response, Fault> {
    let invalid = || {
        Fault::new(Side::Caller, "invalid-params", "params.ref names neither a prompt nor a resource template")
            .next("Say {\"type\": \"ref/prompt\", \"name\": ...} or {\"type\": \"ref/resource\", \"uri\": ...}")
    };
    let params = asked.message.params.as_ref().ok_or_else(invalid)?;
    // A key that stands twice could be read in two ways, by us and by the server.
    strict::check(params.piece.raw.as_bytes(), &ParseLimits::default()).map_err(|e| e.to_fault())?;
    let completing: Completing<'_> = serde_json::from_str(params.piece.raw).map_err(|_| invalid())?;
    let reference = completing.reference;
    let raw = match &*reference.kind {
        "ref/prompt" => reference.name,
        "ref/resource" => reference.uri,
        _ => None,
    };
    let raw = raw.ok_or_else(invalid)?;
    let exposed: String = serde_json::from_str(raw.get()).map_err(|_| invalid())?;
    let exposed = exposed.as_str();
    let prompt = reference.kind == "ref/prompt";
    let (at, own) = if prompt {
        let route = asked.view.prompt(exposed, &gateways.catalogue).ok_or_else(|| unknown_prompt(exposed))?;
        (route.server, route.name.into_owned())
    } else {
        template(gateways, asked, exposed).await?
    };
    let assigned = &asked.view.servers[at];
    let kind = if prompt { Kind::Prompts } else { Kind::Templates };
    let (what, record, keep, task) = (What::Completion, None, None, None);
    let mut relayed = begin(Relayed {
        gateways,
        asked,
        at,
        assigned,
        what,
        exposed,
        own: &own,
        record,
        underway,
        keep,
        task,
        bridged: false,
    });
    let outcome = async {
        let relayed = &mut relayed;
        let (deadline, server) = (deadline(relayed), &assigned.server);
        let judged = if prompt {
            let none = Bytes::from_static(b"{}");
            judge::prompt(asked, server, &own, exposed, PromptPurpose::Complete, none, deadline).await.map(drop)
        } else {
            judge::read(asked, server, &own, exposed, ReadPurpose::Complete, deadline).await
        };
        judged.map_err(|fault| relayed.fault(fault))?;
        if let Some(record) = &mut relayed.record {
            record.decided(false);
        }
        let carried = relayed.account(assigned.plan.as_ref()).await?;
        relayed.runs_under(carried.as_ref());
        // The name stands where no other method has one, so it is replaced before the message goes its way.
        let source = asked.message.source;
        let start = raw.get().as_ptr() as usize - source.as_ptr() as usize;
        let body = with_text(source, start..start + raw.get().len(), &own);
        let message: Message<'_> = parse(&body, &limits(gateways)).map_err(|e| e.to_fault())?;
        let message = if own == exposed { asked.message } else { &message };
        let sent = Sent { message, edit: RequestEdit::default(), name: None, arguments: None, deadline };
        relayed.send(&sent, carried.as_ref(), None::<&Unreviewed>).await
    }
    .await;
    finish(relayed, outcome, Some((kind, &own)), || {
        if prompt { unknown_prompt(exposed) } else { unknown_resource(exposed) }
    })
    .await
}

/// Which assignment a template (or plain URI) of a completion means.
async fn template(gateways: &Gateways, asked: &Asked<'_>, exposed: &str) -> Result<(usize, String), Fault> {
    let places = places(gateways, asked).await;
    if asked.view.labels.unwrap(exposed).is_none() {
        let lists = |known: &Known| known.templates.as_ref().is_some_and(|l| l.get(exposed).is_some());
        let shows = |at: usize| asked.view.exposures[at].shows(Kind::Templates, exposed);
        if let Some(at) = (0..places.known.len()).find(|at| lists(&places.known[*at]) && shows(*at)) {
            return Ok((at, exposed.to_owned()));
        }
    }
    places.find(exposed).ok_or_else(|| unknown_resource(exposed))
}

/// Whether any server has tasks.
fn has_tasks(gateways: &Gateways, asked: &Asked<'_>) -> bool {
    let known = |at: usize| asked.view.any_entry(at, &gateways.catalogue).and_then(|e| e.facts());
    (0..asked.view.servers.len()).any(|at| known(at).is_some_and(|facts| facts.has_tasks()))
}

/// A task that this caller made, by a tool that policies let pass then: its sealed id says whose it is.
async fn task(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Result<Response, Fault> {
    if !has_tasks(gateways, asked) {
        return Err(no_method());
    }
    if let Some(refusal) = tasks::undeclared(asked) {
        return Ok(answer::json(StatusCode::BAD_REQUEST, refusal));
    }
    let Some(exposed) = asked.message.params.as_ref().and_then(|p| p.task_id.as_ref()) else {
        return Err(Fault::new(Side::Caller, "invalid-params", "params.taskId is missing"));
    };
    if let Some(kept) = tasks::kept(gateways, asked, exposed.as_ref()) {
        return Ok(answer::json(StatusCode::OK, tasks::answer_kept(asked, exposed.as_ref(), &kept)));
    }
    let (at, own) = tasks::locate(gateways, asked, exposed.as_ref())?;
    let assigned = &asked.view.servers[at];
    // The id stands where no other method has one, so it is replaced before the message goes its way.
    let body = with_text(asked.message.source, exposed.piece.range(), &own);
    let message: Message<'_> = parse(&body, &limits(gateways)).map_err(|e| e.to_fault())?;
    let exposed = exposed.as_ref();
    let (what, record, keep, task) = (What::Other, None, None, Some((&*own, exposed)));
    let mut relayed = begin(Relayed {
        gateways,
        asked,
        at,
        assigned,
        what,
        exposed,
        own: &own,
        record,
        underway,
        keep,
        task,
        bridged: false,
    });
    let outcome = async {
        let relayed = &mut relayed;
        if let Some(record) = &mut relayed.record {
            record.decided(false);
        }
        let carried = relayed.account(assigned.plan.as_ref()).await?;
        relayed.runs_under(carried.as_ref());
        let (deadline, edit) = (deadline(relayed), RequestEdit::default());
        if let Some(response) = relayed.about(carried.as_ref(), deadline).await? {
            return Ok(response);
        }
        let sent = Sent { message: &message, edit, name: Some(&own), arguments: None, deadline };
        relayed.send(&sent, carried.as_ref(), None::<&Unreviewed>).await
    }
    .await;
    finish(relayed, outcome, None, no_method).await
}

/// A method that nobody here knows goes to the only server, where a gateway has one: extensions work as if it stood there
/// itself. Among several nobody can say which one is meant.
async fn unknown(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Result<Response, Fault> {
    let method = asked.message.method();
    let [assigned] = asked.view.servers.as_slice() else { return Err(no_method()) };
    if OURS.iter().any(|ours| method == *ours || (ours.ends_with('/') && method.starts_with(ours))) {
        return Err(no_method());
    }
    let (what, record, keep, task) = (What::Other, None, None, None);
    let mut relayed = begin(Relayed {
        gateways,
        asked,
        at: 0,
        assigned,
        what,
        exposed: method,
        own: method,
        record,
        underway,
        keep,
        task,
        bridged: false,
    });
    let outcome = async {
        let relayed = &mut relayed;
        judge::unknown_method(asked.view).map_err(|fault| relayed.fault(fault))?;
        if let Some(record) = &mut relayed.record {
            record.decided(false);
        }
        let carried = relayed.account(assigned.plan.as_ref()).await?;
        relayed.runs_under(carried.as_ref());
        let (deadline, edit) = (deadline(relayed), RequestEdit::default());
        let sent = Sent { message: asked.message, edit, name: asked.message.target(), arguments: None, deadline };
        relayed.send(&sent, carried.as_ref(), None::<&Unreviewed>).await
    }
    .await;
    finish(relayed, outcome, None, no_method).await
}

fn no_method() -> Fault {
    Fault::new(Side::Caller, "unknown-method", "this gateway does not offer the method")
        .next("See what it offers in the answer to server/discover or initialize")
}

fn limits(gateways: &Gateways) -> ParseLimits {
    ParseLimits { max_bytes: gateways.settings.max_body.saturating_mul(2), ..ParseLimits::default() }
}
