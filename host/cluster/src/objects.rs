//! Objects of servers that run in the cluster: applied, followed, deleted; their pods' logs.
//!
//! Applied server-side under a field manager of our own, so that what others set beside it stays theirs.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{AsyncReadExt as _, Stream, StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, LogParams, Patch, PatchParams, PropagationPolicy},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher},
};
use portcullis_model::Name;
use portcullis_workload::{Inherited, Object, ObjectKind};
use serde_json::{Value, json};

use crate::{Cluster, ClusterError, access::TIMEOUT, custom::MAX_OBJECTS, error::Asked};

/// Who owns the fields that are applied.
const MANAGER: &str = "portcullis-servers";
/// How much of a log is read at once.
const CHUNK: usize = 16 << 10;

/// An object as it is in the cluster.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// What tells it from another one of that name.
    pub uid: String,
    /// Changes with everything of it.
    pub version: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The object; of a Secret its metadata alone.
    pub body: Value,
}

impl Live {
    /// Whether it is on its way out.
    pub fn is_going(&self) -> bool {
        !self.body["metadata"]["deletionTimestamp"].is_null()
    }

    /// Of an object as the API server sends it.
    fn of(kind: ObjectKind, object: DynamicObject) -> Self {
        let DynamicObject { metadata, data, .. } = object;
        let (name, uid) = (metadata.name.clone().unwrap_or_default(), metadata.uid.clone().unwrap_or_default());
        let (version, labels) = (metadata.resource_version.clone(), metadata.labels.clone());
        // What was set by whom is long, and says nothing here.
        let metadata = kube::api::ObjectMeta { managed_fields: None, ..metadata };
        let mut body = if kind == ObjectKind::Secret { json!({}) } else { data };
        body["metadata"] = serde_json::to_value(metadata).unwrap_or_default();
        Self { kind, name, uid, version: version.unwrap_or_default(), labels: labels.unwrap_or_default(), body }
    }
}

/// What happened to the objects of a kind.
#[derive(Clone, Debug)]
pub enum Sight {
    /// These are all there are now.
    All(Vec<Live>),
    /// This one is new, or another than it was.
    Is(Box<Live>),
    /// The one of that name is gone.
    Gone(String),
    /// They can't be followed just now; it is tried again by itself.
    Blind(ClusterError),
}

impl Cluster {
    /// Follows the objects of a kind that a label selector finds: first all of them, then each change. Of Secrets nothing but the
    /// metadata is asked for.
    pub fn sight(
        self: &Arc<Self>,
        kind: ObjectKind,
        namespace: &Name,
        selector: &str,
    ) -> impl Stream<Item = Sight> + Send + use<> {
        let config = watcher::Config::default().labels(selector);
        let events = if kind == ObjectKind::Secret {
            let whole = |meta: PartialObjectMeta<DynamicObject>| DynamicObject {
                types: None,
                metadata: meta.metadata,
                data: Value::Null,
            };
            let api = self.objects::<PartialObjectMeta<DynamicObject>>(kind, namespace);
            watcher(api, config).map(move |event| event.map(|event| of_meta(event, whole))).boxed()
        } else {
            watcher(self.objects::<DynamicObject>(kind, namespace), config).boxed()
        };
        let namespace = namespace.clone();
        let start: (Vec<Live>, bool) = (Vec::new(), false);
        let sights = events.default_backoff().scan(start, move |(listed, over), event| {
            let sight = match event {
                Ok(watcher::Event::Init) => {
                    (*listed, *over) = (Vec::new(), false);
                    None
                }
                Ok(watcher::Event::InitApply(object)) => {
                    if listed.len() < MAX_OBJECTS {
                        listed.push(Live::of(kind, object));
                    } else {
                        *over = true;
                    }
                    None
                }
                // Half of them would look as if the others were gone.
                Ok(watcher::Event::InitDone) if *over => {
                    listed.clear();
                    let why = format!("there are more than {MAX_OBJECTS} {} of ours in {namespace}", kind.plural());
                    Some(Sight::Blind(ClusterError::Refused(why)))
                }
                Ok(watcher::Event::InitDone) => Some(Sight::All(std::mem::take(listed))),
                Ok(watcher::Event::Apply(object)) => Some(Sight::Is(Box::new(Live::of(kind, object)))),
                Ok(watcher::Event::Delete(object)) => object.metadata.name.map(Sight::Gone),
                Err(error) => blind(kind, &namespace, &error).map(Sight::Blind),
            };
            std::future::ready(Some(sight))
        });
        sights.filter_map(std::future::ready).chain(stream::pending())
    }

    /// Applies an object, with what it belongs to: name and uid of a ServiceAccount. With `try_only` the cluster says what it would
    /// do, and does nothing.
    ///
    /// # Errors
    /// Whatever kept the cluster from taking it; a right that is missing is named.
    pub async fn apply(
        &self,
        namespace: &Name,
        object: &Object,
        owner: Option<(&str, &str)>,
        try_only: bool,
    ) -> Result<Live, ClusterError> {
        let mut body = object.body.clone();
        if let Some((name, uid)) = owner {
            body["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "v1", "kind": "ServiceAccount", "name": name, "uid": uid}]);
        }
        if !object.data.is_empty() {
            // An exit of secrets: into the Secret that their pods read.
            let data = object.data.iter().map(|(key, value)| (key.clone(), json!(STANDARD.encode(value.expose()))));
            body["data"] = Value::Object(data.collect());
        }
        let params = PatchParams { dry_run: try_only, force: true, ..PatchParams::apply(MANAGER) };
        let asked = self.asked("patch", object.kind, namespace);
        let api = self.objects::<DynamicObject>(object.kind, namespace);
        let patch = Patch::Apply(&body);
        let applied = tokio::time::timeout(TIMEOUT, api.patch(&object.name, &params, &patch)).await;
        applied.map_err(|_| asked.slow())?.map(|o| Live::of(object.kind, o)).map_err(|e| asked.refused(&e))
    }

    /// Changes an object that is there, by a JSON merge patch (RFC 7396).
    ///
    /// # Errors
    /// [`ClusterError::Missing`] where it is gone; else whatever kept the cluster from taking it.
    pub async fn change(
        &self,
        namespace: &Name,
        kind: ObjectKind,
        name: &str,
        patch: &Value,
    ) -> Result<(), ClusterError> {
        let asked = self.asked("patch", kind, namespace);
        let params = PatchParams { field_manager: Some(format!("{MANAGER}-operator")), ..PatchParams::default() };
        let api = self.objects::<DynamicObject>(kind, namespace);
        let patch = Patch::Merge(patch);
        let changed = tokio::time::timeout(TIMEOUT, api.patch(name, &params, &patch)).await;
        changed.map_err(|_| asked.slow())?.map(drop).map_err(|e| asked.refused(&e))
    }

    /// Deletes an object, and in the background what belongs to it. One that is gone already is no error.
    ///
    /// # Errors
    /// Whatever kept the cluster from it.
    pub async fn delete(&self, namespace: &Name, kind: ObjectKind, name: &str, uid: &str) -> Result<(), ClusterError> {
        let asked = self.asked("delete", kind, namespace);
        // Not one that was made anew meanwhile.
        let only = kube::api::Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(only),
            ..DeleteParams::default()
        };
        let api = self.objects::<DynamicObject>(kind, namespace);
        let deleted = tokio::time::timeout(TIMEOUT, api.delete(name, &params)).await.map_err(|_| asked.slow())?;
        match deleted.map_err(|e| asked.refused(&e)) {
            Ok(_) | Err(ClusterError::Missing(_) | ClusterError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The last lines of a pod's log, as bytes as they come; of the container before this one with `previous`, and on and on with
    /// `follow`.
    ///
    /// # Errors
    /// Whatever kept the cluster from it.
    pub async fn log(
        &self,
        namespace: &Name,
        pod: &str,
        container: &str,
        (lines, follow, previous): (usize, bool, bool),
    ) -> Result<impl Stream<Item = std::io::Result<Vec<u8>>> + Send + use<>, ClusterError> {
        let asked = Asked { verb: "get", resource: "pods/log", namespace: namespace.as_str() };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace.as_str());
        let params = LogParams {
            container: Some(container.to_owned()),
            follow,
            previous,
            tail_lines: Some(i64::try_from(lines).unwrap_or(i64::MAX)),
            ..LogParams::default()
        };
        let opened = tokio::time::timeout(TIMEOUT, api.log_stream(pod, &params)).await.map_err(|_| asked.slow())?;
        let log = Box::pin(opened.map_err(|e| asked.refused(&e))?);
        Ok(stream::unfold(Some(log), |log| async move {
            let mut log = log?;
            let mut chunk = vec![0; CHUNK];
            match log.read(&mut chunk).await {
                Ok(0) => None,
                Ok(read) => {
                    chunk.truncate(read);
                    Some((Ok(chunk), Some(log)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// What pods inherit from the gateway's own pod, which is named by the machine's name. Needs the right to `get` it.
    ///
    /// # Errors
    /// Whatever kept the cluster from answering.
    pub async fn inherited(&self, pod: &str) -> Result<Inherited, ClusterError> {
        let namespace = self.own_namespace();
        let asked = self.asked("get", ObjectKind::Pod, namespace);
        let api = self.objects::<DynamicObject>(ObjectKind::Pod, namespace);
        let found = tokio::time::timeout(TIMEOUT, api.get(pod)).await.map_err(|_| asked.slow())?;
        let pod = found.map_err(|e| asked.refused(&e))?;
        let mut inherited: Inherited = serde_json::from_value(json!({
            "nodeSelector": pod.data["spec"].get("nodeSelector").cloned().unwrap_or(json!({})),
            "tolerations": pod.data["spec"].get("tolerations").cloned().unwrap_or(json!([])),
        }))
        .map_err(|e| ClusterError::Refused(format!("the gateway's pod can't be read: {e}")))?;
        // The cluster gives these to every pod.
        let of_all = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
        inherited
            .tolerations
            .retain(|t| t.toleration_seconds.is_none() || !t.key.as_deref().is_some_and(|key| of_all.contains(&key)));
        Ok(inherited)
    }

    fn objects<K>(&self, kind: ObjectKind, namespace: &Name) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = kube::core::DynamicResourceScope>,
    {
        let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: kind.api_version().to_owned(),
            kind: kind.as_str().to_owned(),
            plural: kind.plural().to_owned(),
        };
        Api::namespaced_with(self.client.clone(), namespace.as_str(), &resource)
    }

    fn asked<'a>(&self, verb: &'static str, kind: ObjectKind, namespace: &'a Name) -> Asked<'a> {
        Asked { verb, resource: resource(kind), namespace: namespace.as_str() }
    }
}

/// As RBAC names it.
fn resource(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Deployment => "deployments.apps",
        ObjectKind::NetworkPolicy => "networkpolicies.networking.k8s.io",
        ObjectKind::ServiceAccount | ObjectKind::Secret | ObjectKind::Service | ObjectKind::Pod => kind.plural(),
    }
}

fn of_meta<A, B>(event: watcher::Event<A>, whole: impl Fn(A) -> B) -> watcher::Event<B> {
    match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(whole(object)),
        watcher::Event::Delete(object) => watcher::Event::Delete(whole(object)),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(whole(object)),
        watcher::Event::InitDone => watcher::Event::InitDone,
    }
}

/// What a failed watch means. None where it goes on by itself, as one does that ended in time or is too old.
fn blind(kind: ObjectKind, namespace: &Name, error: &watcher::Error) -> Option<ClusterError> {
    let asked = |verb| Asked { verb, resource: resource(kind), namespace: namespace.as_str() };
    match error {
        watcher::Error::InitialListFailed(error) => Some(asked("list").refused(error)),
        watcher::Error::WatchStartFailed(error) => Some(asked("watch").refused(error)),
        watcher::Error::WatchError(status) if status.code == 410 => None,
        watcher::Error::WatchError(status) => Some(asked("watch").answered(status)),
        watcher::Error::WatchFailed(error) => {
            tracing::debug!(%error, kind = kind.as_str(), %namespace, "a watch was cut; it goes on where it was");
            None
        }
        watcher::Error::NoResourceVersion => Some(ClusterError::Refused("it can't be watched".to_owned())),
    }
}
