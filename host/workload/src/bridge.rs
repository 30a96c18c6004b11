//! The bridge before a server that speaks on standard input and output: how it gets into the pod, how it is started, and the key that it
//! shares with the gateways.
//!
//! An init container of the bridge's own image copies the program into a volume, and the server's container starts with it, so that the
//! server's image needs nothing. The key is a variable of that container alone. It follows from the key of the installation, the
//! workload's name and the *epoch*, which changes with each restart: so every gateway of the installation knows it, none has to read
//! it from the cluster, and a pod of which it knows the epoch it knows the key of.

use portcullis_model::{
    Secret,
    spec::{Kubernetes, RESERVED},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Installation, Object, ObjectKind,
    deployment::{hardened, literal},
    plan::{PlanError, Startup},
};

/// The init container, and the volume of the program.
pub const NAME: &str = "bridge";
/// Where the program is.
pub(crate) const FOLDER: &str = "/portcullis";
/// The key of the Secret that holds what gateway and bridge share.
pub const KEY: &str = "bridge";
/// The annotation that changes with each restart: of the Deployment as it is wished, of its pods as they are.
pub const EPOCH: &str = "portcullis.dev/restarted";
/// How much room the program has. Ours is a few MiB.
const ROOM: &str = "64Mi";
/// Seconds within which the bridge ends its processes, which are kept of the time that a pod has to end.
const ENDING: u64 = 7;
/// Seconds that it still takes requests, at most: longer than a gateway keeps an idle connection.
const LINGER: u64 = 6;
/// How many seconds more than the server's a bridge has to start, so that it can say itself what is wrong.
const MARGIN: u64 = 10;

/// Where the bridge comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BridgeImage {
    /// The image. Its entrypoint is the bridge.
    pub image: String,
    /// Secrets of the servers' namespace with logins at its registry.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
}

/// What the gateways and the pods of an epoch share.
pub fn key(installation: &Installation, workload: &str, epoch: &str) -> Secret {
    installation.derived(&["bridge", workload, epoch])
}

/// Makes an object one of this epoch.
pub fn stamp(object: &mut Object, installation: &Installation, workload: &str, epoch: &str) {
    match object.kind {
        ObjectKind::Secret if object.data.contains_key(KEY) => {
            object.data.insert(KEY.to_owned(), key(installation, workload, epoch));
        }
        ObjectKind::Deployment if !epoch.is_empty() => {
            object.body["spec"]["template"]["metadata"]["annotations"][EPOCH] = json!(epoch);
        }
        _ => {}
    }
}

/// Puts the bridge into a pod, before its server. `name` is the workload's, `startup` what the image starts by itself.
///
/// # Errors
/// Where it is not known what to start.
pub(crate) fn put(
    pod: &mut Value,
    name: &str,
    spec: &Kubernetes,
    startup: Option<&Startup>,
    bridge: Option<&BridgeImage>,
) -> Result<(), PlanError> {
    let bridge = bridge.ok_or(PlanError::NoBridge)?;
    let server = &mut pod["containers"][0];
    let (mut command, mut args) = (words(&server["command"]), words(&server["args"]));
    if let Some(startup) = startup.filter(|_| command.is_empty()) {
        // As container runtimes have it: arguments take the place of the image's.
        command = startup.entrypoint.iter().map(|word| literal(word)).collect();
        if spec.args.is_empty() {
            args.splice(..0, startup.command.iter().map(|word| literal(word)));
        }
    }
    command.extend(args);
    if command.is_empty() {
        return Err(PlanError::NoCommand);
    }
    let grace = spec.stop_grace.get().as_secs().saturating_sub(ENDING);
    let linger = LINGER.min(grace / 2);
    let start = spec.start_timeout.get().as_secs();
    let mut args = ["--listen".to_owned(), format!("[::]:{}", spec.port)].to_vec();
    for (name, seconds) in [("linger", linger), ("drain", grace - linger), ("start-timeout", start)] {
        args.extend([format!("--{name}"), seconds.to_string()]);
    }
    // Kubernetes starts it again, and tells how it ended.
    args.extend(["--fail-fast".to_owned(), "--".to_owned()]);
    args.extend(command);
    server["command"] = json!([format!("{FOLDER}/{NAME}")]);
    server["args"] = json!(args);
    let probe = |period: u64, failures: u64| {
        let ask = json!({"path": "/readyz", "port": spec.port});
        json!({"httpGet": ask, "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures.max(1)})
    };
    server["startupProbe"] = probe(2, (start + MARGIN).div_ceil(2));
    server["readinessProbe"] = probe(5, 3);
    let from = json!({"secretKeyRef": {"name": name, "key": KEY}});
    push(&mut server["env"], json!({"name": format!("{RESERVED}BRIDGE_KEY"), "valueFrom": from}));
    push(&mut server["volumeMounts"], json!({"name": NAME, "mountPath": FOLDER, "readOnly": true}));
    push(&mut pod["volumes"], json!({"name": NAME, "emptyDir": {"sizeLimit": ROOM}}));
    let amounts = json!({"cpu": "100m", "memory": "32Mi", "ephemeral-storage": ROOM});
    pod["initContainers"] = json!([{
        "name": NAME,
        "image": bridge.image,
        "args": ["install", format!("{FOLDER}/{NAME}")],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi", "ephemeral-storage": "16Mi"}, "limits": amounts},
        "securityContext": hardened(Default::default()),
        "volumeMounts": [{"name": NAME, "mountPath": FOLDER}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }]);
    for secret in &bridge.image_pull_secrets {
        push(&mut pod["imagePullSecrets"], json!({"name": secret}));
    }
    Ok(())
}

/// Whether a place in the container that serves is ours: what is put there would be in the place of what we put there.
pub(crate) fn is_ours(mount: &str) -> bool {
    let steps: Vec<&str> = mount.split('/').filter(|step| !step.is_empty() && *step != ".").collect();
    if steps.contains(&"..") {
        // Who knows where that leads.
        return true;
    }
    let path = &*steps.iter().map(|step| format!("/{step}")).collect::<String>();
    [FOLDER, crate::deployment::FILES].iter().any(|ours| {
        let within = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        within(path, ours) || within(ours, path)
    })
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_over_ours_is_known() {
        for ours in [
            "/portcullis",
            "/portcullis/",
            "/portcullis/bridge",
            "/run/portcullis",
            "/run",
            "/",
            "",
            "//portcullis",
            "/x/../portcullis",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for others in ["/portcullis2", "/tmp", "/run/other", "/data/portcullis"] {
            assert!(!is_ours(others), "{others}");
        }
    }

    #[test]
    fn a_key_is_of_one_workload_and_one_epoch() {
        let of = |installation: &str, workload: &str, epoch: &str| {
            key(&Installation::new(Secret::new(installation)), workload, epoch).expose().to_vec()
        };
        let first = of("i", "mcp-a", "1");
        assert_eq!(first, of("i", "mcp-a", "1"));
        assert!(first.len() == 64 && first.is_ascii());
        for other in [of("j", "mcp-a", "1"), of("i", "mcp-b", "1"), of("i", "mcp-a", "2"), of("i", "mcp-a", "")] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn nothing_is_of_an_epoch_that_has_none() {
        let installation = Installation::new(Secret::new("i"));
        let object = |kind, body: Value| Object { kind, name: "w".into(), body, data: Default::default() };
        let mut deployment =
            object(ObjectKind::Deployment, json!({"spec": {"template": {"metadata": {"labels": {}}}}}));
        let before = deployment.body.clone();
        stamp(&mut deployment, &installation, "w", "");
        assert_eq!(deployment.body, before, "no pod is started anew because of this");
        stamp(&mut deployment, &installation, "w", "now");
        assert_eq!(deployment.body["spec"]["template"]["metadata"]["annotations"][EPOCH], "now");
        let mut values = object(ObjectKind::Secret, json!({}));
        values.data.insert("env-0".into(), Secret::new("x"));
        stamp(&mut values, &installation, "w", "now");
        assert!(!values.data.contains_key(KEY), "a server without a bridge has no key");
        values.data.insert(KEY.into(), key(&installation, "w", ""));
        stamp(&mut values, &installation, "w", "now");
        assert_eq!(values.data[KEY].expose(), key(&installation, "w", "now").expose());
        assert_eq!(values.data["env-0"].expose(), b"x");
    }
}
