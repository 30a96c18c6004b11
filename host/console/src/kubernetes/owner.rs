//! Whether a custom resource may say whose a connection is (security.md 23).
//!
//! Who wrote a custom resource, the cluster tells nobody afterwards. So the right belongs to the namespace: whoever may write
//! its custom resources may name the owners that RBAC there lets the group `portcullis.dev:writers` impersonate. The cluster
//! itself sees to it that only somebody with that right can give it on.

use portcullis_cluster::{Cluster, Custom};
use portcullis_model::{Door, Name, Resource, ResourceKey, Spec, spec::Owner};
use portcullis_store::Fleet;

use super::read::Refusal;

/// Who the writers of a namespace are for RBAC.
pub(super) const WRITERS: &str = "portcullis.dev:writers";

/// The owner that a connection is to have, where that is to be asked: it is new, or another than the one that this custom
/// resource gave it before.
pub(super) fn asked<'r>(fleet: &Fleet, key: &ResourceKey, door: &Door, resource: &'r Resource) -> Option<&'r Owner> {
    let Spec::Connection(connection) = &resource.spec else { return None };
    let before = fleet.get(key).filter(|r| r.metadata.door.as_ref() == Some(door));
    let same = before.is_some_and(|r| matches!(&r.spec, Spec::Connection(c) if c.owner == connection.owner));
    (!same).then_some(&connection.owner)
}

/// Whether the writers of the custom resource's namespace may name this owner.
///
/// # Errors
/// What to grant, or what kept the cluster from answering.
pub(super) async fn may_name(cluster: &Cluster, custom: &Custom, tenant: &Name, owner: &Owner) -> Result<(), Refusal> {
    let (resource, name) = match owner {
        Owner::User(name) => ("users", name),
        Owner::Team(name) => ("teams", name),
        Owner::Agent(name) => ("agents", name),
        Owner::Organization(_) => ("organizations", tenant),
    };
    match cluster.may(WRITERS, &custom.namespace, "impersonate", resource, name.as_str()).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::not_allowed(format!(
            "spec.owner: whoever writes custom resources in the namespace {} may not name this owner: give the group \"{WRITERS}\" the verb \"impersonate\" on {resource}.portcullis.dev \"{name}\" there, by a Role and a RoleBinding",
            custom.namespace
        ))),
        Err(error) => Err(Refusal {
            reason: "NotChecked",
            message: format!("spec.owner: whether this owner may be named can't be asked: {error}"),
        }),
    }
}
