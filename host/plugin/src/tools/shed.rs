//! Servers' resources become toolboxes: the component is fetched and believed as a plugin's is, and gets what it was granted and what the
//! connection holds.

use std::{collections::BTreeMap, sync::Arc};

use portcullis_model::{
    Name, Secret,
    spec::{ComponentServer, Isolation},
};
use portcullis_package::Packages;

use super::Toolbox;
use crate::{GrantedSecret, Host, LoadPlan, SecretReader, Services, distribution};

/// Where toolboxes come from.
pub struct Toolshed {
    host: Arc<Host>,
    services: Services,
    packages: Arc<Packages>,
}

impl std::fmt::Debug for Toolshed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toolshed").finish_non_exhaustive()
    }
}

impl Toolshed {
    /// On this host, with what the house does for plugins, and the same keys that components have to be signed with.
    pub fn new(host: Arc<Host>, services: Services, packages: Arc<Packages>) -> Self {
        Self { host, services, packages }
    }

    /// The tools of a server, with a connection's secrets by the names that the component asks for.
    ///
    /// # Errors
    /// In words for operators.
    pub async fn load(
        &self,
        tenant: &Name,
        name: &Name,
        server: &ComponentServer,
        connection: &[(String, Secret)],
    ) -> Result<Arc<Toolbox>, String> {
        let secrets = self.services.secrets.as_deref();
        let believed =
            distribution::fetch(Some(&*self.packages), secrets, tenant, &server.source, self.host.max_component)
                .await?;
        let component = self.host.compile_tools(Arc::clone(&believed.wasm)).await.map_err(|error| error.to_string())?;
        let plan = LoadPlan {
            name: format!("server/{name}"),
            tenant: tenant.clone(),
            component,
            config: server.config.as_ref().map_or_else(|| "{}".to_owned(), ToString::to_string),
            grants: server.grants.clone(),
            secrets: granted(tenant, server, connection, secrets)?,
            limits: server.limits.of_plugin(),
            isolation: Isolation::Call,
            services: self.services.clone(),
        };
        self.host.toolbox(plan, &believed.wasm).await.map_err(|error| error.to_string())
    }
}

/// What the component may ask for by name: what the operator granted, and what the connection holds. Both go only where the component
/// may send requests at all.
fn granted(
    tenant: &Name,
    server: &ComponentServer,
    connection: &[(String, Secret)],
    reader: Option<&dyn SecretReader>,
) -> Result<BTreeMap<String, GrantedSecret>, String> {
    let mut secrets = BTreeMap::new();
    for (name, grant) in &server.grants.secrets {
        let value = reader.ok_or("secrets can't be read here")?.read(tenant, &grant.from)?;
        let origins = if grant.origins.is_empty() { &server.grants.http } else { &grant.origins };
        secrets.insert(name.clone(), GrantedSecret { value, origins: origins.clone() });
    }
    for (name, value) in connection {
        let granted = GrantedSecret { value: value.clone(), origins: server.grants.http.clone() };
        if secrets.insert(name.clone(), granted).is_some() {
            return Err(format!("the secret {name} is both granted and placed by the connection"));
        }
    }
    Ok(secrets)
}
