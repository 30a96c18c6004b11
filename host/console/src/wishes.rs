//! What is to run in the cluster: every server of that kind, or each connection of it, with what the connection brings.

use std::sync::Arc;

use portcullis_credential::ConnectionBook;
use portcullis_model::{
    Name, Spec,
    spec::{Kubernetes, McpServer},
};
use portcullis_orchestrator::Wish;
use portcullis_store::Fleet;
use portcullis_workload::{Identity, Values};

/// Everything that is to run. Blocks while reading files that hold passwords.
pub fn all(fleet: &Fleet, book: &ConnectionBook) -> Vec<Wish> {
    let servers = fleet.iter().filter_map(|(key, resource)| match &resource.spec {
        Spec::McpServer(server) if server.kubernetes.is_some() => Some((key, Arc::new(server.clone()))),
        _ => None,
    });
    servers.flat_map(|(key, server)| of(&key.tenant, &key.name, &server, book)).collect()
}

/// What is to run of a server: one for each connection that brings something, else one for all. Blocks as [`all`] does.
pub fn of(tenant: &Name, name: &Name, server: &Arc<McpServer>, book: &ConnectionBook) -> Vec<Wish> {
    let identity = |connection: Option<Name>| Identity { tenant: tenant.clone(), server: name.clone(), connection };
    let passwords = passwords(tenant, server.kubernetes.as_ref(), book);
    let wish = |connection: Option<Name>, values: Result<Values, String>| Wish {
        identity: identity(connection),
        server: Arc::clone(server),
        values: values.and_then(|values| Ok(Values { passwords: passwords.clone()?, ..values })),
    };
    if !server.child_per_connection() {
        return vec![wish(None, Ok(Values::default()))];
    }
    let brought = book.brought(tenant, name, server).into_iter();
    brought
        .map(|(connection, carried)| {
            let values = carried.map(|carried| Values {
                values: carried.values,
                env: carried.env,
                arguments: carried.arguments,
                files: carried.files,
                passwords: Vec::new(),
                startup: None,
            });
            wish(Some(connection), values)
        })
        .collect()
}

fn passwords(
    tenant: &Name,
    spec: Option<&Kubernetes>,
    book: &ConnectionBook,
) -> Result<Vec<portcullis_model::Secret>, String> {
    let sources = spec.into_iter().flat_map(Kubernetes::passwords);
    let read = |source| book.read(tenant, source).map_err(|why| format!("imagePullSecrets: {why}"));
    sources.map(read).collect()
}
