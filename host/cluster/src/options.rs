//! The server setting `kubernetes`.

use std::{collections::BTreeMap, path::PathBuf};

use portcullis_model::{DEFAULT_TENANT, Name, spec::is_network};
use portcullis_workload::BridgeImage;
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
    /// Where servers run that are to run in the cluster; nowhere where left out.
    pub servers: Option<Servers>,
}

/// Where servers run, and who may call them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Servers {
    /// The namespace; our own where left out. Whoever may make pods in it can read the values of every connection whose server runs
    /// there.
    pub namespace: Option<Name>,
    /// Namespaces of tenants that have one of their own.
    pub tenants: BTreeMap<Name, Name>,
    /// Who may call the servers, as their NetworkPolicies say it.
    pub callers: Callers,
    /// What is put before servers that speak on standard input and output; none of them is run where left out.
    pub bridge: Option<BridgeImage>,
    /// Registries that are reached otherwise than over https on the public internet, where what an image starts has to be asked.
    pub registries: Vec<RegistryReach>,
}

/// A registry that is reached in its own way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryReach {
    /// Its host, with its port where images name one.
    pub host: String,
    /// Whether its name may lead to the own network.
    #[serde(default)]
    pub private: bool,
    /// Whether it is asked over http. On loopback this is so where left out.
    #[serde(default)]
    pub plain_http: Option<bool>,
}

/// Who may call servers that run in the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Callers {
    /// Labels of the gateways' pods in our own namespace.
    pub labels: BTreeMap<String, String>,
    /// Networks of gateways that run outside the cluster.
    pub networks: Vec<String>,
}

impl Default for Callers {
    fn default() -> Self {
        let labels = BTreeMap::from([("app.kubernetes.io/name".to_owned(), "portcullis".to_owned())]);
        Self { labels, networks: Vec::new() }
    }
}

impl Servers {
    /// The namespace of a tenant's servers; our own is `own`.
    pub fn namespace_of<'a>(&'a self, tenant: &Name, own: &'a Name) -> &'a Name {
        self.tenants.get(tenant).or(self.namespace.as_ref()).unwrap_or(own)
    }

    /// Every namespace in which servers may run.
    pub fn namespaces(&self, own: &Name) -> Vec<Name> {
        let mut all: Vec<Name> = self.tenants.values().cloned().collect();
        all.push(self.namespace.clone().unwrap_or_else(|| own.clone()));
        all.sort();
        all.dedup();
        all
    }
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
        let callers = self.servers.as_ref().map(|servers| &servers.callers);
        if callers.is_some_and(|callers| callers.labels.is_empty()) {
            return Err(
                "kubernetes.servers.callers.labels: must not be empty, or every pod of our namespace could call"
                    .to_owned(),
            );
        }
        if let Some(bad) = callers.into_iter().flat_map(|c| &c.networks).find(|network| !is_network(network)) {
            return Err(format!("kubernetes.servers.callers.networks: {bad} is no network such as 203.0.113.7/32"));
        }
        let bridge = self.servers.as_ref().and_then(|servers| servers.bridge.as_ref());
        if bridge.is_some_and(|bridge| bridge.image.is_empty() || !bridge.image.bytes().all(|b| b.is_ascii_graphic())) {
            return Err("kubernetes.servers.bridge.image: must name an image".to_owned());
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
