//! The Deployment: hardened pods of one image.

use std::collections::BTreeMap;

use portcullis_model::spec::{Amounts, Kubernetes, PullSecret, RESERVED, Relaxed};
use serde_json::{Map, Value, json};

use crate::{
    Identity, ObjectKind, Place, PlanError, Values, bridge,
    name::WORKLOAD,
    plan::head,
    secrets::{keys, logins, pull_name},
};

/// The container that serves.
pub const CONTAINER: &str = "server";
/// Where files of a connection are.
pub(crate) const FILES: &str = "/run/portcullis";
/// The volumes of ours.
pub(crate) const VOLUMES: [&str; 3] = ["tmp", "values", bridge::NAME];
/// The annotation of pods that changes with a connection's values.
pub const MARK: &str = "portcullis.dev/values";
/// How often a pod that starts is asked, in seconds.
const ASK: u64 = 2;

pub(crate) fn of(
    place: &Place,
    identity: &Identity,
    name: &str,
    spec: &Kubernetes,
    values: &Values,
) -> Result<Value, PlanError> {
    let mut body = head(place, identity, ObjectKind::Deployment, name);
    let labels = body["metadata"]["labels"].clone();
    let start = spec.start_timeout.get().as_secs();
    let mut annotations = Map::new();
    let secret: Vec<(String, _)> = keys(values).collect();
    if !secret.is_empty() {
        let mark = place.installation.mark(secret.iter().map(|(key, value)| (&**key, value.expose())));
        annotations.insert(MARK.to_owned(), json!(mark));
    }
    let mut pod = pod(place, name, spec, values);
    if !spec.transport.is_http() {
        bridge::put(&mut pod, name, spec, values.startup.as_ref(), place.bridge.as_ref())?;
    }
    let mut template = json!({"metadata": {"labels": labels}, "spec": pod});
    if !annotations.is_empty() {
        template["metadata"]["annotations"] = Value::Object(annotations);
    }
    body["spec"] = json!({
        "replicas": spec.replicas,
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": start + 60,
        // The old ones go once new ones can be called.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "selector": {"matchLabels": {WORKLOAD: name}},
        "template": template,
    });
    Ok(body)
}

fn pod(place: &Place, name: &str, spec: &Kubernetes, values: &Values) -> Value {
    let tolerations = spec.tolerations.as_ref().unwrap_or(&place.inherited.tolerations);
    let nodes = spec.node_selector.as_ref().unwrap_or(&place.inherited.node_selector);
    let disk = amount(&spec.resources.limits.ephemeral_storage, "256Mi");
    let mut volumes = vec![json!({"name": VOLUMES[0], "emptyDir": {"sizeLimit": disk}})];
    if !values.files.is_empty() {
        let items: Vec<Value> =
            (0..values.files.len()).map(|n| json!({"key": format!("file-{n}"), "path": format!("file-{n}")})).collect();
        volumes.push(json!({"name": VOLUMES[1], "secret": {"secretName": name, "items": items, "defaultMode": 0o440}}));
    }
    let mut pod = json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": false,
        // The addresses of everything else in the namespace are none of its business.
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": spec.stop_grace.get().as_secs(),
        "securityContext": {
            "runAsNonRoot": spec.run_as_user != 0,
            "runAsUser": spec.run_as_user,
            "runAsGroup": spec.run_as_user,
            "fsGroup": spec.run_as_user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(name, spec, values)],
        "volumes": volumes,
    });
    if !nodes.is_empty() {
        pod["nodeSelector"] = json!(nodes);
    }
    if !tolerations.is_empty() {
        pod["tolerations"] = json!(tolerations);
    }
    let existing = spec.image_pull_secrets.iter().filter_map(|secret| match secret {
        PullSecret::Existing(existing) => Some(json!({"name": existing})),
        PullSecret::Login(_) => None,
    });
    let made = logins(spec).next().map(|_| json!({"name": pull_name(name)}));
    let pull: Vec<Value> = existing.chain(made).collect();
    if !pull.is_empty() {
        pod["imagePullSecrets"] = json!(pull);
    }
    pod
}

fn container(name: &str, spec: &Kubernetes, values: &Values) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": spec.image,
        "ports": [{"name": "mcp", "containerPort": spec.port, "protocol": "TCP"}],
        "env": env(name, spec, values),
        "resources": {
            "requests": amounts(&spec.resources.requests, ["10m", "64Mi", "16Mi"]),
            "limits": amounts(&spec.resources.limits, ["1", "512Mi", "256Mi"]),
        },
        "securityContext": hardened(spec.relax),
        "volumeMounts": mounts(values),
        // Its last words are in the pod's status where it ends with an error.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": probe(spec.port, spec.probes.ready.as_deref(), ASK, spec.start_timeout.get().as_secs().div_ceil(ASK)),
        "readinessProbe": probe(spec.port, spec.probes.ready.as_deref(), 5, 3),
    });
    if let Some(alive) = &spec.probes.alive {
        container["livenessProbe"] = probe(spec.port, Some(alive), 10, 6);
    }
    if !spec.command.is_empty() {
        container["command"] = json!(spec.command.iter().map(|word| literal(word)).collect::<Vec<_>>());
    }
    let own = spec.args.iter().map(|arg| literal(&expand(arg, &values.values)));
    // The kubelet puts the value there: the Deployment does not hold it.
    let placed = (0..values.arguments.len()).map(|n| format!("$({RESERVED}ARGUMENT_{n})"));
    let args: Vec<String> = own.chain(placed).collect();
    if !args.is_empty() {
        container["args"] = json!(args);
    }
    container
}

/// What no container of ours may do.
pub(crate) fn hardened(relax: Relaxed) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "readOnlyRootFilesystem": !relax.writable_root,
        "capabilities": {"drop": ["ALL"]},
    })
}

fn env(name: &str, spec: &Kubernetes, values: &Values) -> Vec<Value> {
    let mut plain: BTreeMap<&str, String> = BTreeMap::from([("HOME", "/tmp".to_owned())]);
    for (variable, value) in &spec.env {
        plain.insert(variable, literal(&expand(value, &values.values)));
    }
    for (n, (variable, _)) in values.files.iter().enumerate() {
        plain.insert(variable, format!("{FILES}/file-{n}"));
    }
    let from = |variable: &str, key: String| json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}});
    let secret: Vec<(String, String)> = (values.env.iter().enumerate())
        .map(|(n, (variable, _))| (variable.clone(), format!("env-{n}")))
        .chain((0..values.arguments.len()).map(|n| (format!("{RESERVED}ARGUMENT_{n}"), format!("argument-{n}"))))
        .collect();
    // One that is placed takes the place of what is written.
    plain.retain(|variable, _| !secret.iter().any(|(placed, _)| placed == variable));
    let plain = plain.into_iter().map(|(variable, value)| json!({"name": variable, "value": value}));
    plain.chain(secret.into_iter().map(|(variable, key)| from(&variable, key))).collect()
}

fn mounts(values: &Values) -> Vec<Value> {
    let mut mounts = vec![json!({"name": VOLUMES[0], "mountPath": "/tmp"})];
    if !values.files.is_empty() {
        mounts.push(json!({"name": VOLUMES[1], "mountPath": FILES, "readOnly": true}));
    }
    mounts
}

fn probe(port: u16, path: Option<&str>, period: u64, failures: u64) -> Value {
    let mut probe = json!({"periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures.max(1)});
    match path {
        Some(path) => probe["httpGet"] = json!({"path": path, "port": port}),
        None => probe["tcpSocket"] = json!({"port": port}),
    }
    probe
}

fn amounts(given: &Amounts, [cpu, memory, disk]: [&str; 3]) -> Value {
    json!({
        "cpu": amount(&given.cpu, cpu),
        "memory": amount(&given.memory, memory),
        "ephemeral-storage": amount(&given.ephemeral_storage, disk),
    })
}

fn amount<'a>(given: &'a Option<String>, else_: &'a str) -> &'a str {
    given.as_deref().unwrap_or(else_)
}

/// The text with each `${field.NAME}` replaced by its value; by nothing where there is none.
fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, (name, after))) =
        rest.split_once("${field.").and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        out.push_str(before);
        out.push_str(values.get(name).map_or("", String::as_str));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// As it is written: the kubelet puts a variable in place of `$(NAME)`, which a value that somebody gave may hold, and one `$` in
/// place of two.
pub(crate) fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_gave_names_no_variable_and_no_field() {
        let values = [("a".to_owned(), "$(TOKEN)".to_owned()), ("b".to_owned(), "${field.a}".to_owned())].into();
        let written = |text: &str| literal(&expand(text, &values));
        assert_eq!(written("x=${field.a} ${field.c}"), "x=$$(TOKEN) ");
        assert_eq!(written("${field.b} ${field.a} ${field."), "$${field.a} $$(TOKEN) $${field.");
        assert_eq!(written("$$(A) $5"), "$$$$(A) $$5");
    }
}
