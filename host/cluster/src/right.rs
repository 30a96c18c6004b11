//! Whether somebody has a right in the cluster, as its own rules say.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use portcullis_model::{API_VERSION, Name};

use crate::{Cluster, ClusterError, access::TIMEOUT, error::Asked};

impl Cluster {
    /// Whether the group `who` may do `verb` to the thing `name` of our `resource` in a namespace. Needs the right to `create`
    /// `subjectaccessreviews`.
    ///
    /// # Errors
    /// Whatever kept the cluster from answering.
    pub async fn may(
        &self,
        who: &str,
        namespace: &Name,
        verb: &str,
        resource: &str,
        name: &str,
    ) -> Result<bool, ClusterError> {
        let asked = Asked { verb: "create", resource: "subjectaccessreviews.authorization.k8s.io", namespace: "-" };
        let (group, _) = API_VERSION.split_once('/').unwrap_or((API_VERSION, ""));
        let attributes = ResourceAttributes {
            namespace: Some(namespace.to_string()),
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            name: Some(name.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            // A review needs a user or a group; the group alone holds what is given here.
            groups: Some(vec![who.to_owned()]),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = tokio::time::timeout(TIMEOUT, api.create(&params, &review)).await.map_err(|_| asked.slow())?;
        let status = answer.map_err(|e| asked.refused(&e))?.status;
        Ok(status.is_some_and(|s| s.allowed && s.denied != Some(true)))
    }
}
