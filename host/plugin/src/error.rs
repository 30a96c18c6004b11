//! Why a component is not loaded, and why a hook has no answer.

use std::time::Duration;

/// Why a component is refused. What serves in its place goes on serving.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// Larger than allowed.
    #[error("the component has {size} bytes, {max} is the most (plugins.maxComponent)")]
    TooLarge {
        /// Bytes that it has.
        size: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// Something else than WebAssembly.
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(&'static str),
    /// Native code, which only our own cache may hold.
    #[error(
        "a precompiled component (.cwasm) is native code and not accepted; give the .wasm component it was made of"
    )]
    Precompiled,
    /// What it says of itself makes no sense.
    #[error(transparent)]
    Declared(#[from] portcullis_manifest::DeclaredError),
    /// Its configuration does not fit the schema that it carries.
    #[error("{}", .0.iter().map(|c| format!("config{}{c}", if c.path.is_empty() { ": " } else { "." })).collect::<Vec<_>>().join("; "))]
    Config(Vec<portcullis_manifest::Complaint>),
    /// More of something than is compiled.
    #[error("the component has more than {max} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The most.
        max: u32,
    },
    /// Broken WebAssembly, or features that are off.
    #[error("the component does not compile: {0}")]
    Compile(String),
    /// Compilation was given up.
    #[error("the component did not compile within {0:?}")]
    CompileTimeout(Duration),
    /// Compilation took more than it may.
    #[error("the component is not compiled: it takes {0}")]
    CompileLimit(String),
    /// It wants what plugins can't have.
    #[error("the component imports what no plugin may: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// It wants what this plugin was not granted.
    #[error("the component imports {interface}, which needs `{grant}` under `grants`")]
    Ungranted {
        /// The interface.
        interface: String,
        /// The missing grant, as written in YAML.
        grant: &'static str,
    },
    /// It uses what its own manifest does not ask for, so it does not get it.
    #[error(
        "the component imports {interface}, which needs `{grant}`; that is granted, and its manifest does not ask for it: its author has to name it under `wants`"
    )]
    Unasked {
        /// The interface.
        interface: String,
        /// The grant, as written in YAML.
        grant: &'static str,
    },
    /// It wants what this Portcullis does not offer here.
    #[error("the component imports {0}, which is not available here")]
    Unavailable(String),
    /// Nothing to call.
    #[error("the component exports no hook; a plugin exports at least one of {0}")]
    NoHook(String),
    /// A hook of another shape.
    #[error("the component's {hook} does not fit this version of the contract: {reason}")]
    Contract {
        /// The hook.
        hook: &'static str,
        /// How it differs.
        reason: String,
    },
    /// It can't be linked.
    #[error("the component can't be linked: {0}")]
    Link(String),
    /// Its trial run failed.
    #[error("the component fails when it is started: {0}")]
    Trial(PluginFailure),
    /// It says itself that it can't work, mostly because of its configuration.
    #[error("the plugin refuses to start: {0}")]
    Setup(PluginError),
    /// Its configuration or limits make no sense.
    #[error("{0}")]
    Invalid(String),
    /// The host itself failed.
    #[error("the plugin host failed: {0}")]
    Host(String),
}

/// Why a hook has no answer. Texts are for operators unless said otherwise.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PluginFailure {
    /// The guest trapped: a panic, a leaked borrow, a forbidden wait.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// Its wall time ran out.
    #[error("the plugin took too long")]
    Timeout,
    /// Its CPU time ran out.
    #[error("the plugin used up its CPU time")]
    Cpu,
    /// It wanted more memory than it may have.
    #[error("the plugin wanted more memory than it may have")]
    Memory,
    /// Its answer is larger than it may be.
    #[error("the plugin's answer is larger than it may be")]
    Output,
    /// No instance was free in time. Worth another try.
    #[error("all plugin instances are busy")]
    PoolFull,
    /// It trapped too often for too many, and is not asked for a while.
    #[error("the plugin is in quarantine after repeated failures")]
    Quarantined,
    /// The answer makes no sense, or asserts what was not granted.
    #[error("the plugin's answer is invalid: {0}")]
    Invalid(String),
    /// The plugin does not serve this hook.
    #[error("the plugin has no such hook")]
    NoHook,
    /// The plugin said why it has no answer.
    #[error("the plugin has no answer: {0}")]
    Error(PluginError),
}

/// What a plugin itself says went wrong (`portcullis:types/error`).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PluginError {
    /// Its configuration is wrong.
    #[error("invalid configuration: {0}")]
    InvalidConfig(String),
    /// A refusal; the caller may read it.
    #[error("{message} ({code})")]
    Denied {
        /// A short stable word.
        code: String,
        /// A sentence.
        message: String,
    },
    /// What was looked for does not exist.
    #[error("not found")]
    NotFound,
    /// What was used is expired.
    #[error("expired")]
    Expired,
    /// A person has to go somewhere first; the caller may read it.
    #[error("{message}: {url}")]
    NeedsConsent {
        /// Where to.
        url: String,
        /// What for.
        message: String,
    },
    /// Another service failed.
    #[error("upstream answered {status:?}: {message}")]
    Upstream {
        /// The HTTP status, if there was one.
        status: Option<u16>,
        /// What happened.
        message: String,
    },
    /// Another service was too slow.
    #[error("timeout")]
    Timeout,
    /// Another service is not there.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Something else.
    #[error("{0}")]
    Other(String),
}

impl PluginFailure {
    /// Whether the plugin (or what it depends on) is at fault, rather than having refused in words.
    pub fn is_fault(&self) -> bool {
        !matches!(
            self,
            Self::Error(PluginError::Denied { .. } | PluginError::NotFound | PluginError::NeedsConsent { .. })
        )
    }

    /// Whether it may count towards quarantine: wall time alone may be the machine's fault, a full pool ours, and an answer that
    /// makes no sense is one call's.
    pub fn counts_against_plugin(&self) -> bool {
        matches!(self, Self::Trap(_) | Self::Memory | Self::Cpu)
    }

    /// A short stable word for metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::Timeout => "timeout",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::PoolFull => "pool-full",
            Self::Quarantined => "quarantined",
            Self::Invalid(_) => "invalid",
            Self::NoHook => "no-hook",
            Self::Error(_) => "error",
        }
    }
}
