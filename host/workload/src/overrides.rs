//! A strategic merge patch over the Deployment, of an operator: what may be changed is a list, and everything else is protected.
//!
//! What keeps servers apart stays ours: names, labels, selectors, images and security contexts, service accounts and their tokens,
//! other Secrets, the host's files and network (security decision 23). Directives (`$patch` and its like) are not taken, since they
//! take away what a patch does not name.

use portcullis_model::spec::{RESERVED, Relaxed};
use serde_json::{Map, Value, json};

use crate::{
    bridge,
    deployment::{CONTAINER, VOLUMES, hardened},
};

/// What may be changed, of the Deployment. `*` is any name, `[]` each item of a list.
const OPEN: [&str; 37] = [
    "metadata.annotations.*",
    "metadata.labels.*",
    "spec.minReadySeconds",
    "spec.progressDeadlineSeconds",
    "spec.revisionHistoryLimit",
    "spec.strategy",
    "spec.template.metadata.annotations.*",
    "spec.template.metadata.labels.*",
    "spec.template.spec.affinity",
    "spec.template.spec.topologySpreadConstraints",
    "spec.template.spec.nodeSelector",
    "spec.template.spec.tolerations",
    "spec.template.spec.priorityClassName",
    "spec.template.spec.schedulerName",
    "spec.template.spec.runtimeClassName",
    "spec.template.spec.preemptionPolicy",
    "spec.template.spec.terminationGracePeriodSeconds",
    "spec.template.spec.hostAliases",
    "spec.template.spec.dnsPolicy",
    "spec.template.spec.dnsConfig",
    "spec.template.spec.volumes[]",
    "spec.template.spec.containers[].name",
    "spec.template.spec.containers[].args",
    "spec.template.spec.containers[].command",
    "spec.template.spec.containers[].env",
    "spec.template.spec.containers[].imagePullPolicy",
    "spec.template.spec.containers[].lifecycle",
    "spec.template.spec.containers[].livenessProbe",
    "spec.template.spec.containers[].readinessProbe",
    "spec.template.spec.containers[].startupProbe",
    "spec.template.spec.containers[].resources",
    "spec.template.spec.containers[].volumeMounts",
    "spec.template.spec.containers[].workingDir",
    "spec.template.spec.containers[].stdin",
    "spec.template.spec.containers[].tty",
    // Of a container beside ours only; see `container`.
    "spec.template.spec.containers[].image",
    "spec.template.spec.containers[].ports",
];
/// Of the container that serves, these are said in the definition.
const SAID_ELSEWHERE: [&str; 4] = ["image", "ports", "command", "args"];
/// Kinds of volumes that hold nothing of others and nothing of the node.
const VOLUME_KINDS: [&str; 4] = ["emptyDir", "persistentVolumeClaim", "ephemeral", "downwardAPI"];
/// Where a variable may come from.
const VARIABLE_KINDS: [&str; 2] = ["fieldRef", "resourceFieldRef"];
/// Lists whose items are told apart by a field (`patchMergeKey` of the API's types).
const MERGED: [(&str, &str); 7] = [
    ("containers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("ports", "containerPort"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
];
/// How deep a patch may be.
const MAX_DEPTH: usize = 32;

/// Merges a patch into a Deployment.
///
/// # Errors
/// Every place of the patch that may not be changed, by its path.
pub(crate) fn apply(deployment: &mut Value, patch: &Map<String, Value>, relax: Relaxed) -> Result<(), Vec<String>> {
    if patch.is_empty() {
        return Ok(());
    }
    let patch = Value::Object(patch.clone());
    let mut refused = Vec::new();
    walk(&patch, "", "", &mut refused);
    if !refused.is_empty() {
        return Err(refused);
    }
    merge(deployment, &patch, "");
    if let Some(containers) = deployment["spec"]["template"]["spec"]["containers"].as_array_mut() {
        for container in containers {
            container["securityContext"] = hardened(relax);
        }
    }
    Ok(())
}

/// `path` is where the value is, in words; `pattern` the same as [`OPEN`] has it.
fn walk(value: &Value, path: &str, pattern: &str, refused: &mut Vec<String>) {
    if OPEN.contains(&pattern) {
        return leaf(value, path, pattern, refused);
    }
    let goes_on =
        |with: char| OPEN.iter().any(|open| open.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(with)));
    match value {
        Value::Object(members) if pattern.is_empty() || goes_on('.') => {
            for (name, member) in members {
                let path = join(path, name);
                // Names of labels and annotations hold dots.
                let any = join(pattern, "*");
                let pattern = if OPEN.contains(&&*any) { any } else { join(pattern, name) };
                walk(member, &path, &pattern, refused);
            }
        }
        Value::Array(items) if !pattern.is_empty() && goes_on('[') => {
            for (n, item) in items.iter().enumerate() {
                let (path, pattern) = (format!("{path}[{n}]"), format!("{pattern}[]"));
                match item {
                    Value::Object(members) if pattern.ends_with("containers[]") => container(members, &path, refused),
                    _ => {}
                }
                walk(item, &path, &pattern, refused);
            }
        }
        _ => refused.push(format!("{path} is protected")),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// What has to be so of a container as a whole.
fn container(members: &Map<String, Value>, path: &str, refused: &mut Vec<String>) {
    match members.get("name").and_then(Value::as_str) {
        None => refused.push(format!("{path} has no name: \"{CONTAINER}\" is the one that serves")),
        Some(CONTAINER) => {
            for name in SAID_ELSEWHERE.iter().filter(|name| members.contains_key(**name)) {
                refused.push(format!("{path}.{name} is said in spec.kubernetes"));
            }
        }
        Some(_) => {}
    }
}

/// What stands at a place that may be changed.
fn leaf(value: &Value, path: &str, pattern: &str, refused: &mut Vec<String>) {
    directives(value, path, 0, refused);
    let name = path.rsplit_once('.').map_or(path, |(_, name)| name);
    if pattern.ends_with(".*") {
        let at = pattern.trim_end_matches(".*").replace(".*", "");
        let key = path.get(at.len() + 1..).unwrap_or(name);
        // Older clusters read profiles of AppArmor and seccomp from annotations.
        if key.contains("portcullis.dev/") || key.starts_with("app.kubernetes.io/") || key.contains(".security.") {
            refused.push(format!("{path} is protected"));
        }
    }
    if pattern.ends_with("volumes[]") {
        let members = value.as_object();
        let own = members.and_then(|m| m.get("name")).and_then(Value::as_str);
        let bad =
            members.into_iter().flatten().find(|(kind, _)| *kind != "name" && !VOLUME_KINDS.contains(&kind.as_str()));
        if let Some((kind, _)) = bad {
            refused.push(format!("{path}.{kind} is protected: use one of {}", VOLUME_KINDS.join(", ")));
        }
        match own {
            None => refused.push(format!("{path} has no name")),
            Some(own) if VOLUMES[1..].contains(&own) => {
                refused.push(format!("{path}: the volume \"{own}\" is protected"));
            }
            Some(_) => {}
        }
    }
    if pattern.ends_with("[].env") {
        let items = value.as_array();
        if items.is_none() {
            refused.push(format!("{path} is protected as a whole: name the variables to set"));
        }
        for (n, variable) in items.into_iter().flatten().enumerate() {
            let kinds = variable["valueFrom"].as_object().into_iter().flatten().map(|(kind, _)| kind.as_str());
            if let Some(kind) = kinds.into_iter().find(|kind| !VARIABLE_KINDS.contains(kind)) {
                refused.push(format!("{path}[{n}].valueFrom.{kind} is protected"));
            }
            if let Some(name) = variable["name"].as_str().filter(|name| name.starts_with(RESERVED)) {
                refused.push(format!("{path}[{n}]: the variable {name} is protected"));
            }
        }
    }
    if pattern.ends_with("[].volumeMounts") {
        for (n, mount) in value.as_array().into_iter().flatten().enumerate() {
            if mount["mountPath"].as_str().is_none_or(bridge::is_ours) {
                refused.push(format!("{path}[{n}].mountPath is protected"));
            }
        }
    }
    let list = ["[].volumeMounts", "[].ports"].iter().any(|end| pattern.ends_with(end));
    if list && !value.is_array() {
        refused.push(format!("{path} is protected as a whole: name the items to set"));
    }
}

fn directives(value: &Value, path: &str, depth: usize, refused: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        return refused.push(format!("{path} is too deep"));
    }
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name.starts_with('$') {
                    refused.push(format!("{}: directives are not taken", join(path, name)));
                }
                directives(member, &join(path, name), depth + 1, refused);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                directives(item, &format!("{path}[{n}]"), depth + 1, refused);
            }
        }
        _ => {}
    }
}

/// A strategic merge: objects by member, null takes away, lists that are told apart by a field item by item, other lists whole.
fn merge(into: &mut Value, patch: &Value, name: &str) {
    match (&mut *into, patch) {
        (Value::Object(members), Value::Object(changes)) => {
            for (name, change) in changes {
                if change.is_null() {
                    members.remove(name);
                } else {
                    merge(members.entry(name.clone()).or_insert(Value::Null), change, name);
                }
            }
        }
        (Value::Array(items), Value::Array(changes)) => {
            let Some((_, key)) = MERGED.iter().find(|(list, _)| *list == name) else {
                *into = patch.clone();
                return;
            };
            for change in changes {
                match items.iter_mut().find(|item| item[*key] == change[*key]) {
                    Some(item) => {
                        replaces(item, change);
                        merge(item, change, "");
                    }
                    None => items.push(without_nulls(change)),
                }
            }
        }
        _ => *into = without_nulls(patch),
    }
}

/// A variable has one value, and a volume is of one kind: another one takes its place.
fn replaces(item: &mut Value, change: &Value) {
    let sets = |name: &str| change.get(name).is_some_and(|v| !v.is_null());
    let Some(members) = item.as_object_mut() else { return };
    if sets("value") {
        members.remove("valueFrom");
    }
    if sets("valueFrom") {
        members.remove("value");
    }
    if let Some(kind) = VOLUME_KINDS.iter().find(|kind| sets(kind)) {
        members.retain(|name, _| !VOLUME_KINDS.contains(&name.as_str()) || name == kind);
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.iter().filter(|(_, member)| !member.is_null());
            Value::Object(kept.map(|(name, member)| (name.clone(), without_nulls(member))).collect())
        }
        Value::Array(items) => json!(items.iter().map(without_nulls).collect::<Vec<_>>()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Value {
        json!({
            "metadata": {"name": "n", "labels": {"portcullis.dev/workload": "n"}},
            "spec": {
                "selector": {"matchLabels": {"portcullis.dev/workload": "n"}},
                "template": {
                    "metadata": {"labels": {"portcullis.dev/workload": "n"}},
                    "spec": {
                        "serviceAccountName": "n",
                        "containers": [{
                            "name": "server", "image": "i", "securityContext": hardened(Relaxed::default()),
                            "env": [{"name": "HOME", "value": "/tmp"}, {"name": "T", "valueFrom": {"secretKeyRef": {"name": "n", "key": "env-0"}}}],
                            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                        }],
                        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Mi"}}],
                    },
                },
            },
        })
    }

    fn pod(part: Value) -> Value {
        json!({"spec": {"template": {"spec": part}}})
    }

    fn server(mut part: Value) -> Value {
        part["name"] = json!("server");
        pod(json!({"containers": [part]}))
    }

    fn applied(patch: &Value) -> Result<Value, Vec<String>> {
        let mut deployment = base();
        apply(&mut deployment, patch.as_object().unwrap(), Relaxed::default()).map(|()| deployment)
    }

    #[test]
    fn what_is_open_is_merged() {
        let patch = server(json!({
            "env": [{"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "NEW", "value": "1"}],
            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
            "resources": {"limits": {"cpu": "2"}},
        }));
        let made = applied(&patch).unwrap();
        let container = &made["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "i");
        assert_eq!(
            container["env"][0],
            json!({"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
        );
        assert_eq!(
            (container["env"].as_array().unwrap().len(), container["volumeMounts"].as_array().unwrap().len()),
            (3, 2)
        );
        let volumes = pod(
            json!({"volumes": [{"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "cache", "emptyDir": {}}], "priorityClassName": "high"}),
        );
        let made = applied(&volumes).unwrap();
        let pod = &made["spec"]["template"]["spec"];
        assert_eq!(pod["volumes"][0], json!({"name": "tmp", "persistentVolumeClaim": {"claimName": "c"}}));
        assert_eq!((&pod["volumes"][1]["name"], &pod["priorityClassName"]), (&json!("cache"), &json!("high")));
        let beside = applied(&super::tests::pod(json!({"containers": [{"name": "proxy", "image": "p"}]}))).unwrap();
        let beside = &beside["spec"]["template"]["spec"]["containers"][1];
        assert_eq!((&beside["image"], &beside["securityContext"]), (&json!("p"), &hardened(Relaxed::default())));
    }

    #[test]
    fn what_is_protected_is_named() {
        for (patch, named) in [
            (json!({"metadata": {"name": "x"}}), "metadata.name"),
            (
                json!({"metadata": {"labels": {"portcullis.dev/workload": "x"}}}),
                "metadata.labels.portcullis.dev/workload",
            ),
            (json!({"metadata": {"labels": null}}), "metadata.labels"),
            (json!({"metadata": {"labels": []}}), "metadata.labels"),
            (
                json!({"spec": {"template": {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/server": "unconfined"}}}}}),
                "annotations.container.apparmor",
            ),
            (json!({"kind": "DaemonSet"}), "kind"),
            (json!({"spec": null}), "spec"),
            (json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}), "spec.selector"),
            (json!({"spec": {"replicas": 3}}), "spec.replicas"),
            (
                json!({"spec": {"template": {"metadata": {"labels": {"portcullis.dev/workload": null}}}}}),
                "portcullis.dev/workload",
            ),
            (json!({"spec": {"template": {"spec": {"$patch": "replace"}}}}), "spec.template.spec.$patch"),
            (pod(json!({"serviceAccountName": "admin"})), "spec.template.spec.serviceAccountName"),
            (pod(json!({"serviceAccount": "admin"})), "spec.template.spec.serviceAccount"),
            (pod(json!({"automountServiceAccountToken": true})), "automountServiceAccountToken"),
            (pod(json!({"hostNetwork": true})), "hostNetwork"),
            (pod(json!({"hostPID": true})), "hostPID"),
            (pod(json!({"securityContext": {"runAsUser": 0}})), "spec.template.spec.securityContext"),
            (pod(json!({"imagePullSecrets": [{"name": "other"}]})), "imagePullSecrets"),
            (pod(json!({"initContainers": [{"name": "x", "image": "x"}]})), "initContainers"),
            (pod(json!({"containers": null})), "spec.template.spec.containers"),
            (pod(json!({"containers": {}})), "spec.template.spec.containers"),
            (pod(json!({"containers": [{"$patch": "delete", "name": "server"}]})), "containers[0].$patch"),
            (pod(json!({"containers": [{"image": "x"}]})), "has no name"),
            (pod(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})), "volumes[0].hostPath"),
            (pod(json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]})), "volumes[0].secret"),
            (pod(json!({"volumes": [{"name": "v", "projected": {"sources": []}}]})), "volumes[0].projected"),
            (pod(json!({"volumes": [{"name": "values", "emptyDir": {}}]})), "\"values\" is protected"),
            (pod(json!({"volumes": [{"name": "bridge", "emptyDir": {}}]})), "\"bridge\" is protected"),
            (
                server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/portcullis"}]})),
                "volumeMounts[0].mountPath",
            ),
            (server(json!({"volumeMounts": [{"name": "tmp", "mountPath": "/run"}]})), "volumeMounts[0].mountPath"),
            (
                server(json!({"env": [{"name": "PORTCULLIS_BRIDGE_KEY", "value": "x"}]})),
                "PORTCULLIS_BRIDGE_KEY is protected",
            ),
            (pod(json!({"volumes": [null]})), "volumes[0]"),
            (pod(json!({"affinity": {"x": [{"$patch": "delete"}]}})), "affinity.x[0].$patch"),
            (server(json!({"image": "evil"})), "containers[0].image is said in spec.kubernetes"),
            (server(json!({"securityContext": {"privileged": true}})), "containers[0].securityContext"),
            (server(json!({"securityContext": null})), "containers[0].securityContext"),
            (server(json!({"envFrom": [{"secretRef": {"name": "other"}}]})), "containers[0].envFrom"),
            (server(json!({"env": null})), "containers[0].env"),
            (
                server(json!({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "o", "key": "k"}}}]})),
                "env[0].valueFrom.secretKeyRef",
            ),
            (server(json!({"volumeMounts": null})), "volumeMounts"),
            (server(json!({"volumeDevices": []})), "volumeDevices"),
        ] {
            let refused = applied(&patch).unwrap_err();
            assert!(refused.iter().any(|r| r.contains(named)), "{patch}: {refused:?}");
        }
    }
}
