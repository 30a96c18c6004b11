//! What a cluster's objects say of a workload: its state, and what is wrong in words with the next step.

use portcullis_model::text::shown;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{bridge, deployment::CONTAINER};

/// The most bytes of what the cluster, or a container's last words, say that are passed on.
const MAX_WORDS: usize = 1_500;
/// Lines of a container's last words that are passed on.
const LAST_LINES: usize = 10;

/// The state of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its objects are not there yet.
    Pending,
    /// Its pods come up.
    Starting,
    /// It can be called.
    Ready,
    /// It can be called, but something is wrong.
    Degraded,
    /// It has no pods, as it is written.
    Idle,
    /// It can't be called.
    Failed,
    /// Somebody stopped it.
    Stopped,
}

impl Phase {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Starting => "Starting",
            Self::Ready => "Ready",
            Self::Degraded => "Degraded",
            Self::Idle => "Idle",
            Self::Failed => "Failed",
            Self::Stopped => "Stopped",
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// In a word, such as `ImageNotPulled`.
    pub reason: String,
    /// For people. What a container said last may hold anything that the container knows.
    pub message: String,
    /// What to do.
    pub next: String,
}

/// A workload's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// In a word.
    pub phase: Phase,
    /// What is wrong, where something is.
    pub trouble: Option<Trouble>,
    /// How many pods can be called.
    pub ready: u32,
    /// How many there should be.
    pub wanted: u32,
    /// How often containers of the pods that are there were started anew.
    pub restarts: u32,
}

impl Observed {
    /// One whose objects are not there yet.
    pub fn pending(trouble: Option<Trouble>) -> Self {
        Self { phase: Phase::Pending, trouble, ready: 0, wanted: 0, restarts: 0 }
    }
}

fn trouble(reason: &str, message: String, next: &str) -> Trouble {
    Trouble { reason: reason.to_owned(), message, next: next.to_owned() }
}

/// The state of a workload, from its Deployment and all pods of it.
pub fn observe<'p>(deployment: Option<&Value>, pods: impl IntoIterator<Item = &'p Value>, stopped: bool) -> Observed {
    let Some(deployment) = deployment else { return Observed::pending(None) };
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap_or(0)).unwrap_or(u32::MAX);
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let wanted = number(&spec["replicas"]);
    let ready = number(&status["readyReplicas"]);
    let pods: Vec<&Value> = pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
    let restarts = pods.iter().flat_map(|pod| containers(pod)).map(|c| number(&c["restartCount"])).sum();
    let observed = |phase, trouble| Observed { phase, trouble, ready, wanted, restarts };
    if stopped || wanted == 0 {
        return observed(if stopped { Phase::Stopped } else { Phase::Idle }, None);
    }
    let seen = status["observedGeneration"].as_i64() >= deployment["metadata"]["generation"].as_i64();
    let current = seen && number(&status["updatedReplicas"]) >= wanted && number(&status["unavailableReplicas"]) == 0;
    if ready >= wanted && current {
        return observed(Phase::Ready, None);
    }
    let late = condition(status, "Progressing").filter(|c| c["reason"] == "ProgressDeadlineExceeded").is_some();
    let found = pods.iter().find_map(|pod| of_pod(pod, late)).or_else(|| {
        let failure = condition(status, "ReplicaFailure").filter(|c| c["status"] == "True")?;
        let message = format!("the cluster makes no pod of it: {}", words(&failure["message"]));
        Some(trouble("NotMade", message, "Correct what the cluster refuses: a quota, or a policy of the namespace."))
    });
    let found = found.or_else(|| {
        let message = format!("{ready} of {wanted} pods can be called, and the others do not come up in time");
        late.then(|| trouble("NotInTime", message, "Look at its log: `portcullis logs SERVER`."))
    });
    match (found, ready) {
        (None, 0) => observed(Phase::Starting, None),
        // A rollout goes on: what is there can be called.
        (None, _) => observed(if ready >= wanted { Phase::Ready } else { Phase::Degraded }, None),
        (Some(trouble), 0) => observed(Phase::Failed, Some(trouble)),
        (Some(trouble), _) => observed(Phase::Degraded, Some(trouble)),
    }
}

fn condition<'v>(status: &'v Value, kind: &str) -> Option<&'v Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let of = |name: &str| pod["status"][name].as_array().into_iter().flatten();
    of("initContainerStatuses").chain(of("containerStatuses"))
}

/// What keeps a pod from being called; none where nothing is known to.
fn of_pod(pod: &Value, late: bool) -> Option<Trouble> {
    let status = &pod["status"];
    if status["phase"] == "Failed" && status["reason"].is_string() {
        let message = format!("a pod was ended ({}): {}", words(&status["reason"]), words(&status["message"]));
        return Some(trouble("Evicted", message, "Give it larger limits, or the nodes more room."));
    }
    if let Some(scheduled) = condition(status, "PodScheduled")
        && scheduled["status"] == "False"
    {
        let message = format!("no node takes a pod of it: {}", words(&scheduled["message"]));
        let next = "Lower `kubernetes.resources.requests`, change `nodeSelector` or `tolerations`, or add a node.";
        return Some(trouble("Unschedulable", message, next));
    }
    containers(pod).find_map(|container| of_container(container, late))
}

fn of_container(container: &Value, late: bool) -> Option<Trouble> {
    let (state, last) = (&container["state"], &container["lastState"]["terminated"]);
    let name = match container["name"].as_str() {
        Some(CONTAINER) | None => String::new(),
        Some(other) => format!(" of the container {other}"),
    };
    let waiting = &state["waiting"];
    match waiting["reason"].as_str() {
        Some(
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable",
        ) => {
            let message = format!("the image{name} can't be pulled: {}", words(&waiting["message"]));
            let next = match container["name"] == bridge::NAME {
                true => {
                    "Check `kubernetes.servers.bridge` of the server settings: `image`, and `imagePullSecrets` where the registry asks who wants it."
                }
                false => {
                    "Check `kubernetes.image`, and `kubernetes.imagePullSecrets` where the registry asks who wants it."
                }
            };
            return Some(trouble("ImageNotPulled", message, next));
        }
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" | "PostStartHookError") => {
            let message = format!("the container{name} can't be started: {}", words(&waiting["message"]));
            let next = "Check `kubernetes.command`, `kubernetes.runAsUser` and what is overridden.";
            return Some(trouble("NotStarted", message, next));
        }
        Some("CrashLoopBackOff") => return Some(ended(last, &name)),
        _ => {}
    }
    let terminated = &state["terminated"];
    if terminated.is_object() && terminated["exitCode"] != 0 {
        return Some(ended(terminated, &name));
    }
    // Up again after an end that says nothing good.
    if last.is_object() && container["ready"] == false {
        return Some(ended(last, &name));
    }
    let silent = late && state["running"].is_object() && container["ready"] == false;
    silent.then(|| {
        let message = format!("a pod runs, but the probe{name} does not succeed");
        let next = "Check `kubernetes.port` and `kubernetes.probes`, and that the server listens on all addresses.";
        trouble("ProbeFailing", message, next)
    })
}

/// How a container ended.
fn ended(how: &Value, name: &str) -> Trouble {
    let said = match how["message"].as_str().map(str::trim_end).filter(|said| !said.is_empty()) {
        Some(said) => {
            let lines: Vec<&str> = said.lines().collect();
            format!(
                "; its last words: {}",
                shown(&lines[lines.len().saturating_sub(LAST_LINES)..].join(" | "), MAX_WORDS)
            )
        }
        None => String::new(),
    };
    if how["reason"] == "OOMKilled" {
        let message = format!("the container{name} was ended since it took more memory than it may{said}");
        return trouble("OutOfMemory", message, "Raise `kubernetes.resources.limits.memory`.");
    }
    let code = how["exitCode"].as_i64().unwrap_or(-1);
    // Of a container that did not end by itself: 128 and the signal's number.
    if code == 137 || code == 143 {
        let message = format!("the container{name} was ended since it did not answer in time{said}");
        let next = "Check `kubernetes.port`, `kubernetes.probes` and `kubernetes.startTimeout`, and that the server listens on all addresses.";
        return trouble("ProbeFailing", message, next);
    }
    let message = format!("the container{name} ends again and again, with status {code}{said}");
    trouble("Crashing", message, "Look at its log: `portcullis logs SERVER --previous`.")
}

fn words(value: &Value) -> String {
    shown(value.as_str().unwrap_or("no reason given"), MAX_WORDS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(wanted: u32, ready: u32, updated: u32) -> Value {
        json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": wanted},
            "status": {
                "observedGeneration": 2, "readyReplicas": ready, "updatedReplicas": updated,
                "unavailableReplicas": wanted.saturating_sub(ready),
            },
        })
    }

    fn waiting(reason: &str, message: &str, last: Value) -> Value {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!({"status": {"containerStatuses": [{"name": "server", "ready": false, "restartCount": 3, "state": state, "lastState": {"terminated": last}}]}})
    }

    #[test]
    fn states() {
        let phase = |deployment: &Value, stopped| observe(Some(deployment), [], stopped).phase;
        assert_eq!(observe(None, [], false).phase, Phase::Pending);
        assert_eq!(phase(&deployment(1, 0, 1), false), Phase::Starting);
        assert_eq!(phase(&deployment(2, 2, 2), false), Phase::Ready);
        assert_eq!(phase(&deployment(2, 1, 2), false), Phase::Degraded);
        assert_eq!(phase(&deployment(0, 0, 0), false), Phase::Idle);
        assert_eq!(phase(&deployment(0, 0, 0), true), Phase::Stopped);
        // The cluster has not looked at it yet.
        let mut fresh = deployment(1, 1, 1);
        fresh["metadata"]["generation"] = json!(3);
        assert_eq!(phase(&fresh, false), Phase::Ready, "the old ones can be called");
    }

    #[test]
    fn what_is_wrong_is_said_with_the_next_step() {
        let crash = json!({"exitCode": 3, "reason": "Error", "message": "one\ntwo\nno token\n"});
        let unschedulable = json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient memory."}]}});
        let evicted = json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}});
        for (pod, reason, said) in [
            (
                waiting("ImagePullBackOff", "Back-off pulling image \"x\"", Value::Null),
                "ImageNotPulled",
                "Back-off pulling image",
            ),
            (waiting("CreateContainerConfigError", "image will run as root", Value::Null), "NotStarted", "run as root"),
            (
                waiting("CrashLoopBackOff", "back-off", crash.clone()),
                "Crashing",
                "status 3; its last words: one | two | no token",
            ),
            (
                waiting("CrashLoopBackOff", "back-off", json!({"exitCode": 137, "reason": "OOMKilled"})),
                "OutOfMemory",
                "more memory",
            ),
            (
                waiting("CrashLoopBackOff", "back-off", json!({"exitCode": 143, "reason": "Error"})),
                "ProbeFailing",
                "did not answer in time",
            ),
            (unschedulable, "Unschedulable", "Insufficient memory"),
            (evicted, "Evicted", "ephemeral-storage"),
        ] {
            let seen = observe(Some(&deployment(1, 0, 1)), [&pod], false);
            let trouble = seen.trouble.unwrap();
            assert_eq!((seen.phase, &*trouble.reason), (Phase::Failed, reason), "{pod}");
            assert!(trouble.message.contains(said) && !trouble.next.is_empty(), "{trouble:?}");
            let seen = observe(Some(&deployment(2, 1, 2)), [&pod], false);
            assert_eq!((seen.phase, &*seen.trouble.unwrap().reason), (Phase::Degraded, reason));
        }
        // One that goes says nothing.
        let mut going = waiting("CrashLoopBackOff", "back-off", crash);
        going["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(observe(Some(&deployment(1, 0, 1)), [&going], false).phase, Phase::Starting);
    }

    #[test]
    fn a_pod_that_is_silent_is_late_only_after_its_time() {
        let pod =
            json!({"status": {"containerStatuses": [{"name": "server", "ready": false, "state": {"running": {}}}]}});
        let mut deployment = deployment(1, 0, 1);
        assert_eq!(observe(Some(&deployment), [&pod], false).phase, Phase::Starting);
        deployment["status"]["conditions"] =
            json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        assert_eq!(observe(Some(&deployment), [&pod], false).trouble.unwrap().reason, "ProbeFailing");
        deployment["status"]["conditions"] =
            json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]);
        let refused = observe(Some(&deployment), [], false).trouble.unwrap();
        assert!(refused.reason == "NotMade" && refused.message.contains("exceeded quota"));
    }
}
