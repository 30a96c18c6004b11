//! What a gateway says of itself: the union of what its servers offer to this caller.
//!
//! A server that has not been reached yet keeps nobody waiting for long. What it may offer is claimed until it is known:
//! a client asks again for a list that it was told may exist, and never for one that was denied.

use std::collections::BTreeSet;

use portcullis_protocol::{Era, Version, rpc::ServerInfo};
use portcullis_upstream::ServerFacts;
use serde_json::{Map, Value, json};

use crate::{asked::Asked, catalogue::Kind, gateways::Gateways, list, naming, tasks, view::View};

/// The most bytes of instructions, of one server among several and of all together.
const ONE_INSTRUCTIONS: usize = 4 << 10;
const ALL_INSTRUCTIONS: usize = 16 << 10;
/// How long what is said here may be kept: while everything is known, and while something is not.
const TTL_MS: u64 = 60_000;
const UNSETTLED_TTL_MS: u64 = 1_000;
/// Extensions that a gateway in front of several servers can speak for: they have no methods of their own, or the gateway
/// leads them to the right server.
const FEDERATED: [&str; 2] = ["io.modelcontextprotocol/ui", tasks::EXTENSION];

/// What a server says of itself, read.
#[derive(Debug)]
pub struct Facts {
    /// The revision that is spoken with it.
    pub version: Version,
    /// What it offers.
    pub capabilities: Map<String, Value>,
    /// Who it is, as it wrote it; nothing where it did not say.
    pub info: Option<String>,
    /// How to use it.
    pub instructions: Option<Box<str>>,
}

impl Facts {
    /// Reads them.
    pub fn of(facts: &ServerFacts) -> Self {
        let info = std::str::from_utf8(&facts.server_info).ok().filter(|i| *i != "{}").map(str::to_owned);
        Self {
            version: facts.version,
            capabilities: serde_json::from_slice(&facts.capabilities).unwrap_or_default(),
            info,
            instructions: facts.instructions.clone(),
        }
    }

    /// Whether it has tasks, in its era's way.
    pub fn has_tasks(&self) -> bool {
        let extensions = self.capabilities.get("extensions").and_then(Value::as_object);
        self.capabilities.contains_key("tasks") || extensions.is_some_and(|e| e.contains_key(tasks::EXTENSION))
    }

    /// Whether its tools may be called as tasks: a server of 2026-07-28 decides by itself.
    pub fn calls_as_tasks(&self) -> bool {
        match self.version.era() {
            Era::Modern => self.has_tasks(),
            Era::Legacy => self
                .capabilities
                .get("tasks")
                .is_some_and(|tasks| tasks.pointer("/requests/tools/call").is_some_and(Value::is_object)),
        }
    }

    /// Whether there may be anything of this kind. A server that says nothing at all is asked for its tools.
    pub fn offers(&self, kind: Kind) -> bool {
        self.capabilities.contains_key(kind.capability()) || (self.capabilities.is_empty() && kind == Kind::Tools)
    }
}

/// What the answer to `initialize` or `server/discover` says.
#[derive(Debug, PartialEq, Eq)]
pub struct Offer {
    /// A JSON object.
    pub capabilities: String,
    /// A JSON object.
    pub info: String,
    /// For the model.
    pub instructions: Option<String>,
    /// How long a modern client may keep this, in milliseconds.
    pub ttl_ms: u64,
}

/// What this caller is offered.
pub async fn offer(gateways: &Gateways, asked: &Asked<'_>) -> Offer {
    let view = asked.view;
    // The tools that the caller may see say which servers it may know of.
    let gathered = list::gather(gateways, asked, Kind::Tools).await;
    let visible: BTreeSet<usize> = match list::visible(asked, &gathered, Kind::Tools).await {
        Ok(rows) => rows.iter().map(|row| row.at).collect(),
        // The list will say why.
        Err(_) => BTreeSet::new(),
    };
    let filtered = view.policies.iter().any(|p| p.enforces() && p.hooks().list_filter);
    let known: Vec<_> = gathered
        .parts
        .iter()
        .filter(|part| !filtered || visible.contains(&part.at))
        .map(|part| (part.at, part.entry.as_ref().and_then(|e| e.facts()), part.connect.is_some()))
        .collect();

    let mut union = Union { era: asked.client.era, alone: view.servers.len() == 1, all: Map::new() };
    let mut unsettled = false;
    for (_, facts, connect) in &known {
        match facts {
            // Nobody has connected an account: one tool says how to.
            _ if *connect => union.own("tools", "listChanged"),
            Some(facts) => union.add(facts),
            None => {
                unsettled = true;
                union.anything();
            }
        }
    }
    if view.servers.is_empty() || union.all.is_empty() {
        union.own("tools", "listChanged");
    }
    let instructions = instructions(view, known.iter().filter_map(|(at, facts, _)| Some((*at, facts.as_ref()?))));
    let only = match known.as_slice() {
        [(at, Some(facts), _)] if union.alone && view.exposures[*at].prefix.is_empty() => facts.info.clone(),
        _ => None,
    };
    Offer {
        capabilities: Value::Object(union.all).to_string(),
        info: only.filter(|_| view.title.is_none()).unwrap_or_else(|| info(view).json()),
        instructions,
        ttl_ms: if unsettled { UNSETTLED_TTL_MS } else { TTL_MS },
    }
}

/// Who we are towards clients.
fn info(view: &View) -> ServerInfo<'_> {
    ServerInfo { name: "portcullis", title: view.title.as_deref(), version: env!("CARGO_PKG_VERSION") }
}

/// Capabilities of several servers as one object.
struct Union {
    era: Era,
    /// Whether there is one server only, so that whatever it can do reaches it.
    alone: bool,
    all: Map<String, Value>,
}

impl Union {
    fn add(&mut self, facts: &Facts) {
        for (name, value) in &facts.capabilities {
            match name.as_str() {
                "tools" | "prompts" | "resources" => {
                    self.merge(name, value);
                    if !self.alone {
                        // Which servers there are changes as well, and clients are told.
                        self.own(name, "listChanged");
                    }
                }
                "logging" | "completions" => self.merge(name, value),
                // Of the other era nothing is known but what is bridged, which is said above.
                _ if facts.version.era() != self.era => {}
                _ if self.alone => self.merge(name, value),
                "extensions" => {
                    let shared: Map<String, Value> = value
                        .as_object()
                        .into_iter()
                        .flatten()
                        .filter(|(id, _)| FEDERATED.contains(&id.as_str()))
                        .map(|(id, value)| (id.clone(), value.clone()))
                        .collect();
                    if !shared.is_empty() {
                        self.merge(name, &Value::Object(shared));
                    }
                }
                _ => {}
            }
        }
        if !facts.calls_as_tasks() {
            return;
        }
        // Ids are the gateway's own, and tasks of the other era are translated.
        match (self.era, facts.version.era()) {
            (Era::Legacy, Era::Legacy) if self.alone => {}
            (Era::Legacy, _) => {
                self.merge("tasks", &json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}))
            }
            (Era::Modern, Era::Legacy) => self.merge("extensions", &json!({ (tasks::EXTENSION): {} })),
            (Era::Modern, Era::Modern) => {}
        }
    }

    /// All that a server which is not known yet may turn out to offer.
    fn anything(&mut self) {
        for name in ["tools", "prompts", "resources"] {
            self.own(name, "listChanged");
        }
        for name in ["logging", "completions"] {
            self.merge(name, &json!({}));
        }
    }

    fn own(&mut self, name: &str, member: &str) {
        self.merge(name, &json!({ (member): true }));
    }

    /// What one says, all say; `true` wins over `false`.
    fn merge(&mut self, name: &str, value: &Value) {
        match (self.all.get_mut(name), value) {
            (Some(Value::Object(here)), Value::Object(value)) => {
                for (key, value) in value {
                    if here.get(key).is_none_or(|old| *old == Value::Bool(false)) {
                        here.insert(key.clone(), value.clone());
                    }
                }
            }
            (Some(_), _) => {}
            (None, value) => {
                self.all.insert(name.to_owned(), value.clone());
            }
        }
    }
}

/// The gateway's instructions, then the servers'. Of one server alone as they are; of several each under the prefix of its
/// tools, and bounded.
fn instructions<'f>(view: &View, servers: impl Iterator<Item = (usize, &'f std::sync::Arc<Facts>)>) -> Option<String> {
    let theirs: Vec<_> = servers
        .filter_map(|(at, facts)| Some((at, facts.instructions.as_deref().filter(|i| !i.trim().is_empty())?)))
        .collect();
    let own = view.instructions.as_deref();
    if view.servers.len() == 1 {
        return match (own, theirs.first()) {
            (None, theirs) => theirs.map(|(_, text)| (*text).to_owned()),
            (Some(own), None) => Some(own.to_owned()),
            (Some(own), Some((_, text))) => Some(format!("{own}\n\n{text}")),
        };
    }
    let mut all = own.unwrap_or_default().to_owned();
    for (at, text) in theirs {
        let title = match view.exposures[at].prefix.as_str() {
            "" => view.servers[at].server.to_string(),
            prefix => format!("{} ({prefix}*)", view.servers[at].server),
        };
        let part =
            format!("{}## {title}\n{}", if all.is_empty() { "" } else { "\n\n" }, naming::cut(text, ONE_INSTRUCTIONS));
        if all.len() + part.len() > ALL_INSTRUCTIONS {
            break;
        }
        all.push_str(&part);
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(capabilities: &str, version: Version) -> Facts {
        Facts { version, capabilities: serde_json::from_str(capabilities).unwrap(), info: None, instructions: None }
    }

    fn union(era: Era, alone: bool, all: &[Facts]) -> Value {
        let mut union = Union { era, alone, all: Map::new() };
        all.iter().for_each(|f| union.add(f));
        Value::Object(union.all)
    }

    const OLD: Version = Version::V2025_11_25;
    const NEW: Version = Version::V2026_07_28;

    #[test]
    fn one_server_says_what_it_says() {
        let all = r#"{"tools":{},"resources":{"subscribe":true},"tasks":{"list":{}},"experimental":{"x":{}}}"#;
        assert_eq!(union(Era::Legacy, true, &[facts(all, OLD)]), serde_json::from_str::<Value>(all).unwrap());
        assert_eq!(
            union(Era::Modern, true, &[facts(all, OLD)]),
            json!({"tools": {}, "resources": {"subscribe": true}}),
            "what is not bridged is not offered"
        );
    }

    #[test]
    fn several_say_what_any_says() {
        let a = facts(r#"{"tools":{"listChanged":false},"logging":{}}"#, OLD);
        let b = facts(
            r#"{"tools":{},"prompts":{},"resources":{"subscribe":true},"extensions":{"io.modelcontextprotocol/ui":{"a":1},"com.example/x":{}}}"#,
            NEW,
        );
        assert_eq!(
            union(Era::Modern, false, &[a, b]),
            json!({
                "tools": {"listChanged": true},
                "logging": {},
                "prompts": {"listChanged": true},
                "resources": {"subscribe": true, "listChanged": true},
                "extensions": {"io.modelcontextprotocol/ui": {"a": 1}},
            })
        );
    }

    #[test]
    fn tasks_are_offered_to_both_eras() {
        let old = r#"{"tools":{},"tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}}"#;
        let new = r#"{"tools":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        let core = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
        let extension = json!({"io.modelcontextprotocol/tasks": {}});
        for alone in [true, false] {
            assert_eq!(union(Era::Legacy, alone, &[facts(new, NEW)])["tasks"], core, "{alone}");
            assert_eq!(union(Era::Legacy, alone, &[facts(old, OLD)])["tasks"], core, "{alone}");
            assert_eq!(union(Era::Modern, alone, &[facts(old, OLD)])["extensions"], extension, "{alone}");
            assert_eq!(union(Era::Modern, alone, &[facts(new, NEW)])["extensions"], extension, "{alone}");
        }
    }

    #[test]
    fn a_silent_server_is_asked_for_tools_only() {
        let silent = facts("{}", OLD);
        assert!(silent.offers(Kind::Tools) && !silent.offers(Kind::Prompts));
        let prompts = facts(r#"{"prompts":{}}"#, OLD);
        assert!(!prompts.offers(Kind::Tools) && prompts.offers(Kind::Prompts) && !prompts.offers(Kind::Templates));
    }
}
