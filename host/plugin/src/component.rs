//! A component: what it exports, what it imports, compiled once and loaded as often as plugins name it.

use std::sync::Arc;

use portcullis_manifest::{Declared, Manifest, Schema};
use wasmtime::{
    Engine,
    component::{Component as Compiled, ComponentExportIndex, types::ComponentItem},
};

use crate::{answer::Hooks, closed, error::LoadError};

pub(crate) const RESOLVER: (&str, &str) = ("portcullis:credential/resolver", "resolve");
pub(crate) const REFRESHER: (&str, &str) = ("portcullis:credential/refresher", "refresh");
pub(crate) const ON_REJECTED: (&str, &str) = ("portcullis:credential/on-rejected", "rejected");
pub(crate) const PROVIDER: (&str, &str) = ("portcullis:auth/provider", "authenticate");
pub(crate) const TOOL_CALL: (&str, &str) = ("portcullis:policy/tool-call", "decide");
pub(crate) const TOOL_RESULT: (&str, &str) = ("portcullis:policy/tool-result", "review");
pub(crate) const RESOURCE_READ: (&str, &str) = ("portcullis:policy/resource-read", "decide");
pub(crate) const PROMPT_GET: (&str, &str) = ("portcullis:policy/prompt-get", "decide");
pub(crate) const SERVER_REQUEST: (&str, &str) = ("portcullis:policy/server-request", "decide");
pub(crate) const LIST_FILTER: (&str, &str) = ("portcullis:policy/list-filter", "filter");
pub(crate) const SESSION: (&str, &str) = ("portcullis:policy/session", "open");
pub(crate) const DESCRIBED: (&str, &str) = ("portcullis:auth/described", "describe");
/// No hook, since nothing is decided by it.
pub(crate) const SETUP: (&str, &str) = ("portcullis:types/setup", "prepare");

/// The version of the contract that hooks are looked up by; a later 0.1.x satisfies it.
pub(crate) const VERSION: &str = "0.1.0";

/// What a plugin may import, without versions.
const WORLD: [&str; 18] = [
    "portcullis:types/context",
    "portcullis:types/error",
    "portcullis:host/config",
    "portcullis:host/log",
    "portcullis:host/secrets",
    "portcullis:host/reveal",
    "portcullis:host/http",
    "portcullis:host/token-request",
    "portcullis:auth/request",
    "portcullis:auth/tokens",
    "portcullis:auth/jwt",
    "portcullis:auth/identity",
    "portcullis:credential/target",
    "portcullis:credential/connections",
    "portcullis:credential/resolution",
    "portcullis:credential/caller-token",
    "portcullis:credential/earlier",
    "portcullis:policy/decision",
];
/// More of it, and the inert part of WASI.
const INERT: [&str; 26] = [
    "portcullis:policy/results",
    "portcullis:policy/requests",
    "portcullis:policy/lists",
    "portcullis:policy/sessions",
    "portcullis:auth/resource-metadata",
    "portcullis:host/state",
    "portcullis:host/signing",
    "portcullis:host/metrics",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
];

/// Where the hooks of a component are.
#[derive(Default)]
pub(crate) struct Exports {
    pub(crate) resolver: Option<ComponentExportIndex>,
    pub(crate) refresher: Option<ComponentExportIndex>,
    pub(crate) on_rejected: Option<ComponentExportIndex>,
    pub(crate) provider: Option<ComponentExportIndex>,
    pub(crate) tool_call: Option<ComponentExportIndex>,
    pub(crate) tool_result: Option<ComponentExportIndex>,
    pub(crate) resource_read: Option<ComponentExportIndex>,
    pub(crate) prompt_get: Option<ComponentExportIndex>,
    pub(crate) server_request: Option<ComponentExportIndex>,
    pub(crate) list_filter: Option<ComponentExportIndex>,
    pub(crate) session: Option<ComponentExportIndex>,
    pub(crate) described: Option<ComponentExportIndex>,
    pub(crate) setup: Option<ComponentExportIndex>,
}

impl Exports {
    /// Which hooks there are.
    pub(crate) fn hooks(&self) -> Hooks {
        Hooks {
            resolver: self.resolver.is_some(),
            refresher: self.refresher.is_some() && self.resolver.is_some(),
            on_rejected: self.on_rejected.is_some() && self.resolver.is_some(),
            provider: self.provider.is_some(),
            tool_call: self.tool_call.is_some(),
            tool_result: self.tool_result.is_some(),
            resource_read: self.resource_read.is_some(),
            prompt_get: self.prompt_get.is_some(),
            server_request: self.server_request.is_some(),
            list_filter: self.list_filter.is_some(),
            session: self.session.is_some(),
            described: self.described.is_some() && self.provider.is_some(),
        }
    }

    /// Those of one compilation: an index fits no other one.
    pub(crate) fn of(compiled: &Compiled) -> Self {
        let find = |(interface, function): (&str, &str)| {
            let instance = compiled.get_export_index(None, format!("{interface}@{VERSION}").as_str())?;
            compiled.get_export_index(Some(&instance), function)
        };
        Self {
            resolver: find(RESOLVER),
            refresher: find(REFRESHER),
            on_rejected: find(ON_REJECTED),
            provider: find(PROVIDER),
            tool_call: find(TOOL_CALL),
            tool_result: find(TOOL_RESULT),
            resource_read: find(RESOURCE_READ),
            prompt_get: find(PROMPT_GET),
            server_request: find(SERVER_REQUEST),
            list_filter: find(LIST_FILTER),
            session: find(SESSION),
            described: find(DESCRIBED),
            setup: find(SETUP),
        }
    }
}

/// A compiled component.
pub struct Component {
    pub(crate) digest: String,
    pub(crate) compiled: Compiled,
    /// The component itself, where it gets ready and its memory can be taken; `compiled` shows its memory then.
    pub(crate) source: Option<Arc<[u8]>>,
    pub(crate) hooks: Hooks,
    pub(crate) imports: Vec<Import>,
    pub(crate) declared: Declared,
}

/// An imported interface with the functions that are used.
pub(crate) struct Import {
    name: String,
    functions: Vec<String>,
}

impl Import {
    /// Those of a compiled component.
    ///
    /// # Errors
    /// [`LoadError::Imports`]: what no plugin may import, all of it.
    pub(crate) fn all(engine: &Engine, compiled: &Compiled) -> Result<Vec<Self>, LoadError> {
        let mut imports = Vec::new();
        let mut offenders = Vec::new();
        for (name, item) in compiled.component_type().imports(engine) {
            let known = WORLD.contains(&bare(name)) || INERT.contains(&bare(name)) || closed::is_closed(name);
            let ComponentItem::ComponentInstance(instance) = item.ty else {
                offenders.push(name.to_owned());
                continue;
            };
            if !known {
                offenders.push(name.to_owned());
                continue;
            }
            let functions = instance
                .exports(engine)
                .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
                .map(|(name, _)| name.to_owned())
                .collect();
            imports.push(Self { name: name.to_owned(), functions });
        }
        if offenders.is_empty() { Ok(imports) } else { Err(LoadError::Imports(offenders)) }
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component").field("digest", &self.digest).field("hooks", &self.hooks()).finish_non_exhaustive()
    }
}

impl Component {
    /// SHA-256 of the component's bytes, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The hooks that it serves.
    pub fn hooks(&self) -> Hooks {
        self.hooks
    }

    /// The interfaces that it imports, with versions.
    pub fn imports(&self) -> impl Iterator<Item = &str> {
        self.imports.iter().map(|i| i.name.as_str())
    }

    /// The imported interfaces, with versions, each with the functions that are used.
    pub fn imported(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.imports.iter().map(|i| (i.name.as_str(), i.functions.as_slice()))
    }

    /// The imported interfaces, with versions, behind which there is nothing: files and sockets.
    pub fn closed(&self) -> impl Iterator<Item = &str> {
        self.imports().filter(|name| closed::is_closed(name))
    }

    /// What it says of itself, where it does. Nothing of it is proven.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.declared.manifest.as_ref()
    }

    /// What its configuration looks like, where it says so.
    pub fn schema(&self) -> Option<&Schema> {
        self.declared.schema.as_ref()
    }

    /// Whether its calls may have to wait for others: it imports a function that does.
    pub fn suspends(&self) -> bool {
        let waits = [
            ("portcullis:host/http", "send"),
            ("portcullis:host/token-request", "send"),
            ("portcullis:auth/jwt", "verify"),
            ("portcullis:host/signing", "[method]token.sign"),
        ];
        waits.into_iter().any(|(interface, function)| self.uses(interface, function).is_some())
    }

    /// Whether it can change something outside: it imports a function that sends, or makes the house send (keys of an issuer are
    /// fetched). What can't may run beside another version. What it remembers, counts and signs stays with it: a candidate has a
    /// space and figures of its own, and what it signed goes nowhere by itself.
    pub(crate) fn reaches_out(&self) -> bool {
        let sends = [
            ("portcullis:host/http", "send"),
            ("portcullis:host/token-request", "send"),
            ("portcullis:auth/jwt", "verify"),
        ];
        sends.into_iter().any(|(interface, function)| self.uses(interface, function).is_some())
    }

    /// The full name of the interface, if the function is imported from it.
    pub(crate) fn uses(&self, interface: &str, function: &str) -> Option<&str> {
        self.imports
            .iter()
            .find(|i| bare(&i.name) == interface && i.functions.iter().any(|f| f == function))
            .map(|i| i.name.as_str())
    }
}

/// What a component's configuration looks like, where it says so; read from its bytes alone.
pub fn schema_of(wasm: &[u8]) -> Option<Schema> {
    portcullis_manifest::read(wasm).ok()?.schema
}

/// An interface's name without its version.
fn bare(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// The beginning of a long message.
pub(crate) fn brief(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
