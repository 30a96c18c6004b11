//! Metric names, spans and audit events: declared once, used everywhere.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod audit;
pub mod ids;
pub mod logs;
pub mod metrics;
pub mod trace;

pub use audit::{Audit, AuditEvent};
pub use ids::RequestId;
pub use metrics::{CallMetrics, Metrics, NotKept, Outcome, PluginMetrics};
pub use trace::TraceContext;

/// A time since 1970 as RFC 3339 text.
pub fn rfc3339(since_1970: std::time::Duration) -> String {
    audit::rfc3339(since_1970)
}
