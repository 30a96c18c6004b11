//! Phase 8, pick: the peer of a server under the account that a call carries.

use std::sync::Arc;

use portcullis_credential::Carried;
use portcullis_upstream::{
    Account, Endpoint, LaunchSpec, Peer, SecretFile, Target, TargetKey, UpstreamError, Upstreams,
};

use crate::view::{Assigned, Reach, View};

/// The peer of this server for whoever carries this. Never one that is shared with another account.
///
/// # Errors
/// When the server's URL may not be reached.
pub fn peer(
    upstreams: &Upstreams,
    view: &View,
    assigned: &Assigned,
    carried: Option<&Carried>,
) -> Result<Arc<Peer>, UpstreamError> {
    if let Some(shared) = &assigned.shared {
        return Ok(Arc::clone(&shared.peer));
    }
    upstreams.peer(&target(view, assigned, carried)?)
}

/// The target of this server under this account.
///
/// # Errors
/// When it can't be run here.
pub fn target(view: &View, assigned: &Assigned, carried: Option<&Carried>) -> Result<Target, UpstreamError> {
    let account = match (&assigned.reach, carried) {
        (_, None) => Account::None,
        // Nothing of the connection reaches the child, so that everybody may share it.
        (Reach::Process(_) | Reach::Component(..), Some(_)) if !assigned.child_per_connection => Account::None,
        (_, Some(carried)) => match &carried.connection {
            Some(name) => Account::Connection { name: name.clone(), revision: carried.connection_revision },
            None => Account::Holder(Arc::clone(&carried.executed_as)),
        },
    };
    let endpoint = match &assigned.reach {
        Reach::Http(endpoint) => Endpoint::Http(Arc::clone(endpoint)),
        Reach::Pods(spec, hosts) => {
            // Those of a connection where there are such, and only of one that the call carries.
            let connection = match &account {
                Account::Connection { name, .. } if assigned.child_per_connection => Some(name),
                _ => None,
            };
            let endpoint = hosts.endpoint(&view.tenant, &assigned.server, connection, spec);
            Endpoint::Hosted(endpoint.map_err(UpstreamError::Connect)?, Arc::clone(hosts))
        }
        Reach::Process(process) | Reach::Component(_, process) => {
            let mut spec = LaunchSpec::plain(Arc::clone(process));
            if let Reach::Component(component, _) = &assigned.reach {
                spec.component = Some(Arc::clone(component));
            }
            if let (Some(carried), Account::Connection { .. }) = (carried, &account) {
                spec.values.clone_from(&carried.values);
                spec.env.clone_from(&carried.env);
                spec.args.clone_from(&carried.arguments);
                spec.files = carried
                    .files
                    .iter()
                    .map(|(env, content)| SecretFile { env: env.clone(), content: content.clone() })
                    .collect();
            }
            Endpoint::Stdio(Arc::new(spec))
        }
    };
    Ok(Target {
        key: TargetKey {
            tenant: view.tenant.clone(),
            server: assigned.server.clone(),
            generation: assigned.generation,
            account,
            conversation: None,
            era: None,
        },
        endpoint,
        traffic: Arc::clone(&assigned.traffic),
    })
}
