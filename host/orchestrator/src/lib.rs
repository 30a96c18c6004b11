//! Server runtimes: desired state in, running servers out.
//!
//! Two of them: [`Orchestrator`] for processes on this machine, [`Workloads`] for pods of a Kubernetes cluster.
//!
//! [`Orchestrator`] starts the processes that [`portcullis_upstream`] talks to. Each runs under a small supervisor, a hidden
//! mode of the product's own binary ([`portcullis_child::supervise_main`]), which ends the whole tree when the gateway wants it to or is gone
//! (security decision 24).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod homes;
pub mod logs;
pub mod orchestrator;
pub mod status;
pub mod workloads;

mod prepare;
mod reach;

pub use homes::Home;
pub use logs::{LogLine, LogRing};
pub use orchestrator::{Options, Orchestrator};
pub use status::{State, Status};
pub use workloads::{OperateError, Startups, Wish, WorkloadOptions, WorkloadStatus, Workloads};
