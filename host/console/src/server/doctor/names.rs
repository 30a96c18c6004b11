//! Names in a policy's configuration that exist nowhere: rules that never match, which nothing else would tell.
//!
//! Only the built-in policy's configuration is understood here; what a stranger's plugin reads is its own affair.

use portcullis_model::{
    Kind, Resource, ResourceKey, Spec,
    spec::{PluginUse, Source},
};
use portcullis_store::Fleet;
use serde_json::Value;

const TOOL_ACCESS: &str = "tool-access";
/// Roles that exist without a resource.
const ROLES: [&str; 4] = ["admin", "operator", "team-admin", "member"];

/// What the policies of a gateway, or a plugin's own configuration, name in vain, with its place.
pub(super) fn nowhere(fleet: &Fleet, key: &ResourceKey, resource: &Resource) -> Vec<String> {
    match &resource.spec {
        Spec::Gateway(gateway) => {
            let uses = gateway.policies.iter().enumerate();
            let configs = uses.filter_map(|(i, used)| Some((i, own_config(fleet, key, used)?)));
            configs
                .flat_map(|(i, config)| in_rules(fleet, key, config, &format!("spec.policies[{i}].config")))
                .collect()
        }
        Spec::Plugin(plugin) => match (&plugin.source, &plugin.config) {
            (Source::BuiltIn(name), Some(config)) if name == TOOL_ACCESS => in_rules(fleet, key, config, "spec.config"),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The configuration that a gateway gives to the built-in policy, under whatever name.
fn own_config<'a>(fleet: &Fleet, key: &ResourceKey, used: &'a PluginUse) -> Option<&'a Value> {
    let named = used.plugin.parse().ok().and_then(|name| fleet.plugin(&key.tenant, &name));
    let built_in = match named {
        Some(plugin) => matches!(&plugin.spec.source, Source::BuiltIn(name) if name == TOOL_ACCESS),
        None => used.plugin == TOOL_ACCESS,
    };
    used.config.as_ref().filter(|_| built_in)
}

fn in_rules(fleet: &Fleet, key: &ResourceKey, config: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (i, rule) in config["rules"].as_array().into_iter().flatten().enumerate() {
        let mut each = |list: &str, check: &dyn Fn(&str) -> Option<(Kind, &str)>| {
            for (n, text) in rule[list].as_array().into_iter().flatten().filter_map(Value::as_str).enumerate() {
                if let Some((kind, name)) = unknown(fleet, key, check(text)) {
                    found.push(format!("{path}.rules[{i}].{list}[{n}]: there is no {kind} named \"{name}\""));
                }
            }
        };
        each("principals", &|text| match text.split_once(':')? {
            ("user", name) => Some((Kind::User, name)),
            ("team", name) => Some((Kind::Team, name)),
            ("agent", name) => Some((Kind::Agent, name)),
            ("role", name) if !ROLES.contains(&name) => Some((Kind::Role, name)),
            _ => None,
        });
        each("servers", &|text| Some((Kind::McpServer, text)));
    }
    found
}

/// The name, if it is none that exists. What holds a wildcard names nobody in particular.
fn unknown<'a>(fleet: &Fleet, key: &ResourceKey, named: Option<(Kind, &'a str)>) -> Option<(Kind, &'a str)> {
    let (kind, name) = named.filter(|(_, name)| !name.contains(['*', '?']))?;
    let exists =
        name.parse().is_ok_and(|name| fleet.get(&ResourceKey { tenant: key.tenant.clone(), kind, name }).is_some());
    (!exists).then_some((kind, name))
}
