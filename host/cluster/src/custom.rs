//! Custom resources: what people write into the cluster, followed as it changes, and their status, written back.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    api::{DynamicObject, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use portcullis_model::{Kind, Name, text::shown};
use serde_json::{Value, json};

use crate::{Cluster, ClusterError, access::TIMEOUT, error::Asked};

/// The most objects of one kind and namespace.
pub const MAX_OBJECTS: usize = 10_000;
/// How many statuses are written at once.
pub(crate) const MAX_STATUSES: usize = 8;
/// Who writes the status, as the cluster keeps it.
const MANAGER: &str = "portcullis";
/// What the cluster says where it does not know: whoever wrote it before anybody applied it.
const BEFORE: &str = "before-first-apply";
/// The most characters of such a name; the cluster takes 128.
const MAX_MANAGER: usize = 128;
/// Labels and annotations of the cluster's own tools say nothing to us.
const TOOLS: [&str; 2] = ["kubernetes.io/", "k8s.io/"];

/// A custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Custom {
    /// Its kind.
    pub kind: Kind,
    /// Where it is.
    pub namespace: Name,
    /// Its name, which the cluster allows to be longer than ours.
    pub name: String,
    /// What tells it from another one of that name, made later.
    pub uid: String,
    /// Counts changes of its spec.
    pub generation: i64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What the program called itself that changed it last, ourselves left out; the cluster keeps no more than that of who it was.
    pub manager: Option<String>,
    /// Its spec.
    pub spec: Value,
    /// Its status as it stands in the cluster; null where there is none.
    pub status: Value,
}

/// What happened to the custom resources of a kind and a namespace.
#[derive(Clone, Debug)]
pub enum Event {
    /// These are all there are now.
    All(Vec<Custom>),
    /// This one is new, or another than it was.
    Is(Box<Custom>),
    /// The one of that name is gone.
    Gone(String),
    /// They can't be followed just now; it is tried again by itself. Those that were known are as good as what is known.
    Blind(ClusterError),
}

impl Cluster {
    /// Follows the custom resources of a kind in a namespace: first all of them, then each change. A watch that is cut goes on
    /// where it was; one that is too old begins anew with all. Asks for nothing while nothing changes, but for the watch itself,
    /// every five minutes.
    pub fn follow(self: &Arc<Self>, kind: Kind, namespace: &Name) -> impl Stream<Item = Event> + Send + use<> {
        let events = watcher(self.customs(kind, namespace), watcher::Config::default()).default_backoff();
        let namespace = namespace.clone();
        let start: (Vec<Custom>, bool) = (Vec::new(), false);
        let events = events.scan(start, move |(listed, over), event| {
            let read = |object| custom(kind, &namespace, object);
            let event = match event {
                Ok(watcher::Event::Init) => {
                    (*listed, *over) = (Vec::new(), false);
                    None
                }
                Ok(watcher::Event::InitApply(object)) => {
                    if listed.len() < MAX_OBJECTS {
                        listed.push(read(object));
                    } else {
                        *over = true;
                    }
                    None
                }
                // Half of them would look as if the others were gone.
                Ok(watcher::Event::InitDone) if *over => {
                    listed.clear();
                    let why = format!("there are more than {MAX_OBJECTS} {} in {namespace}", kind.plural());
                    Some(Event::Blind(ClusterError::Refused(why)))
                }
                Ok(watcher::Event::InitDone) => Some(Event::All(std::mem::take(listed))),
                Ok(watcher::Event::Apply(object)) => Some(Event::Is(Box::new(read(object)))),
                Ok(watcher::Event::Delete(object)) => object.metadata.name.map(Event::Gone),
                Err(error) => blind(kind, &namespace, &error).map(Event::Blind),
            };
            std::future::ready(Some(event))
        });
        events.filter_map(std::future::ready).chain(stream::pending())
    }

    /// Writes the status of a custom resource, unless it was made anew meanwhile.
    ///
    /// # Errors
    /// [`ClusterError::Missing`] and [`ClusterError::Conflict`] where it is gone or another one by now; else whatever kept the
    /// cluster from taking it.
    pub async fn set_status(&self, custom: &Custom, status: &Value) -> Result<(), ClusterError> {
        let resource = format!("{}.portcullis.dev/status", custom.kind.plural());
        let asked = Asked { verb: "patch", resource: &resource, namespace: custom.namespace.as_str() };
        let patch = json!({"metadata": {"uid": custom.uid}, "status": status});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let api = self.customs(custom.kind, &custom.namespace);
        let Ok(_turn) = self.writing.acquire().await else { return Err(asked.slow()) };
        let patch = Patch::Merge(&patch);
        let written = tokio::time::timeout(TIMEOUT, api.patch_status(&custom.name, &params, &patch));
        written.await.map_err(|_| asked.slow())?.map(drop).map_err(|e| asked.refused(&e))
    }
}

fn custom(kind: Kind, namespace: &Name, object: DynamicObject) -> Custom {
    let DynamicObject { metadata, mut data, .. } = object;
    let mut part = |name: &str| data.get_mut(name).map(Value::take).unwrap_or_default();
    Custom {
        kind,
        namespace: namespace.clone(),
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        labels: own(metadata.labels),
        annotations: own(metadata.annotations),
        manager: manager(metadata.managed_fields.unwrap_or_default()),
        spec: part("spec"),
        status: part("status"),
    }
}

/// Statuses are ours to write, and say nothing of who wrote the spec.
fn manager(fields: Vec<ManagedFieldsEntry>) -> Option<String> {
    let nobody = |name: &str| name == MANAGER || name == BEFORE;
    let others = fields.into_iter().filter(|f| f.subresource.is_none() && !f.manager.as_deref().is_none_or(nobody));
    let last = others.max_by(|a, b| a.time.cmp(&b.time))?;
    last.manager.map(|name| shown(&name, MAX_MANAGER))
}

fn own(words: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut words = words.unwrap_or_default();
    words.retain(|key, _| !TOOLS.iter().any(|tool| key.split_inclusive('/').next().is_some_and(|d| d.ends_with(tool))));
    words
}

/// What a failed watch means. None where it goes on by itself, as one does that ended in time or is too old.
fn blind(kind: Kind, namespace: &Name, error: &watcher::Error) -> Option<ClusterError> {
    let resource = format!("{}.portcullis.dev", kind.plural());
    let asked = |verb| Asked { verb, resource: &resource, namespace: namespace.as_str() };
    match error {
        watcher::Error::InitialListFailed(error) => Some(asked("list").refused(error)),
        watcher::Error::WatchStartFailed(error) => Some(asked("watch").refused(error)),
        watcher::Error::WatchError(status) if status.code == 410 => None,
        watcher::Error::WatchError(status) => Some(asked("watch").answered(status)),
        watcher::Error::WatchFailed(error) => {
            tracing::debug!(%error, %kind, %namespace, "a watch was cut; it goes on where it was");
            None
        }
        watcher::Error::NoResourceVersion => Some(ClusterError::Refused("it can't be watched".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A FAKE of the API server: answers of a status and a body, in turn, whatever is asked; the last one for ever.
    fn answering(answers: Vec<(u16, Value)>) -> Arc<Cluster> {
        let answers = std::sync::Mutex::new(std::collections::VecDeque::from(answers));
        let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
            let mut answers = answers.lock().unwrap();
            let (status, body) =
                if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.unwrap();
            let body = kube::client::Body::from(format!("{body}\n").into_bytes());
            let response = http::Response::builder().status(status).body(body);
            std::future::ready(response.map_err(std::io::Error::other))
        });
        Arc::new(Cluster::of(kube::Client::new(service, "ns")))
    }

    fn list(version: &str, names: &[&str]) -> (u16, Value) {
        let items: Vec<Value> = names.iter().map(|n| json!({"metadata": {"name": n, "uid": n}, "spec": {}})).collect();
        (
            200,
            json!({"kind": "UserList", "apiVersion": "portcullis.dev/v1alpha1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn failure(code: u16, message: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "X"})
    }

    /// The first events, each in a word.
    async fn events(answers: Vec<(u16, Value)>, count: usize) -> Vec<String> {
        let cluster = answering(answers);
        let events = cluster.follow(Kind::User, &"ns".parse().unwrap()).take(count);
        let told = events.map(|event| match event {
            Event::All(all) => all.into_iter().map(|c| c.name).collect::<Vec<_>>().join(" "),
            Event::Is(custom) => format!("is {}", custom.name),
            Event::Gone(name) => format!("gone {name}"),
            Event::Blind(why) => why.to_string(),
        });
        told.collect().await
    }

    #[tokio::test]
    async fn a_watch_that_is_too_old_begins_anew_with_all() {
        let expired = (200, json!({"type": "ERROR", "object": failure(410, "too old resource version")}));
        let changed = json!({"type": "MODIFIED", "object": {"apiVersion": "portcullis.dev/v1alpha1", "kind": "User", "metadata": {"name": "alice", "uid": "alice", "resourceVersion": "21"}}});
        let answers = vec![list("10", &["alice", "bob"]), expired, list("20", &["alice"]), (200, changed)];
        assert_eq!(events(answers, 3).await, ["alice bob", "alice", "is alice"]);
    }

    #[tokio::test]
    async fn what_keeps_it_from_following_is_said_and_it_goes_on_after() {
        let answers = vec![
            (403, failure(403, "users.portcullis.dev is forbidden")),
            (429, failure(429, "slow down")),
            (404, failure(404, "page not found")),
            list("1", &["alice"]),
            list("1", &[]),
        ];
        let told = events(answers, 4).await;
        assert!(told[0].contains("may not list users.portcullis.dev in the namespace ns"), "{told:?}");
        assert!(told[1].contains("busy") && told[2].contains("the cluster has no users.portcullis.dev"), "{told:?}");
        assert_eq!(told[3], "alice");
    }

    #[test]
    fn what_the_clusters_tools_note_is_left_out() {
        let object = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "User",
            "metadata": {
                "name": "alice", "uid": "u", "generation": 3, "resourceVersion": "9",
                "labels": {"app.kubernetes.io/name": "x", "team": "blue"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note.example/kubernetes.io": "y"},
            },
            "spec": {"displayName": "Alice"},
        });
        let custom = custom(Kind::User, &"ns".parse().unwrap(), serde_json::from_value(object).unwrap());
        assert_eq!((custom.name.as_str(), custom.generation), ("alice", 3));
        assert_eq!(custom.labels.into_keys().collect::<Vec<_>>(), ["team"]);
        assert_eq!(custom.annotations.into_keys().collect::<Vec<_>>(), ["note.example/kubernetes.io"]);
        assert_eq!((custom.spec, custom.status), (json!({"displayName": "Alice"}), Value::Null));
    }
}
