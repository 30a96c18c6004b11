//! Who may call a workload, whom it may call, and where it is reached.

use portcullis_model::spec::{Egress, Kubernetes};
use serde_json::{Map, Value, json};

use crate::{Place, name::WORKLOAD};

/// Networks that are not of the public internet: `0.0.0.0/0` and `::/0` don't mean them. Cloud metadata is among them.
const OWN: [(&str, &[&str]); 2] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"]),
    ("::/0", &["::1/128", "64:ff9b::/96", "fc00::/7", "fe80::/10"]),
];

/// A NetworkPolicy's part: in from the callers, out to what is declared, and nothing else.
pub(crate) fn policy(place: &Place, name: &str, spec: &Kubernetes) -> Map<String, Value> {
    let ingress = if place.callers.is_empty() {
        // A rule without `from` would let everybody in.
        json!([])
    } else {
        json!([{"from": place.callers, "ports": [{"protocol": "TCP", "port": spec.port}]}])
    };
    let mut egress: Vec<Value> = spec.egress.iter().map(rule).collect();
    if !egress.is_empty() {
        // Names have to be looked up.
        let dns = json!({
            "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
            "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
        });
        egress.push(dns);
    }
    let spec = json!({
        "podSelector": {"matchLabels": {WORKLOAD: name}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    });
    Map::from_iter([("spec".to_owned(), spec)])
}

fn rule(egress: &Egress) -> Value {
    let mut block = json!({"cidr": egress.cidr});
    if let Some((_, own)) = OWN.iter().find(|(all, _)| *all == egress.cidr) {
        block["except"] = json!(own);
    }
    let ports: Vec<Value> = egress.ports.iter().map(|port| json!({"protocol": "TCP", "port": port})).collect();
    json!({"to": [{"ipBlock": block}], "ports": ports})
}

/// A Service's part. One gateway is always led to the same pod, since a server of the 2025 revisions knows its sessions in one.
pub(crate) fn service(name: &str, spec: &Kubernetes) -> Map<String, Value> {
    let spec = json!({
        "type": "ClusterIP",
        "selector": {WORKLOAD: name},
        "sessionAffinity": "ClientIP",
        "ports": [{"name": "mcp", "protocol": "TCP", "port": spec.port, "targetPort": spec.port}],
    });
    Map::from_iter([("spec".to_owned(), spec)])
}
