//! The server setting `kubernetes`.

use std::{collections::BTreeMap, path::PathBuf};

use portcullis_model::{DEFAULT_TENANT, Name};
use serde::Deserialize;

/// Which cluster, who we are there, and what of it is ours.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// A kubeconfig; the pod's own service account where left out.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one where left out.
    pub context: Option<String>,
    /// The namespace that is ours; the pod's, or the context's, where left out.
    pub namespace: Option<Name>,
    /// Whose Secrets resources of a tenant may name. A tenant that is not here may name none, but for the default one, which
    /// may name those of our own namespace. The first namespace stands where a resource names none.
    pub secrets: BTreeMap<Name, Vec<Name>>,
    /// Namespaces whose custom resources are taken; none where left out.
    pub resources: Vec<Namespace>,
}

/// A namespace whose custom resources are taken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Namespace {
    /// The namespace.
    pub namespace: Name,
    /// The tenant that they belong to; the namespace's name where left out.
    #[serde(default)]
    pub tenant: Option<Name>,
    /// Lets them name what is on the gateway's own machine: its files, its variables, and processes that it runs. Whoever may
    /// write them can then read what the gateway can.
    #[serde(default)]
    pub allow_local: bool,
}

impl Namespace {
    /// The tenant that its resources belong to.
    pub fn tenant(&self) -> &Name {
        self.tenant.as_ref().unwrap_or(&self.namespace)
    }
}

impl Options {
    /// What is wrong with them, in words for operators.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.context.is_some() && self.kubeconfig.is_none() {
            return Err("kubernetes.context needs kubernetes.kubeconfig".to_owned());
        }
        if self.secrets.values().any(Vec::is_empty) {
            return Err(
                "kubernetes.secrets: a tenant needs a namespace at least; leave it out to give it none".to_owned()
            );
        }
        let mut seen = std::collections::BTreeSet::new();
        match self.resources.iter().find(|n| !seen.insert(&n.namespace)) {
            Some(twice) => Err(format!("kubernetes.resources: {} is there twice", twice.namespace)),
            None => Ok(()),
        }
    }

    /// The namespace in which a resource of `tenant` means a Secret when it names `wanted`; our own is `own`.
    ///
    /// # Errors
    /// A sentence, where it may not.
    pub fn secret_namespace(&self, tenant: &Name, wanted: Option<&Name>, own: &Name) -> Result<Name, String> {
        let ours = std::slice::from_ref(own);
        let may = match self.secrets.get(tenant) {
            Some(namespaces) => &namespaces[..],
            None if tenant.as_str() == DEFAULT_TENANT => ours,
            None => &[],
        };
        match wanted.or(may.first()) {
            Some(namespace) if may.contains(namespace) => Ok(namespace.clone()),
            Some(namespace) => Err(format!(
                "resources of the tenant {tenant} may not name Secrets of the namespace {namespace}: add it to `kubernetes.secrets`"
            )),
            None => {
                Err(format!("resources of the tenant {tenant} may name no Secrets: add it to `kubernetes.secrets`"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_tenant_names_secrets_of_its_own_namespaces_only() {
        let secrets = [(name("acme"), vec![name("acme-a"), name("acme-b")])].into();
        let options = Options { secrets, ..Options::default() };
        let where_ = |tenant: &str, wanted: Option<&str>| {
            let wanted = wanted.map(name);
            options.secret_namespace(&name(tenant), wanted.as_ref(), &name("own")).ok().map(|n| n.to_string())
        };
        assert_eq!(where_("default", None).as_deref(), Some("own"));
        assert_eq!(where_("default", Some("own")).as_deref(), Some("own"));
        assert_eq!(where_("acme", None).as_deref(), Some("acme-a"));
        assert_eq!(where_("acme", Some("acme-b")).as_deref(), Some("acme-b"));
        for (tenant, wanted) in
            [("default", Some("kube-system")), ("acme", Some("own")), ("other", None), ("other", Some("own"))]
        {
            assert_eq!(where_(tenant, wanted), None, "{tenant} {wanted:?}");
        }
        let given = [(name("default"), vec![name("shared")])].into();
        let options = Options { secrets: given, ..Options::default() };
        assert!(options.secret_namespace(&name("default"), Some(&name("own")), &name("own")).is_err(), "given is all");
    }
}
