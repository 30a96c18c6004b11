//! Components whose exported functions are tools: what they are called, what they take and give, and calls of them.
//!
//! A function is exported by the component itself or by an interface of its own; those of `portcullis:` and `wasi:` interfaces are no
//! tools. Each call runs in a fresh instance, within the limits and grants of a plugin, and may wait for others.

mod docs;
mod schema;
mod shed;
mod values;

pub use shed::Toolshed;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use wasmtime::component::{
    Type, Val,
    types::{ComponentFunc, ComponentItem},
};

use crate::{
    error::{LoadError, PluginFailure},
    host::Host,
    load::LoadPlan,
    meter::PollMeter,
    plugin::Plugin,
    run::failure,
};

/// The most tools of one component.
const MAX_TOOLS: usize = 256;
/// How many times the bytes of an answer the host may take over from a guest: values take more room than their JSON.
const PER_BYTE: usize = 16;

/// A tool of a component.
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// The comment above the function, where the component carries its WIT's documentation.
    pub description: Option<String>,
    /// What it takes: the JSON schema of an object.
    pub input: Value,
    /// What it gives: the JSON schema of an object; none where it gives nothing.
    pub output: Option<Value>,
    /// The interface that exports it; none where the component itself does.
    interface: Option<String>,
    function: ComponentFunc,
}

impl std::fmt::Debug for Tool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a tool gave.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolAnswer {
    /// A JSON object that fits the tool's output schema; or, of an error, what the function said of it. None where it gives nothing.
    pub value: Option<Value>,
    /// Whether the function returned an error (the `err` of a `result`).
    pub is_error: bool,
}

/// Why a tool gave no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ToolError {
    /// There is no such tool.
    #[error("there is no such tool")]
    Unknown,
    /// The arguments do not fit; whoever sent them may read how.
    #[error("the arguments do not fit: {0}")]
    Arguments(String),
    /// It was called and did not come to an end.
    #[error(transparent)]
    Failed(#[from] PluginFailure),
}

/// A loaded component with its tools.
pub struct Toolbox {
    plugin: Arc<Plugin>,
    tools: BTreeMap<String, Tool>,
}

impl std::fmt::Debug for Toolbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toolbox").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

impl Host {
    /// Loads a component as tools. The plan's component comes from [`Host::compile_tools`].
    ///
    /// # Errors
    /// What is wrong with it: as for a plugin, and which function can't be a tool.
    pub async fn toolbox(self: &Arc<Self>, plan: LoadPlan, wasm: &[u8]) -> Result<Arc<Toolbox>, LoadError> {
        let comments = docs::read(wasm);
        let tools = tools(self, &plan, &comments)?;
        let plugin = self.load(plan).await?;
        if !plugin.starts_ready() {
            return Err(LoadError::Invalid("it gets ready, and its memory can't be kept: tools need that".to_owned()));
        }
        Ok(Arc::new(Toolbox { plugin, tools }))
    }
}

/// The tools among a component's exports.
fn tools(
    host: &Host,
    plan: &LoadPlan,
    comments: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Tool>, LoadError> {
    let invalid = |why: String| LoadError::Invalid(why);
    let mut tools = BTreeMap::new();
    let mut add = |name: &str, interface: Option<&str>, function: ComponentFunc| {
        let input = schema::parameters(function.params())
            .map_err(|what| invalid(format!("the function {name} takes {what}, so it can't be a tool")))?;
        let output = output(&function)
            .map_err(|what| invalid(format!("the function {name} gives {what}, so it can't be a tool")))?;
        if function.async_() {
            return Err(invalid(format!("the function {name} is async, so it can't be a tool")));
        }
        let description = comments.get(name).cloned();
        let interface = interface.map(str::to_owned);
        let tool = Tool { name: name.to_owned(), description, input, output, interface, function };
        if tools.insert(name.to_owned(), tool).is_some() {
            return Err(invalid(format!("two functions are called {name}; a tool's name is its function's")));
        }
        if tools.len() > MAX_TOOLS {
            return Err(LoadError::TooMany { what: "tools", max: MAX_TOOLS as u32 });
        }
        Ok(())
    };
    let compiled = &plan.component.compiled;
    for (name, item) in compiled.component_type().exports(&host.engine) {
        match item.ty {
            ComponentItem::ComponentFunc(function) => add(name, None, function)?,
            ComponentItem::ComponentInstance(_) if name.starts_with("portcullis:") || name.starts_with("wasi:") => {}
            ComponentItem::ComponentInstance(instance) => {
                for (function, item) in instance.exports(&host.engine) {
                    if let ComponentItem::ComponentFunc(ty) = item.ty {
                        // Methods and constructors of resources have no JSON for what they belong to.
                        if function.starts_with('[') {
                            return Err(invalid(format!(
                                "{name} exports {function} of a resource, which can't be a tool"
                            )));
                        }
                        add(function, Some(name), ty)?;
                    }
                }
            }
            _ => {}
        }
    }
    if tools.is_empty() {
        return Err(invalid("the component exports no function that could be a tool".to_owned()));
    }
    Ok(tools)
}

/// The type that a function gives when all is well, and whether it may give an error instead.
fn given(function: &ComponentFunc) -> (Option<Type>, bool) {
    match function.results().next() {
        Some(Type::Result(result)) => (result.ok(), true),
        other => (other, false),
    }
}

fn output(function: &ComponentFunc) -> Result<Option<Value>, String> {
    if let Some(Type::Result(result)) = function.results().next()
        && let Some(err) = result.err()
    {
        schema::of(&err)?;
    }
    match given(function).0 {
        None => Ok(None),
        Some(ty @ Type::Record(_)) => schema::of(&ty).map(Some),
        // Structured content is an object (2025-06-18 server/tools).
        Some(ty) => {
            let schema = schema::of(&ty)?;
            Ok(Some(json!({"type": "object", "properties": {"result": schema}, "required": ["result"]})))
        }
    }
}

impl Toolbox {
    /// The tools, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.values()
    }

    /// The component's SHA-256, in hex.
    pub fn digest(&self) -> &str {
        self.plugin.digest()
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn call(&self, name: &str, arguments: &Map<String, Value>) -> Result<ToolAnswer, ToolError> {
        let tool = self.tools.get(name).ok_or(ToolError::Unknown)?;
        let params = values::parameters(tool.function.params(), arguments).map_err(ToolError::Arguments)?;
        let given = self.plugin.counted("tool", invoke(&self.plugin, tool, params)).await?;
        Ok(answer(&tool.function, given))
    }
}

fn answer(function: &ComponentFunc, given: Option<Val>) -> ToolAnswer {
    let (Some(ty), Some(value)) = (function.results().next(), given) else {
        return ToolAnswer { value: None, is_error: false };
    };
    let object = |ty: &Type, value: &Val| match ty {
        Type::Record(_) => values::json(ty, value),
        _ => json!({"result": values::json(ty, value)}),
    };
    match (&ty, &value) {
        (Type::Result(result), Val::Result(Ok(value))) => {
            let value = result.ok().zip(value.as_deref()).map(|(ty, value)| object(&ty, value));
            ToolAnswer { value, is_error: false }
        }
        (Type::Result(result), Val::Result(Err(error))) => {
            let value = result.err().zip(error.as_deref()).map(|(ty, error)| values::json(&ty, error));
            ToolAnswer { value, is_error: true }
        }
        _ => ToolAnswer { value: Some(object(&ty, &value)), is_error: false },
    }
}

/// Runs a function in a fresh instance.
async fn invoke(plugin: &Plugin, tool: &Tool, params: Vec<Val>) -> Result<Option<Val>, PluginFailure> {
    let mut running = plugin.take().await?;
    let _awake = plugin.host.ticker.awake();
    let (wait, polls) = (plugin.limits.wait.get(), Arc::new(PollMeter::default()));
    let store = &mut running.store;
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(plugin.limits.output.as_usize().saturating_mul(PER_BYTE));
    store.data_mut().meter.allow_more(Duration::ZERO);
    store.data_mut().meter.begin_suspending(wait, Arc::clone(&polls));
    let call = async {
        let instance = plugin.ready.pre.instantiate_async(&mut *store).await?;
        let interface = match &tool.interface {
            Some(name) => instance.get_export_index(&mut *store, None, name),
            None => None,
        };
        let index = instance.get_export_index(&mut *store, interface.as_ref(), &tool.name);
        let function = index.and_then(|index| instance.get_func(&mut *store, index));
        let Some(function) = function else { return Err(wasmtime::Error::msg("the function is gone")) };
        let mut results = vec![Val::Bool(false); tool.function.results().len()];
        function.call_async(&mut *store, &params, &mut results).await?;
        Ok(results.pop())
    };
    let mut call = Box::pin(call);
    let metered = std::future::poll_fn(|context| {
        polls.enter();
        let polled = call.as_mut().poll(context);
        polls.leave();
        polled
    });
    let outcome = tokio::time::timeout(wait, metered).await.map_err(|_| PluginFailure::Timeout)?;
    drop(call);
    let state = running.store.data_mut();
    state.end();
    outcome.map_err(|error| failure(state, &error))
}
