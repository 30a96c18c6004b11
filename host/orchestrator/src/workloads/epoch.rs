//! Epochs: what changes with each restart of a workload, and what a bridge has to prove by that.
//!
//! An operator's restart is written at the Deployment. Whoever applies makes the Secret one of that epoch first, and the pods after, so
//! that each pod finds the key of its own epoch; and since each pod says of which it is, both are known while one goes and the other comes.

use std::{collections::BTreeMap, net::IpAddr};

use portcullis_cluster::Live;
use portcullis_model::Secret;
use portcullis_workload::{
    Installation, Object, ObjectKind,
    bridge::{EPOCH, key, stamp},
};
use serde_json::json;

/// How an object is applied now, beside what is wished of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// How many pods there should be.
    pub(super) replicas: u32,
    pub(super) epoch: String,
}

impl Turn {
    /// What of it says something of an object of this kind.
    pub(super) fn of(&self, kind: ObjectKind) -> Self {
        match kind {
            ObjectKind::Deployment => self.clone(),
            ObjectKind::Secret => Self { replicas: 0, epoch: self.epoch.clone() },
            _ => Self::default(),
        }
    }

    /// The object as it is applied now. `workload` is the name of its workload.
    pub(super) fn object(&self, object: &Object, installation: &Installation, workload: &str) -> Object {
        let mut object = object.clone();
        if object.kind == ObjectKind::Deployment {
            object.body["spec"]["replicas"] = json!(self.replicas);
        }
        stamp(&mut object, installation, workload, &self.epoch);
        object
    }
}

/// The epoch that a Deployment should have, or that a pod has.
pub(super) fn of(live: Option<&Live>) -> String {
    let found = live.map(|live| &live.body["metadata"]["annotations"][EPOCH]);
    found.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// The epochs of a workload's pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Epochs {
    /// That of whatever is started from now on.
    now: String,
    /// Those of pods, by their addresses.
    pods: BTreeMap<IpAddr, String>,
}

impl Epochs {
    pub(super) fn of<'p>(deployment: Option<&Live>, pods: impl Iterator<Item = &'p Live>) -> Self {
        let address = |pod: &Live| pod.body["status"]["podIP"].as_str()?.parse().ok();
        Self {
            now: of(deployment),
            pods: pods.filter(|pod| !pod.is_going()).filter_map(|pod| Some((address(pod)?, of(Some(pod))))).collect(),
        }
    }

    /// The keys of which whoever serves at an address has to hold one: none, where no pod of the workload is there any more. A container
    /// that was started anew while its pod's epoch went has the key of the new one.
    pub(super) fn keys(&self, installation: &Installation, workload: &str, at: IpAddr) -> Vec<Secret> {
        let Some(epoch) = self.pods.get(&at.to_canonical()) else { return Vec::new() };
        let mut epochs = vec![epoch];
        epochs.extend((*epoch != self.now).then_some(&self.now));
        epochs.into_iter().map(|epoch| key(installation, workload, epoch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn live(kind: ObjectKind, body: Value) -> Live {
        Live { kind, name: "w".into(), uid: "u".into(), version: "1".into(), labels: BTreeMap::new(), body }
    }

    fn pod(at: &str, epoch: Value, going: bool) -> Live {
        let mut metadata = json!({"annotations": {EPOCH: epoch}});
        if going {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        live(ObjectKind::Pod, json!({"metadata": metadata, "status": {"podIP": at}}))
    }

    #[test]
    fn each_pod_has_the_key_of_its_epoch_and_nobody_else_has_one() {
        let installation = Installation::new(Secret::new("i"));
        let deployment = live(ObjectKind::Deployment, json!({"metadata": {"annotations": {EPOCH: "2"}}}));
        let pods = [
            pod("10.0.0.1", json!("1"), false),
            pod("10.0.0.2", json!("2"), false),
            pod("10.0.0.3", Value::Null, false),
            pod("10.0.0.4", json!("2"), true),
        ];
        let epochs = Epochs::of(Some(&deployment), pods.iter());
        let held = |at: &str| -> Vec<Vec<u8>> {
            epochs.keys(&installation, "w", at.parse().unwrap()).iter().map(|key| key.expose().to_vec()).collect()
        };
        let key = |epoch: &str| key(&installation, "w", epoch).expose().to_vec();
        assert_eq!(held("10.0.0.1"), [key("1"), key("2")]);
        assert_eq!(held("10.0.0.2"), [key("2")]);
        assert_eq!(held("::ffff:10.0.0.2"), [key("2")]);
        assert_eq!(held("10.0.0.3"), [key(""), key("2")]);
        for nobody in ["10.0.0.4", "10.0.0.5"] {
            assert!(held(nobody).is_empty(), "{nobody} is nobody's, or may be somebody else's in a moment");
        }
    }

    #[test]
    fn a_turn_says_something_of_what_it_changes_only() {
        let turn = Turn { replicas: 3, epoch: "e".into() };
        assert_eq!(turn.of(ObjectKind::Deployment), turn);
        assert_eq!(turn.of(ObjectKind::Secret), Turn { replicas: 0, epoch: "e".into() });
        assert_eq!(turn.of(ObjectKind::Service), Turn::default());
    }
}
