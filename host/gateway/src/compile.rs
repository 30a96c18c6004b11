//! From resources to the snapshot that calls read.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock, atomic::AtomicBool},
};

use http::{HeaderName, HeaderValue};
use portcullis_credential::{CredentialPlan, PlanParts};
use portcullis_identity::Provider;
use portcullis_model::{
    Fault, Kind, Name, Resource, ResourceKey, Side, Spec,
    spec::{self, CredentialMode, McpServer, Mode, PluginUse},
};
use portcullis_plugin::{
    Description,
    manager::{Manager, Place},
};
use portcullis_store::registry::Fleet;
use portcullis_upstream::{Hosts, HttpEndpoint};
use quick_cache::sync::Cache;

use crate::{
    admit::PrincipalRate,
    catalogue,
    enrich::Enrich,
    gateways::Gateways,
    naming,
    pinned::Pinned,
    policy::{Policies, Policy},
    routes::{Exposure, Routes},
    scopes::Scopes,
    serve::API_KEY,
    targets,
    uris::Labels,
    view::{Assigned, Reach, Shared, Snapshot, View},
    visits::Visits,
};

/// Tools of one server whose metrics are kept at hand.
const METRICS_AT_HAND: usize = 512;

/// Whether a resource works as it is written.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The resource.
    pub key: ResourceKey,
    /// What is wrong, for operators.
    pub problem: String,
    /// Whether it keeps a gateway from serving at all.
    pub fatal: bool,
}

/// The places where gateways and assignments name plugins, for [`Manager::reconcile`].
pub fn places(fleet: &Fleet) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    for (_, resource) in fleet.iter() {
        let tenant = &resource.metadata.namespace;
        let mut add = |plugin: &str, config: Option<String>| {
            places.insert(Place { tenant: tenant.clone(), plugin: plugin.to_owned(), config });
        };
        match &resource.spec {
            Spec::Gateway(gateway) => {
                let asked = gateway.auth.iter().chain(&gateway.policies);
                for used in asked.filter(|used| used.mode != Mode::Disabled) {
                    add(&used.plugin, config_of(used));
                }
                for assignment in &gateway.servers {
                    let modes = assignment.credential.iter();
                    for mode in modes.chain(assignment.tools.values().filter_map(|t| t.credential.as_ref())) {
                        add(&mode.mode, None);
                    }
                }
            }
            Spec::McpServer(McpServer { credential: Some(need), .. }) => add(&need.mode.mode, None),
            Spec::McpServer(server) if server.child_per_connection() => add(&CredentialMode::default().mode, None),
            _ => {}
        }
    }
    // Loaded even where nothing names it yet, so that its status says whether it would work. One without a configuration of its own
    // may need the one that its places give it, and is loaded there.
    for (key, resource) in fleet.iter() {
        let Spec::Plugin(plugin) = &resource.spec else { continue };
        let (tenant, name) = (&resource.metadata.namespace, key.name.as_str());
        let configured = |place: &Place| place.tenant == *tenant && place.plugin == name;
        if plugin.config.is_some() || !places.iter().any(configured) {
            places.insert(Place { tenant: tenant.clone(), plugin: name.to_owned(), config: None });
        }
    }
    places
}

fn config_of(used: &PluginUse) -> Option<String> {
    used.config.as_ref().map(ToString::to_string)
}

/// The header that an auth provider is configured to read callers' credentials from, where its configuration says so.
fn credential_header(used: &PluginUse) -> Option<HeaderName> {
    used.config.as_ref()?.get("header")?.as_str()?.parse().ok()
}

/// All resources, and the plugins that they name.
pub struct Sources<'a> {
    /// Every resource.
    pub fleet: &'a Fleet,
    /// The plugins in use.
    pub plugins: &'a Manager,
    /// Who keeps servers in a cluster, where somebody does.
    pub hosts: Option<Arc<dyn Hosts>>,
}

impl Gateways {
    /// Compiles all gateways and swaps them in: calls that began before finish on what they began with. Returns what does
    /// not work as written.
    pub fn compile(&self, sources: &Sources<'_>) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let views = sources
            .fleet
            .iter()
            .filter_map(|(_, resource)| match &resource.spec {
                Spec::Gateway(gateway) => Some(Arc::new(self.view(sources, resource, gateway, &mut conditions))),
                _ => None,
            })
            .collect();
        let snapshot = Snapshot::new(views);
        let wanted: std::collections::HashSet<(Name, Name, u64)> = snapshot
            .all()
            .flat_map(|view| view.servers.iter().map(|s| (view.tenant.clone(), s.server.clone(), s.generation)))
            .collect();
        for view in snapshot.all() {
            // Lists are fetched before anybody asks, so that the first one who does need not wait.
            for assigned in &view.servers {
                if let Some(shared) = &assigned.shared {
                    for kind in catalogue::Kind::ALL {
                        self.refresh_shared_kind(assigned, shared, view, kind);
                    }
                }
            }
        }
        let snapshot = Arc::new(snapshot);
        let before = self.snapshot.swap(Arc::clone(&snapshot));
        self.compiled.send_modify(|count| *count = count.wrapping_add(1));
        for view in snapshot.all() {
            let same = before.get(view.tenant.as_str(), view.name.as_str()).is_some_and(|was| was.lists_as(view));
            if !same {
                let (tenant, gateway) = (view.tenant.clone(), view.name.clone());
                self.catalogue.announce(catalogue::Changed::Gateway { tenant, gateway });
            }
        }
        self.upstreams.retain(|key| wanted.contains(&(key.tenant.clone(), key.server.clone(), key.generation)));
        conditions
    }

    fn view(
        &self,
        sources: &Sources<'_>,
        resource: &Resource,
        gateway: &spec::Gateway,
        conditions: &mut Vec<Condition>,
    ) -> View {
        let (tenant, gateway_name) = (&resource.metadata.namespace, &resource.metadata.name);
        let key = resource.key();
        let mut broken = None;
        let mut note = |problem: String, fatal: bool| {
            if fatal && broken.is_none() {
                broken = Some(
                    Fault::new(Side::Gateway, "not-ready", "this gateway lacks a plugin that it has to ask")
                        .next("Ask your operator: `portcullis doctor` names it"),
                );
            }
            conditions.push(Condition { key: key.clone(), problem, fatal });
        };
        let plugin = |used: &PluginUse| {
            let place = Place { tenant: tenant.clone(), plugin: used.plugin.clone(), config: config_of(used) };
            sources.plugins.get(&place)
        };

        let mut providers = Vec::new();
        let mut description: Option<Description> = None;
        for used in gateway.auth.iter().filter(|used| used.mode != Mode::Disabled) {
            match plugin(used) {
                Ok(found) if found.plugin.hooks().provider => {
                    let said = found.plugin.description().filter(|said| **said != Description::default());
                    description = description.or_else(|| said.cloned());
                    providers.push(Arc::new(Provider::new(found.plugin, &found.identity)));
                }
                Ok(_) => note(format!("auth: plugin \"{}\" is no auth provider", used.plugin), true),
                Err(problem) => note(format!("auth: {problem}"), true),
            }
        }
        let mut policies = Vec::new();
        for used in gateway.policies.iter().filter(|used| used.mode != Mode::Disabled) {
            // What only watches may be missing: nothing is decided by it.
            let fatal = used.mode == Mode::Enforce;
            let placed = match plugin(used) {
                Ok(placed) if placed.plugin.hooks().policy() => placed,
                Ok(_) => {
                    note(format!("policies: plugin \"{}\" is no policy", used.plugin), fatal);
                    continue;
                }
                Err(problem) => {
                    note(format!("policies: {problem}"), fatal);
                    continue;
                }
            };
            let its = ResourceKey {
                tenant: tenant.clone(),
                kind: Kind::Plugin,
                name: used.plugin.parse().unwrap_or_else(|_| Name::default_tenant()),
            };
            let own = sources.fleet.get(&its).and_then(|r| match &r.spec {
                Spec::Plugin(plugin) => Some(plugin.on_error),
                _ => None,
            });
            let on_error = used.on_error.or(own).unwrap_or_default();
            let watch = (&self.audit, gateway_name);
            match Policy::new(placed, on_error, used.mode, used.when.as_ref(), watch) {
                Ok(policy) => policies.push(policy),
                Err(problem) => note(format!("policies: plugin \"{}\": when: {problem}", used.plugin), fatal),
            }
        }

        let own_headers: Vec<HeaderName> = gateway.auth.iter().filter_map(credential_header).collect();
        let mut servers = Vec::new();
        let mut exposures = Vec::new();
        for assignment in &gateway.servers {
            let exposure = match Exposure::new(assignment) {
                Ok(exposure) => exposure,
                Err(problem) => {
                    note(format!("servers: {}: {problem}", assignment.server), false);
                    continue;
                }
            };
            match self.assigned(sources, tenant, assignment, &own_headers, &mut note) {
                Ok(assigned) => {
                    servers.push(assigned);
                    exposures.push(exposure);
                }
                Err(problem) => note(format!("servers: {}: {problem}", assignment.server), false),
            }
        }
        let routes = Routes::new(&exposures);
        let named = servers.iter().zip(&exposures).map(|(server, exposure)| match exposure.prefix.is_empty() {
            true => server.server.as_str(),
            false => exposure.prefix.trim_end_matches(naming::SEPARATOR),
        });
        let labels = Labels::new(named);
        let rate = gateway.rate_per_principal.and_then(|rate| {
            // Kept over compilations: a change elsewhere gives nobody a full bucket.
            let name = (format!("{tenant}/{}", resource.metadata.name), rate);
            if let Some(kept) = self.rates.get(&name) {
                return Some(kept);
            }
            let made = Arc::new(PrincipalRate::new(rate)?);
            self.rates.insert(name, Arc::clone(&made));
            Some(made)
        });
        let scopes = Scopes::new(&gateway.oauth.scopes).unwrap_or_else(|problem| {
            note(format!("oauth.scopes: {problem}"), true);
            Scopes::default()
        });
        // By whatever name.
        let own = gateway.auth.iter().filter(|used| used.mode != Mode::Disabled).any(|used| {
            portcullis_store::registry::built_in_of(sources.fleet, tenant, &used.plugin) == Some("bearer-token")
        });
        let mut view = View {
            tenant: tenant.clone(),
            name: resource.metadata.name.clone(),
            revision: resource.metadata.revision.unwrap_or(0),
            title: gateway.title.clone(),
            instructions: gateway.instructions.clone(),
            providers,
            api_key: gateway.api_key_header.as_deref().and_then(|name| name.parse().ok()).filter(|n| *n != API_KEY),
            anonymous: gateway.anonymous,
            policies: Policies::new(policies),
            visits: Visits::default(),
            oauth: own
                || !gateway.oauth.authorization_servers.is_empty()
                || description.as_ref().is_some_and(|said| !said.authorization_servers.is_empty()),
            description,
            broken,
            rate,
            servers,
            exposures,
            routes,
            labels,
            scopes,
            disclosure: gateway.exposure,
        };
        self.share(&mut view);
        view
    }

    fn assigned(
        &self,
        sources: &Sources<'_>,
        tenant: &Name,
        assignment: &spec::ServerAssignment,
        own_headers: &[HeaderName],
        note: &mut impl FnMut(String, bool),
    ) -> Result<Assigned, String> {
        let key = ResourceKey { tenant: tenant.clone(), kind: Kind::McpServer, name: assignment.server.clone() };
        let resource = sources.fleet.get(&key).ok_or("there is no such McpServer")?;
        let Spec::McpServer(server) = &resource.spec else { return Err("there is no such McpServer".to_owned()) };
        let reach = match (&server.remote, &server.process, &server.component, &server.kubernetes) {
            (Some(remote), ..) => {
                let headers = remote
                    .headers
                    .iter()
                    .map(|(name, value)| {
                        Ok((
                            name.parse::<HeaderName>().map_err(|_| format!("\"{name}\" is no header name"))?,
                            HeaderValue::from_str(value)
                                .map_err(|_| format!("the header {name} has an invalid value"))?,
                        ))
                    })
                    .collect::<Result<_, String>>()?;
                Reach::Http(Arc::new(HttpEndpoint {
                    url: remote.url.clone(),
                    headers,
                    allow_private: remote.allow_private,
                }))
            }
            (None, Some(process), ..) => Reach::Process(Arc::new(process.clone())),
            (None, None, Some(component), _) => {
                Reach::Component(Arc::new(component.clone()), Arc::new(component.as_process()))
            }
            (None, None, None, Some(kubernetes)) => {
                let none = "this gateway runs no servers in a cluster: it lacks the server setting kubernetes.servers";
                let hosts = sources.hosts.clone().ok_or(none)?;
                hosts.endpoint(tenant, &assignment.server, None, kubernetes)?;
                Reach::Pods(Arc::new(kubernetes.clone()), hosts)
            }
            (None, None, None, None) => {
                let none = "it is neither remote, nor a process, nor a component, nor does it run in a cluster";
                return Err(none.to_owned());
            }
        };
        let plan = |mode: &CredentialMode| -> Result<Arc<CredentialPlan>, String> {
            let place = Place { tenant: tenant.clone(), plugin: mode.mode.clone(), config: None };
            let in_use = sources.plugins.get(&place)?;
            // A server may have become a process since the assignment was written.
            let built_in = portcullis_store::registry::built_in_of(sources.fleet, tenant, &mode.mode);
            if let Some(why) = built_in.and_then(|name| spec::exchange::unfit(name, server)) {
                return Err(why);
            }
            if !in_use.plugin.hooks().resolver {
                return Err(format!("plugin \"{}\" is no credential resolver", mode.mode));
            }
            Ok(CredentialPlan::new(PlanParts {
                tenant: tenant.clone(),
                server: assignment.server.clone(),
                spec: server,
                mode,
                resolver_identity: in_use.whole_identity(),
                resolver: Arc::new(in_use),
            }))
        };
        let call_time = CredentialMode::default();
        let named = assignment.credential.as_ref().or(server.credential.as_ref().map(|need| &need.mode));
        let default_mode = named.unwrap_or(&call_time);
        // A child that holds a connection's values needs one, even where nothing of it is secret.
        let needed = server.credential.is_some() || assignment.credential.is_some() || server.child_per_connection();
        let whole = if needed { Some(plan(default_mode)?) } else { None };
        let mut tool_plans = HashMap::new();
        for (tool, how) in &assignment.tools {
            if let Some(mode) = &how.credential {
                match plan(mode) {
                    Ok(plan) => {
                        tool_plans.insert(tool.clone(), plan);
                    }
                    // Without its own plan the tool must not fall back to the server's.
                    Err(problem) => return Err(format!("tool {tool}: {problem}")),
                }
            }
        }
        let pinned = Pinned::of(&server.traffic, assignment).map_err(|e| format!("pinnedArguments: {e}"))?;
        let enrich = Enrich::of(assignment, own_headers)?;
        if enrich.is_some() && !server.takes_headers() {
            return Err("only a remote server takes headers, or one in a cluster that speaks HTTP".to_owned());
        }
        if whole.is_none() && !tool_plans.is_empty() {
            note(
                format!("servers: {}: some tools have a credential and the server has none", assignment.server),
                false,
            );
        }
        Ok(Assigned {
            server: assignment.server.clone(),
            generation: resource.metadata.revision.unwrap_or(0),
            reach,
            child_per_connection: server.child_per_connection(),
            traffic: Arc::new(server.traffic.clone()),
            pinned,
            enrich,
            plan: whole,
            tool_plans,
            metrics: Cache::new(METRICS_AT_HAND),
            one_era: AtomicBool::new(false),
            shared: None,
        })
    }

    /// Gives servers without credentials the peer and the catalogue entry that everybody shares.
    fn share(&self, view: &mut View) {
        for at in 0..view.servers.len() {
            let assigned = &view.servers[at];
            if assigned.plan.is_some() || !assigned.tool_plans.is_empty() {
                continue;
            }
            let shared = match targets::target(view, assigned, None).and_then(|target| self.upstreams.peer(&target)) {
                Ok(peer) => {
                    let entry = self.catalogue.entry(&assigned.catalogue_key(&view.tenant, None));
                    Some(Shared { peer, entry, legacy: OnceLock::new() })
                }
                Err(error) => {
                    tracing::warn!(server = %assigned.server, %error, "the server can't be reached");
                    None
                }
            };
            view.servers[at].shared = shared;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet(gateway_policy: Option<serde_json::Value>, own: Option<serde_json::Value>) -> Fleet {
        let resource = |kind: &str, name: &str, spec: serde_json::Value| -> Resource {
            let metadata = json!({ "name": name });
            let document =
                json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec});
            serde_json::from_value(document).unwrap()
        };
        let plugin = json!({"source": {"builtIn": "redact"}, "config": own});
        let policies: Vec<_> =
            gateway_policy.into_iter().map(|config| json!({"plugin": "mine", "config": config})).collect();
        Fleet::of([resource("Plugin", "mine", plugin), resource("Gateway", "g", json!({ "policies": policies }))])
    }

    #[test]
    fn a_plugin_is_loaded_with_a_configuration_that_somebody_gave_it() {
        let configs = |fleet: &Fleet| -> Vec<Option<String>> {
            places(fleet).into_iter().filter(|p| p.plugin == "mine").map(|p| p.config).collect()
        };
        let here = Some(json!({"a": 1}));
        assert_eq!(configs(&fleet(None, None)), [None], "whether it works is told before anything names it");
        assert_eq!(configs(&fleet(here.clone(), None)), [Some(r#"{"a":1}"#.to_owned())], "its own would be empty");
        assert_eq!(configs(&fleet(here, Some(json!({})))).len(), 2);
    }
}
