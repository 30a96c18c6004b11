//! A task of one era in the words of the other: the core of 2025-11-25 and the extension of 2026-07-28 (SEP-2663) mean the
//! same by a task and its states, and differ in who asks for it, how its result is got, and what two members are called.

use std::time::Duration;

use portcullis_upstream::Message;

use super::EXTENSION;
use crate::members::Members;

/// The `_meta` member that names the task of a result (2025-11-25).
pub const RELATED: &str = "io.modelcontextprotocol/related-task";
/// How often a task is looked at where its server does not say, at least and at most.
const POLL: Duration = Duration::from_millis(1_000);
const LEAST_POLL: Duration = Duration::from_millis(20);
const MOST_POLL: Duration = Duration::from_secs(5);

/// Whether nothing changes about a task any more.
pub fn is_over(status: &str) -> bool {
    matches!(status, "completed" | "failed" | "cancelled")
}

/// The state of a task.
pub fn status(task: &Members<'_>) -> String {
    task.text("status").unwrap_or_default()
}

/// A task of 2026-07-28 as 2025-11-25 shows it: without its result, which has a method of its own.
pub fn to_legacy<'a>(mut task: Members<'a>) -> Members<'a> {
    for gone in ["resultType", "result", "error", "inputRequests", "requestState", "_meta"] {
        task.take(gone);
    }
    task.rename("ttlMs", "ttl");
    task.rename("pollIntervalMs", "pollInterval");
    task
}

/// A task of 2025-11-25 as 2026-07-28 shows it, in a result of this type.
pub fn to_modern<'a>(task: &'a Members<'a>, kind: &'a str) -> Members<'a> {
    let mut all = Members::default();
    all.set("resultType", kind);
    for (key, value) in task.iter() {
        let key = match key {
            "ttl" => "ttlMs",
            "pollInterval" => "pollIntervalMs",
            "_meta" => continue,
            key => key,
        };
        all.set(key, value);
    }
    all
}

/// The task that a result of `tools/call` holds, where it is one of 2026-07-28.
pub fn made_modern(result: &str) -> Option<Members<'_>> {
    let task = Members::read(result)?;
    (task.text("resultType")? == "task").then_some(task)
}

/// The task that a result of `tools/call` holds, where it is one of 2025-11-25, as JSON text.
pub fn made_legacy(result: &str) -> Option<String> {
    let result = Members::read(result)?;
    let task = result.get("task")?;
    Members::read(task)?.get("taskId")?;
    Some(task.to_owned())
}

/// A result that says which task it is of, as `tasks/result` gives it. `task` is the id at the server.
pub fn related(result: &str, task: &str) -> Option<String> {
    let mut result = Members::read(result)?;
    result.take("resultType");
    let meta = result.take("_meta").map_or_else(|| "{}".to_owned(), std::borrow::Cow::into_owned);
    let meta = with_related(&meta, task)?;
    result.set("_meta", meta);
    Some(result.to_string())
}

/// `_meta` with the task that it is about.
pub fn with_related(meta: &str, task: &str) -> Option<String> {
    let mut meta = Members::read(meta)?;
    meta.set(RELATED, format!(r#"{{"taskId":{}}}"#, portcullis_protocol::splice::quote(task)));
    Some(meta.to_string())
}

/// A client's capabilities with the extension, which the gateway speaks on its behalf.
pub fn with_extension(capabilities: &str) -> String {
    let mut all = Members::read(capabilities).unwrap_or_default();
    let mut extensions = all.get("extensions").and_then(Members::read).unwrap_or_default();
    extensions.set(EXTENSION, "{}");
    let extensions = extensions.to_string();
    all.set("extensions", extensions);
    all.to_string()
}

/// How long to wait before a task is looked at again.
pub fn poll(task: &Members<'_>) -> Duration {
    let said = task.get("pollIntervalMs").and_then(|ms| ms.parse().ok()).map_or(POLL, Duration::from_millis);
    said.clamp(LEAST_POLL, MOST_POLL)
}

/// Whether a tool says that it can be (`optional`), or has to be (`required`), run as a task. `definition` is its own.
pub fn support(definition: &str) -> Option<String> {
    Members::read(Members::read(definition)?.get("execution")?)?.text("taskSupport")
}

/// A message made of a result that is JSON text.
pub fn message(result: &str) -> Option<Message> {
    Message::parse(portcullis_protocol::rpc::result("0", result)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_says_the_same_in_both_eras() {
        let modern = r#"{"resultType":"task","taskId":"t","status":"working","createdAt":"c","lastUpdatedAt":"l","ttlMs":1,"pollIntervalMs":100}"#;
        let legacy = to_legacy(made_modern(modern).unwrap()).to_string();
        assert_eq!(
            legacy,
            r#"{"taskId":"t","status":"working","createdAt":"c","lastUpdatedAt":"l","ttl":1,"pollInterval":100}"#
        );
        let result = format!(r#"{{"task":{legacy}}}"#);
        let task = made_legacy(&result).unwrap();
        assert_eq!(to_modern(&Members::read(&task).unwrap(), "\"task\"").to_string(), modern);
        assert!(made_modern(r#"{"content":[]}"#).is_none() && made_legacy(r#"{"content":[]}"#).is_none());
        assert_eq!(poll(&Members::read(modern).unwrap()), Duration::from_millis(100));
        assert_eq!(
            related(r#"{"content":[],"_meta":{"a":1}}"#, "t").unwrap(),
            r#"{"content":[],"_meta":{"a":1,"io.modelcontextprotocol/related-task":{"taskId":"t"}}}"#
        );
        assert_eq!(
            with_extension(r#"{"roots":{},"extensions":{"x":{}}}"#),
            r#"{"roots":{},"extensions":{"x":{},"io.modelcontextprotocol/tasks":{}}}"#
        );
        assert_eq!(support(r#"{"name":"x","execution":{"taskSupport":"optional"}}"#).as_deref(), Some("optional"));
        assert_eq!(support(r#"{"name":"x"}"#), None);
        assert!(is_over("failed") && !is_over("input_required"));
    }
}
