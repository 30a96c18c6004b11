//! The Secrets of a workload: a connection's values, and logins at registries. Their bodies hold no value.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis_model::{
    Secret,
    spec::{Kubernetes, PullLogin, PullSecret},
};
use serde_json::{Map, Value, json};

use crate::{Identity, Object, ObjectKind, Place, Values, bridge, plan::head};

/// The most bytes of one value: a Secret holds a mebibyte in all.
pub(crate) const MAX_VALUE: usize = 256 << 10;

/// The key of a Secret that holds what, in their order.
pub(crate) fn keys(values: &Values) -> impl Iterator<Item = (String, &Secret)> {
    let env = values.env.iter().map(|(_, secret)| ("env", secret));
    let arguments = values.arguments.iter().map(|secret| ("argument", secret));
    let files = values.files.iter().map(|(_, secret)| ("file", secret));
    let numbered = |(n, (what, secret)): (usize, (&str, _))| (format!("{what}-{n}"), secret);
    env.enumerate().chain(arguments.enumerate()).chain(files.enumerate()).map(numbered)
}

/// The name of the Secret with logins at registries.
pub(crate) fn pull_name(name: &str) -> String {
    // The longest name has 62 bytes; Secrets may have 253.
    format!("{name}-pull")
}

pub(crate) fn of(place: &Place, identity: &Identity, name: &str, spec: &Kubernetes, values: &Values) -> Vec<Object> {
    let object = |name: String, kind: &str, data: BTreeMap<String, Secret>| {
        let mut body = head(place, identity, ObjectKind::Secret, &name);
        body["type"] = json!(kind);
        Object { kind: ObjectKind::Secret, name, body, data }
    };
    let mut found = Vec::new();
    let mut data: BTreeMap<String, Secret> = keys(values).map(|(key, secret)| (key, secret.clone())).collect();
    if !spec.transport.is_http() {
        data.insert(bridge::KEY.to_owned(), bridge::key(&place.installation, name, ""));
    }
    if !data.is_empty() {
        found.push(object(name.to_owned(), "Opaque", data));
    }
    let logins: Vec<(&PullLogin, &Secret)> = logins(spec).zip(&values.passwords).collect();
    if !logins.is_empty() {
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), config(&logins))]);
        found.push(object(pull_name(name), "kubernetes.io/dockerconfigjson", data));
    }
    found
}

/// The definition's logins at registries.
pub(crate) fn logins(spec: &Kubernetes) -> impl Iterator<Item = &PullLogin> {
    spec.image_pull_secrets.iter().filter_map(|secret| match secret {
        PullSecret::Login(login) => Some(login),
        PullSecret::Existing(_) => None,
    })
}

/// What the container runtime reads (`.docker/config.json`).
fn config(logins: &[(&PullLogin, &Secret)]) -> Secret {
    let mut auths = Map::new();
    for (login, password) in logins {
        let pair = [login.username.as_bytes(), b":", password.expose()].concat();
        let auth = json!({"username": login.username, "auth": STANDARD.encode(pair)});
        auths.insert(login.registry.clone(), auth);
    }
    Secret::new(Value::Object(Map::from_iter([("auths".to_owned(), Value::Object(auths))])).to_string())
}
