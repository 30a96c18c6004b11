//! Tasks (2025-11-25's experimental core, and the extension `io.modelcontextprotocol/tasks` of 2026-07-28) of several servers
//! for several callers.
//!
//! Whoever knows a task's id may read its result, so the id that a client gets is sealed: it names the server, and opens for
//! the caller only who was allowed to make the task. The server's own id is in it, so nothing has to be kept.

use std::{fmt, ops::Range, sync::Arc};

use portcullis_model::{Fault, Name, Side};
use portcullis_protocol::{
    Era, rpc,
    seal::Sealer,
    session::{Binding, Cursor},
    splice::quote,
};
use portcullis_upstream::{Message, MessageKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{asked::Asked, gateways::Gateways, legacy::now_ms};

pub mod era;
pub mod list;
pub mod made;

use made::{Made, Place, Whose};

/// The extension.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// How long an id can be used.
const LIFE_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// The list that the sealed place is in.
const LIST: &str = "tasks";
/// The server of tasks that are kept here: no server is called so.
const HERE: &str = "~";

/// Whether this method of this era asks for a task that there is. Lists of tasks are not passed on: a server that is shared
/// would list everybody's, so the gateway makes them by itself ([`list`]).
pub fn is_about_one(method: &str, era: Era) -> bool {
    match method {
        "tasks/get" | "tasks/cancel" => true,
        "tasks/update" => era == Era::Modern,
        "tasks/result" => era == Era::Legacy,
        _ => false,
    }
}

/// Whether an answer to this request may speak of tasks: a search through two short texts for almost every request.
pub fn may_answer(asked: &Asked<'_>) -> bool {
    match asked.client.era {
        Era::Modern => asked.capabilities().contains(EXTENSION),
        Era::Legacy => {
            is_about_one(asked.message.method(), Era::Legacy)
                || asked.message.params.as_ref().is_some_and(|p| p.piece.raw.contains("\"task\""))
        }
    }
}

/// Which assignment a task of this caller is at, and its id there.
///
/// # Errors
/// For an id that was made up, is too old, or is somebody else's.
pub fn locate(gateways: &Gateways, asked: &Asked<'_>, exposed: &str) -> Result<(usize, String), Fault> {
    let unknown =
        || Fault::new(Side::Caller, "unknown-task", "there is no such task of this caller").next("Call the tool again");
    let place = Cursor::open(&gateways.sealer, exposed, &asked.binding(), LIST, now_ms()).map_err(|error| {
        gateways.metrics.sealed_rejected("task", error.as_str());
        unknown()
    })?;
    let (server, own) = place.after.split_once('/').ok_or_else(unknown)?;
    if server == HERE {
        return Err(unknown());
    }
    let at = asked.view.servers.iter().position(|s| s.server.as_str() == server).ok_or_else(unknown)?;
    Ok((at, own.to_owned()))
}

/// The id, for this caller, of a result that is kept here.
pub fn kept_id(gateways: &Gateways, asked: &Asked<'_>, id: &str) -> Option<String> {
    sealed(&gateways.sealer, asked.binding(), HERE, id).ok()
}

/// The kept result that this caller's id names, if it is of one that still is.
pub fn kept(gateways: &Gateways, asked: &Asked<'_>, exposed: &str) -> Option<made::Result> {
    let place = Cursor::open(&gateways.sealer, exposed, &asked.binding(), LIST, now_ms()).ok()?;
    let (server, id) = place.after.split_once('/')?;
    (server == HERE).then(|| gateways.made.result(id, &made::whose(asked))).flatten()
}

/// Answers what is asked about a kept result.
pub fn answer_kept(asked: &Asked<'_>, exposed: &str, kept: &made::Result) -> bytes::Bytes {
    let text = std::str::from_utf8(&kept.result).unwrap_or("{}");
    match asked.message.method() {
        "tasks/result" => rpc::result(asked.id(), &era::related(text, exposed).unwrap_or_else(|| text.to_owned())),
        "tasks/cancel" => rpc::error(Some(asked.id()), rpc::INVALID_PARAMS, "The task has ended", None),
        _ => rpc::result(asked.id(), &kept.task(exposed)),
    }
}

fn sealed(
    sealer: &Sealer,
    binding: Binding,
    server: &str,
    own: &str,
) -> Result<String, portcullis_protocol::seal::SealError> {
    let after = format!("{server}/{own}");
    Cursor { binding, list: LIST.to_owned(), after, expires_ms: now_ms() + LIFE_MS }.seal(sealer)
}

/// How the ids of tasks in a server's answers are written for one caller.
#[derive(Clone)]
pub struct TaskIds {
    sealer: Arc<Sealer>,
    binding: Binding,
    server: Name,
    whose: Whose,
    made: Arc<Made>,
    /// The task that was asked for: its id at the server, and as the caller knows it.
    known: Option<(Box<str>, Box<str>)>,
}

impl fmt::Debug for TaskIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskIds").field("server", &self.server).finish_non_exhaustive()
    }
}

impl TaskIds {
    /// For the answer of this server. `known` is the task that was asked for.
    pub fn of(gateways: &Gateways, asked: &Asked<'_>, server: &Name, known: Option<(&str, &str)>) -> Option<Self> {
        (known.is_some() || may_answer(asked)).then(|| Self {
            sealer: Arc::clone(&gateways.sealer),
            binding: asked.binding(),
            server: server.clone(),
            whose: made::whose(asked),
            made: Arc::clone(&gateways.made),
            known: known.map(|(own, exposed)| (own.into(), exposed.into())),
        })
    }

    /// The message with the caller's ids in it; none where it speaks of no task.
    pub fn rewritten(&self, message: &Message) -> Option<Message> {
        let payload = message.payload_text();
        if message.kind != MessageKind::Result || !payload.contains("\"taskId\"") {
            return None;
        }
        let found = ids(payload);
        let mut out = String::with_capacity(payload.len() + 512);
        let mut done = 0;
        let mut made: Option<(String, String)> = None;
        for (at, own) in found {
            let exposed = match (&self.known, &made) {
                (Some((known, exposed)), _) if **known == own => exposed.to_string(),
                (_, Some((before, exposed))) if *before == own => exposed.clone(),
                _ => self.seal(&own)?,
            };
            out.push_str(&payload[done..at.start]);
            out.push_str(&quote(&exposed));
            done = at.end;
            made = Some((own, exposed));
        }
        if done == 0 {
            return None;
        }
        out.push_str(&payload[done..]);
        message.with_payload(out.as_bytes()).ok()
    }

    fn seal(&self, own: &str) -> Option<String> {
        let exposed = sealed(&self.sealer, self.binding.clone(), self.server.as_str(), own)
            .inspect_err(|error| tracing::warn!(server = %self.server, %error, "the id of a task can't be sealed"))
            .ok()?;
        let place = Place { server: Some(self.server.clone()), own: own.into(), exposed: exposed.as_str().into() };
        self.made.note(&self.whose, place);
        Some(exposed)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Holder<'a> {
    #[serde(borrow, default)]
    task_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    task: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/related-task")]
    related: Option<&'a RawValue>,
}

/// Where the ids of tasks stand in a result, in their order: its own, its task's, and that of the task that it belongs to.
fn ids(result: &str) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    collect(result, result, 3, &mut found);
    found.sort_by_key(|(at, _)| at.start);
    found
}

fn collect(whole: &str, part: &str, depth: u8, found: &mut Vec<(Range<usize>, String)>) {
    let Ok(holder) = serde_json::from_str::<Holder<'_>>(part) else { return };
    if let Some(raw) = holder.task_id
        && let Ok(own) = serde_json::from_str::<String>(raw.get())
    {
        // Borrowed from `whole`, so the difference of the addresses is the place.
        let at = raw.get().as_ptr() as usize - whole.as_ptr() as usize;
        found.push((at..at + raw.get().len(), own));
    }
    if depth == 0 {
        return;
    }
    for inner in [holder.task, holder.meta, holder.related].into_iter().flatten() {
        collect(whole, inner.get(), depth - 1, found);
    }
}

/// What a client of the modern era that did not declare the extension is told (SEP-2663).
pub fn undeclared(asked: &Asked<'_>) -> Option<bytes::Bytes> {
    let declared = asked.client.era == Era::Legacy || asked.capabilities().contains(EXTENSION);
    (!declared).then(|| {
        let data = format!(r#"{{"requiredCapabilities":{{"extensions":{{"{EXTENSION}":{{}}}}}}}}"#);
        let says = "The client lacks a capability that this needs";
        rpc::error(Some(asked.id()), rpc::MISSING_CLIENT_CAPABILITY, says, Some(&data))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn ids_for(principal: u8, known: Option<(&str, &str)>, sealer: &Arc<Sealer>) -> TaskIds {
        let name = |n: &str| n.parse().expect("a name");
        TaskIds {
            sealer: Arc::clone(sealer),
            binding: Binding { tenant: name("default"), gateway: name("main"), principal: [principal; 16] },
            server: name("jobs"),
            whose: [principal; 32],
            made: Arc::default(),
            known: known.map(|(own, exposed)| (own.into(), exposed.into())),
        }
    }

    fn message(result: &str) -> Message {
        Message::parse(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#))).expect("a message")
    }

    #[test]
    fn ids_are_sealed_where_they_are_ids() {
        let sealer = Arc::new(Sealer::new(1, &portcullis_model::Secret::new(vec![7; 32])).expect("a key"));
        let raw = r#"{"resultType":"task", "taskId" : "t-1","n":1.10,"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t-1"}},
            "content":[{"type":"text","text":"\"taskId\":\"t-1\""}]}"#;
        let ids = ids_for(1, None, &sealer);
        let out = ids.rewritten(&message(raw)).expect("rewritten");
        let value: serde_json::Value = serde_json::from_str(out.payload_text()).expect("JSON");
        let exposed = value["taskId"].as_str().expect("an id").to_owned();
        assert_ne!(exposed, "t-1");
        assert_eq!(value["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], exposed.as_str());
        assert_eq!(out.payload_text().replace(&exposed, "t-1"), raw, "nothing else is touched");

        let place = Cursor::open(&sealer, &exposed, &ids.binding, LIST, now_ms()).expect("the caller's own");
        assert_eq!(place.after, "jobs/t-1");
        let other = ids_for(2, None, &sealer);
        assert!(Cursor::open(&sealer, &exposed, &other.binding, LIST, now_ms()).is_err(), "and nobody else's");
        assert!(Cursor::open(&sealer, &exposed, &ids.binding, "tools", now_ms()).is_err(), "it is no cursor");
    }

    #[test]
    fn whoever_asks_for_a_task_gets_it_under_the_id_that_was_asked_for() {
        let sealer = Arc::new(Sealer::new(1, &portcullis_model::Secret::new(vec![7; 32])).expect("a key"));
        let ids = ids_for(1, Some(("t-1", "mine")), &sealer);
        let out = ids.rewritten(&message(r#"{"task":{"taskId":"t-1","status":"working"}}"#)).expect("rewritten");
        assert_eq!(out.payload_text(), r#"{"task":{"taskId":"mine","status":"working"}}"#);
        for none in [r#"{"content":[{"text":"taskId"}]}"#, r#"{"taskId":7}"#, "{}"] {
            assert!(ids.rewritten(&message(none)).is_none(), "{none}");
        }
    }
}
