//! A component: what it exports, what it imports, compiled once and loaded as often as plugins name it.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component as Compiled, ComponentExportIndex, types::ComponentItem};

use crate::{answer::Hooks, error::LoadError, host::Host, survey::survey};

pub(crate) const RESOLVER: (&str, &str) = ("portcullis:credential/resolver", "resolve");
pub(crate) const PROVIDER: (&str, &str) = ("portcullis:auth/provider", "authenticate");
pub(crate) const TOOL_CALL: (&str, &str) = ("portcullis:policy/tool-call", "decide");
pub(crate) const TOOL_RESULT: (&str, &str) = ("portcullis:policy/tool-result", "review");
pub(crate) const LIST_FILTER: (&str, &str) = ("portcullis:policy/list-filter", "filter");

/// The version of the contract that hooks are looked up by; a later 0.1.x satisfies it.
const VERSION: &str = "0.1.0";

/// What a plugin may import, without versions.
const WORLD: [&str; 15] = [
    "portcullis:types/context",
    "portcullis:types/error",
    "portcullis:host/config",
    "portcullis:host/log",
    "portcullis:host/secrets",
    "portcullis:host/reveal",
    "portcullis:host/http",
    "portcullis:auth/request",
    "portcullis:auth/tokens",
    "portcullis:auth/jwt",
    "portcullis:auth/identity",
    "portcullis:credential/target",
    "portcullis:credential/connections",
    "portcullis:credential/resolution",
    "portcullis:policy/decision",
];
/// More of it, and the inert part of WASI.
const INERT: [&str; 19] = [
    "portcullis:policy/results",
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
    pub(crate) provider: Option<ComponentExportIndex>,
    pub(crate) tool_call: Option<ComponentExportIndex>,
    pub(crate) tool_result: Option<ComponentExportIndex>,
    pub(crate) list_filter: Option<ComponentExportIndex>,
}

/// A compiled component.
pub struct Component {
    digest: String,
    pub(crate) compiled: Compiled,
    pub(crate) exports: Exports,
    imports: Vec<Import>,
}

/// An imported interface with the functions that are used.
struct Import {
    name: String,
    functions: Vec<String>,
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
        Hooks {
            resolver: self.exports.resolver.is_some(),
            provider: self.exports.provider.is_some(),
            tool_call: self.exports.tool_call.is_some(),
            tool_result: self.exports.tool_result.is_some(),
            list_filter: self.exports.list_filter.is_some(),
        }
    }

    /// The interfaces that it imports, with versions.
    pub fn imports(&self) -> impl Iterator<Item = &str> {
        self.imports.iter().map(|i| i.name.as_str())
    }

    /// Whether its calls may have to wait for others: it imports a function that does.
    pub fn suspends(&self) -> bool {
        self.uses("portcullis:host/http", "send").is_some() || self.uses("portcullis:auth/jwt", "verify").is_some()
    }

    /// The full name of the interface, if the function is imported from it.
    pub(crate) fn uses(&self, interface: &str, function: &str) -> Option<&str> {
        self.imports
            .iter()
            .find(|i| bare(&i.name) == interface && i.functions.iter().any(|f| f == function))
            .map(|i| i.name.as_str())
    }
}

/// An interface's name without its version.
fn bare(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

impl Host {
    /// Checks, compiles (or takes from the cache) and reads a component. Compiling happens on a blocking thread, two at a
    /// time; after [`crate::HostOptions::compile_timeout`] nobody waits for it any longer.
    ///
    /// # Errors
    /// What is wrong with it, offenders by name.
    pub async fn compile(self: &Arc<Self>, wasm: Arc<[u8]>) -> Result<Arc<Component>, LoadError> {
        let host = Arc::clone(self);
        let patience = self.compile_timeout;
        let work = async move {
            let permit =
                Arc::clone(&host.compiling).acquire_owned().await.map_err(|e| LoadError::Host(e.to_string()))?;
            let work = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                host.compile_now(&wasm)
            });
            work.await.map_err(|e| LoadError::Host(e.to_string()))?
        };
        tokio::time::timeout(patience, work).await.map_err(|_| LoadError::CompileTimeout(patience))?
    }

    fn compile_now(&self, wasm: &[u8]) -> Result<Arc<Component>, LoadError> {
        survey(wasm)?;
        let digest: String = Sha256::digest(wasm).iter().map(|b| format!("{b:02x}")).collect();
        let cached = self.cache.as_ref().and_then(|cache| cache.get(&self.engine, &digest));
        let compiled = match cached {
            Some(compiled) => compiled,
            None => {
                let compiled = Compiled::from_binary(&self.engine, wasm)
                    .map_err(|e| LoadError::Compile(brief(&format!("{e:#}"))))?;
                if let Some(cache) = &self.cache {
                    cache.put(&digest, &compiled);
                }
                compiled
            }
        };
        let imports = self.imports(&compiled)?;
        let find = |(interface, function): (&str, &str)| {
            let instance = compiled.get_export_index(None, format!("{interface}@{VERSION}").as_str())?;
            compiled.get_export_index(Some(&instance), function)
        };
        let exports = Exports {
            resolver: find(RESOLVER),
            provider: find(PROVIDER),
            tool_call: find(TOOL_CALL),
            tool_result: find(TOOL_RESULT),
            list_filter: find(LIST_FILTER),
        };
        let component = Component { digest, compiled, exports, imports };
        if component.hooks() == Hooks::default() {
            let all = [RESOLVER, PROVIDER, TOOL_CALL, TOOL_RESULT, LIST_FILTER];
            return Err(LoadError::NoHook(all.map(|(interface, _)| format!("{interface}@{VERSION}")).join(", ")));
        }
        Ok(Arc::new(component))
    }

    fn imports(&self, compiled: &Compiled) -> Result<Vec<Import>, LoadError> {
        let mut imports = Vec::new();
        let mut offenders = Vec::new();
        for (name, item) in compiled.component_type().imports(&self.engine) {
            let known = WORLD.contains(&bare(name)) || INERT.contains(&bare(name));
            let ComponentItem::ComponentInstance(instance) = item.ty else {
                offenders.push(name.to_owned());
                continue;
            };
            if !known {
                offenders.push(name.to_owned());
                continue;
            }
            let functions = instance
                .exports(&self.engine)
                .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
                .map(|(name, _)| name.to_owned())
                .collect();
            imports.push(Import { name: name.to_owned(), functions });
        }
        if offenders.is_empty() { Ok(imports) } else { Err(LoadError::Imports(offenders)) }
    }
}

/// The beginning of a long message.
pub(crate) fn brief(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
