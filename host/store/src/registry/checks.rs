//! What can be said about a resource only where the others are known.

use std::collections::BTreeMap;

use portcullis_model::{
    Kind, Name, Problem, Resource, ResourceKey, Spec,
    spec::{Connection, CredentialMode, Gateway, Identity, Kubernetes, McpServer, Owner, Plugin, Source, exchange},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Fleet;

/// Plugins that need no `Plugin` resource.
pub const BUILT_IN_PLUGINS: [&str; 8] =
    ["bearer-token", "jwks", "client-certificate", "tool-access", "call-time", "static", "idp-exchange", "passthrough"];

/// The origin of connections whose server is a local process.
pub const PROCESS_ORIGIN: &str = "process";

/// What a connection of this server is bound to: the origin of a remote server's URL (RFC 6454 section 6.2), the repository of an
/// image and what is run of it, or [`PROCESS_ORIGIN`]. Where it changes, connections are suspended until somebody approves again.
pub fn server_origin(server: &McpServer) -> String {
    match (&server.remote, &server.kubernetes) {
        (Some(remote), _) => remote.url.origin().ascii_serialization(),
        (None, Some(kubernetes)) => image_origin(kubernetes),
        (None, None) => PROCESS_ORIGIN.to_owned(),
    }
}

/// The repository, and where the definition says what is run of it, a digest of that: of an image that runs anything, whoever may
/// write a definition would otherwise have others' values told to them by a command or a variable such as `NODE_OPTIONS`.
fn image_origin(kubernetes: &Kubernetes) -> String {
    let Kubernetes { command, args, env, .. } = kubernetes;
    let repository = kubernetes.repository();
    if command.is_empty() && args.is_empty() && env.is_empty() {
        return format!("image:{repository}");
    }
    let digest = Sha256::digest(json!([command, args, env]).to_string());
    let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("image:{repository}#{digest}")
}

/// Problems that refuse a resource although it is right when looked at alone.
pub(super) fn problems(fleet: &Fleet, resource: &Resource) -> Vec<Problem> {
    let tenant = &resource.metadata.namespace;
    let mut problems = Vec::new();
    match &resource.spec {
        Spec::Connection(connection) => {
            if let Some(server) = fleet.server(tenant, &connection.server) {
                for field in connection.values.keys().filter(|f| server.spec.field(f).is_some_and(|f| f.sensitive)) {
                    problems.push(Problem::new(
                        format!("spec.values.{field}"),
                        format!(
                            "is a secret: say where it comes from in spec.secrets, or seal it with `portcullis connect {}`",
                            connection.server
                        ),
                    ));
                }
                // What `portcullis connect` refuses, a file can't bring either.
                for (name, value) in &connection.values {
                    let asked = server.spec.field(name).filter(|f| !f.sensitive);
                    if let Some(Err(why)) = asked.map(|f| f.accepts(value)) {
                        problems.push(Problem::new(format!("spec.values.{name}"), why));
                    }
                }
            }
        }
        Spec::User(user) => claimed(fleet, resource, &user.identities, &mut problems),
        Spec::Agent(agent) => claimed(fleet, resource, &agent.identities, &mut problems),
        Spec::Gateway(gateway) => {
            for (i, assignment) in gateway.servers.iter().enumerate() {
                let path = format!("spec.servers[{i}]");
                let server = fleet.server(tenant, &assignment.server).map(|found| found.spec);
                let own = assignment.credential.iter().map(|mode| (format!("{path}.credential"), mode));
                let tools = assignment.tools.iter().filter_map(|(tool, how)| {
                    Some((format!("{path}.tools.{tool}.credential"), how.credential.as_ref()?))
                });
                for (path, mode) in own.chain(tools) {
                    mode_problems(fleet, tenant, &path, mode, server, &mut problems);
                }
            }
        }
        Spec::McpServer(server) => {
            if let Some(need) = &server.credential {
                mode_problems(fleet, tenant, "spec.credential.mode", &need.mode, Some(server), &mut problems);
            }
        }
        _ => {}
    }
    problems
}

/// An identity that two claim would make one of them the other.
fn claimed(fleet: &Fleet, resource: &Resource, identities: &[Identity], problems: &mut Vec<Problem>) {
    let tenant = &resource.metadata.namespace;
    let other = |kind: Kind, name: &Name| (resource.spec.kind(), &resource.metadata.name) != (kind, name);
    for (i, identity) in identities.iter().enumerate() {
        let user = fleet.users(tenant).map(|user| (Kind::User, &user.metadata.name, &user.spec.identities));
        let agent = fleet.agents(tenant).map(|agent| (Kind::Agent, &agent.metadata.name, &agent.spec.identities));
        let mut all = user.chain(agent);
        if let Some((kind, name, _)) = all.find(|(kind, name, has)| other(*kind, name) && has.contains(identity)) {
            let what = if kind == Kind::User { "user" } else { "agent" };
            problems.push(Problem::new(format!("spec.identities[{i}]"), format!("is the {what} {name}'s already")));
        }
    }
}

/// The built-in plugin that a credential mode leads to, by whatever name.
pub fn built_in_of<'a>(fleet: &'a Fleet, tenant: &Name, mode: &'a str) -> Option<&'a str> {
    let key = mode.parse().ok().map(|name| ResourceKey { tenant: tenant.clone(), kind: Kind::Plugin, name });
    match key.and_then(|key| fleet.get(&key)).map(|resource| &resource.spec) {
        Some(Spec::Plugin(Plugin { source: Source::BuiltIn(name), .. })) => Some(name),
        Some(_) => None,
        None => BUILT_IN_PLUGINS.contains(&mode).then_some(mode),
    }
}

/// What a mode's settings lack, and why it can't serve the server. What the resource itself shows was said already.
fn mode_problems(
    fleet: &Fleet,
    tenant: &Name,
    path: &str,
    mode: &CredentialMode,
    server: Option<&McpServer>,
    problems: &mut Vec<Problem>,
) {
    let Some(built_in) = built_in_of(fleet, tenant, &mode.mode) else { return };
    let told = built_in == mode.mode;
    if !told {
        exchange::check_settings(built_in, path, mode, problems);
    }
    let own = path == "spec.credential.mode";
    if let Some(why) = server.filter(|_| !(told && own)).and_then(|server| exchange::unfit(built_in, server)) {
        problems.push(Problem::new(format!("{path}.mode"), why));
    }
}

/// What is likely not meant.
pub(super) fn warnings(fleet: &Fleet, resource: &Resource) -> Vec<Problem> {
    let mut found = Vec::new();
    references(resource, &mut |path, kind, name| {
        let built_in = kind == Kind::Plugin && BUILT_IN_PLUGINS.contains(&name);
        if !built_in && !exists(fleet, &resource.metadata.namespace, kind, name) {
            found.push(Problem::new(path, format!("there is no {kind} \"{name}\" (yet)")));
        }
    });
    if let Spec::Connection(connection) = &resource.spec
        && let Some(server) = fleet.server(&resource.metadata.namespace, &connection.server)
    {
        connection_warnings(connection, server.spec, &mut found);
    }
    found
}

fn connection_warnings(connection: &Connection, server: &McpServer, found: &mut Vec<Problem>) {
    let given =
        connection.values.keys().map(|f| ("values", f)).chain(connection.secrets.keys().map(|f| ("secrets", f)));
    for (part, field) in given {
        if server.field(field).is_none() {
            found.push(Problem::new(
                format!("spec.{part}.{field}"),
                format!("the server {} does not ask for it", connection.server),
            ));
        }
    }
    let now = server_origin(server);
    if let Some(origin) = &connection.origin
        && *origin != now
    {
        found.push(Problem::new(
            "spec.origin",
            format!(
                "the connection was made for {origin}, and the server {} is at {now}: it is suspended until it is connected again",
                connection.server
            ),
        ));
    }
}

/// What names a resource that is gone.
pub(super) fn left_dangling(fleet: &Fleet, gone: &ResourceKey) -> Vec<Problem> {
    let mut found = Vec::new();
    for (key, resource) in fleet.iter().filter(|(key, _)| key.tenant == gone.tenant) {
        references(resource, &mut |path, kind, name| {
            if kind == gone.kind && name == gone.name.as_str() {
                found.push(Problem::new(path, format!("{key} still names it")));
            }
        });
    }
    found
}

fn exists(fleet: &Fleet, tenant: &Name, kind: Kind, name: &str) -> bool {
    name.parse().is_ok_and(|name| fleet.get(&ResourceKey { tenant: tenant.clone(), kind, name }).is_some())
}

/// Every place of a resource that names another one.
fn references(resource: &Resource, each: &mut dyn FnMut(String, Kind, &str)) {
    let mut names = |path: &str, kind: Kind, names: &[Name]| {
        for (i, name) in names.iter().enumerate() {
            each(format!("spec.{path}[{i}]"), kind, name.as_str());
        }
    };
    match &resource.spec {
        Spec::Team(team) => names("members", Kind::User, &team.members),
        Spec::Role(role) => {
            names("users", Kind::User, &role.users);
            names("teams", Kind::Team, &role.teams);
            names("agents", Kind::Agent, &role.agents);
        }
        Spec::Agent(agent) => {
            if let Some(team) = &agent.team {
                each("spec.team".to_owned(), Kind::Team, team.as_str());
            }
        }
        Spec::Connection(connection) => {
            each("spec.server".to_owned(), Kind::McpServer, connection.server.as_str());
            match &connection.owner {
                Owner::User(name) => each("spec.owner.user".to_owned(), Kind::User, name.as_str()),
                Owner::Team(name) => each("spec.owner.team".to_owned(), Kind::Team, name.as_str()),
                Owner::Agent(name) => each("spec.owner.agent".to_owned(), Kind::Agent, name.as_str()),
                Owner::Organization(_) => {}
            }
        }
        Spec::McpServer(server) => {
            if let Some(need) = &server.credential {
                mode_references("spec.credential.mode", &need.mode, each);
            }
        }
        Spec::Gateway(gateway) => gateway_references(gateway, each),
        Spec::OAuthClient(client) => {
            if let Some(agent) = &client.agent {
                each("spec.agent".to_owned(), Kind::Agent, agent.as_str());
            }
        }
        Spec::Plugin(_) | Spec::User(_) | Spec::IdentityProvider(_) => {}
    }
}

fn gateway_references(gateway: &Gateway, each: &mut dyn FnMut(String, Kind, &str)) {
    for (part, plugins) in BTreeMap::from([("auth", &gateway.auth), ("policies", &gateway.policies)]) {
        for (i, used) in plugins.iter().enumerate() {
            each(format!("spec.{part}[{i}].plugin"), Kind::Plugin, &used.plugin);
        }
    }
    for (i, assignment) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{i}]");
        each(format!("{path}.server"), Kind::McpServer, assignment.server.as_str());
        if let Some(mode) = &assignment.credential {
            mode_references(&format!("{path}.credential"), mode, each);
        }
        for (tool, how) in &assignment.tools {
            if let Some(mode) = &how.credential {
                mode_references(&format!("{path}.tools.{tool}.credential"), mode, each);
            }
        }
    }
}

fn mode_references(path: &str, mode: &CredentialMode, each: &mut dyn FnMut(String, Kind, &str)) {
    each(format!("{path}.mode"), Kind::Plugin, &mode.mode);
    if let Some(connection) = &mode.connection {
        each(format!("{path}.connection"), Kind::Connection, connection.as_str());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_bound_to_what_is_run_of_an_image() {
        let origin = |more: serde_json::Value| {
            let mut kubernetes = json!({"image": "registry.example/node:20"});
            kubernetes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            server_origin(&serde_json::from_value(json!({ "kubernetes": kubernetes })).unwrap())
        };
        let plain = origin(json!({}));
        assert_eq!(plain, "image:registry.example/node");
        assert_eq!(origin(json!({"image": "registry.example/node:22", "replicas": 3})), plain);
        let mut all = vec![
            plain,
            origin(json!({"args": ["-e", "tell(process.env.TOKEN)"]})),
            origin(json!({"command": ["-e", "tell(process.env.TOKEN)"]})),
            origin(json!({"env": {"NODE_OPTIONS": "--import=x"}})),
        ];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4, "{all:?}");
    }
}
