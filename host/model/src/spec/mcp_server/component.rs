//! A server that is a WebAssembly component: its exported functions are tools.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Bytes, Problem, Span,
    spec::{Grants, Limits, Plugin, Source},
};

use super::{Process, Sharing};

/// A component that runs within the gateway, without a process. Each call gets a fresh instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentServer {
    /// Where the component comes from.
    pub source: Source,
    /// What it reads as its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// What it may do beyond computing. Secrets of a connection come by `credential.place`, with `env` as the name that the component
    /// asks for.
    #[serde(default)]
    pub grants: Grants,
    /// How much one call may use.
    #[serde(default)]
    pub limits: ToolLimits,
    /// What tools are for, by name, where the component itself does not say or says it otherwise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub descriptions: BTreeMap<String, String>,
    /// The most calls at once.
    #[serde(default = "default_in_flight")]
    pub max_in_flight: u32,
}

/// How much one call of a tool may use. Tools work where policies decide, so they get more than a plugin's call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ToolLimits {
    /// CPU time of one call; 25 times as much where the component waits for others (it imports `http`, `jwt`, `token-request` or
    /// `signing`), since the host's work for it counts too.
    pub cpu: Span,
    /// Wall time of one call.
    pub wait: Span,
    /// Linear memory.
    pub memory: Bytes,
    /// The most bytes of one answer.
    pub output: Bytes,
}

impl Default for ToolLimits {
    fn default() -> Self {
        Self { cpu: Span::millis(200), wait: Span::seconds(30), memory: Bytes::mebi(32), output: Bytes::mebi(1) }
    }
}

impl ToolLimits {
    /// The same, said as for a plugin.
    pub fn of_plugin(&self) -> Limits {
        Limits { cpu: self.cpu, wall: self.wait, wait: self.wait, memory: self.memory, output: self.output }
    }
}

fn default_in_flight() -> u32 {
    16
}

impl ComponentServer {
    /// What stands for it where servers are told apart by how they are started.
    pub fn as_process(&self) -> Process {
        Process {
            command: "(component)".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            inherit_env: Vec::new(),
            cwd: None,
            sharing: Sharing::Shared,
            max_in_flight: self.max_in_flight,
            memory: None,
            files: None,
            network: true,
            start_timeout: Span::seconds(120),
            idle_after: Span::seconds(3600),
        }
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        // The same that is asked of a plugin's source, grants and limits.
        let plugin = Plugin {
            source: self.source.clone(),
            config: None,
            grants: self.grants.clone(),
            limits: self.limits.of_plugin(),
            isolation: Default::default(),
            on_error: Default::default(),
            candidate: None,
        };
        let mut own = Vec::new();
        plugin.check(&mut own);
        for problem in own {
            let path = problem.path.replacen("spec.", "spec.component.", 1);
            problems.push(Problem::new(path, problem.message));
        }
        if matches!(self.source, Source::BuiltIn(_)) {
            problems.push(Problem::new("spec.component.source", "built-in plugins have no tools"));
        }
        if self.max_in_flight == 0 {
            problems.push(Problem::new("spec.component.maxInFlight", "must be at least 1"));
        }
    }
}
