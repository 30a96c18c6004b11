//! What only the assembled gateway knows, for the admin API; and the audit of `reveal`.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use portcullis_console::{
    api::{Condition, Finding, GatewayStatus, Grade, PluginItem},
    kubernetes::ClusterDoor,
    server::{Explain, View},
};
use portcullis_credential::{ConnectLink, PassedAudit, link::LIFETIME_MS};
use portcullis_gateway::explain::Wanted;
use portcullis_model::{Kind, Name, ResourceKey, Subject, explain::Explanation};
use portcullis_orchestrator::Workloads;
use portcullis_plugin::{BoxFuture, RevealAudit};
use portcullis_protocol::seal::Sealer;
use portcullis_telemetry::{Audit, AuditEvent};

use super::{health::Watched, plugins};
use crate::{listener::Certificates, settings::Settings};

/// Names of what keeps it from being ready.
pub fn missing(Watched { keeper, currency, .. }: &Watched) -> Vec<String> {
    let store = currency.trouble().map(|_| "the store can't be reached".to_owned());
    if keeper.rounds() == 0 {
        return store.into_iter().chain(["gateways are not compiled yet".to_owned()]).collect();
    }
    let shortcomings = keeper.shortcomings();
    let gateways = shortcomings.conditions.iter().filter(|c| c.fatal).map(|c| c.key.to_string());
    let plugins = shortcomings.troubles.iter().filter(|t| !t.previous).map(|t| format!("Plugin/{}", t.place.plugin));
    let mut missing: Vec<String> = gateways.chain(plugins).chain(store).collect();
    missing.sort();
    missing.dedup();
    missing
}

/// The assembled gateway, as the admin API sees it.
pub struct Assembled {
    status: GatewayStatus,
    watched: Watched,
    customs: Arc<ClusterDoor>,
    workloads: Option<Workloads>,
    links: Arc<Sealer>,
    certificates: Option<Certificates>,
}

impl Assembled {
    /// Started now; `links` seals those of the connect page.
    pub fn new(
        settings: &Settings,
        address: SocketAddr,
        watched: Watched,
        (customs, workloads): (Arc<ClusterDoor>, Option<Workloads>),
        links: Arc<Sealer>,
        certificates: Option<Certificates>,
    ) -> Self {
        let metrics = match settings.metrics_listen {
            Some(listen) => format!("http://{listen}/metrics"),
            None => format!("{}/metrics", settings.base_url(address)),
        };
        let status = GatewayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: now_ms(),
            url: settings.base_url(address),
            local_url: local_url(settings, address),
            metrics_url: Some(metrics),
            data_dir: super::state::place(settings),
            ..GatewayStatus::default()
        };
        Self { status, watched, customs, workloads, links, certificates }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Where commands on this machine reach the gateway; nothing with TLS, whose certificate names the public name.
fn local_url(settings: &Settings, address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    if settings.tls.is_some() { String::new() } else { format!("http://{address}") }
}

impl View for Assembled {
    fn connect_link(
        &self,
        tenant: &Name,
        server: &Name,
        wanted: &Subject,
        connection: Option<&Name>,
    ) -> Option<String> {
        let link = ConnectLink {
            tenant: tenant.clone(),
            server: server.clone(),
            wanted: wanted.clone(),
            connection: connection.cloned(),
            // No call came by a gateway; any that has the server would do as a place to go on.
            gateway: self.watched.keeper.gateway_with(tenant, server).unwrap_or_else(|| server.clone()),
            expires_ms: now_ms().saturating_add(LIFETIME_MS),
        };
        link.url(self.status.url.trim_end_matches('/'), &self.links).ok()
    }

    fn explain(&self, wanted: Explain) -> Pin<Box<dyn Future<Output = Option<Explanation>> + Send + '_>> {
        let Explain { tenant, gateway, tool, principal, arguments } = wanted;
        Box::pin(self.watched.keeper.explain(Wanted { tenant, gateway, tool, principal, arguments }))
    }

    fn plugin(&self, tenant: &Name, name: &Name) -> Option<PluginItem> {
        self.watched.keeper.standing(tenant, name).map(|standing| plugins::item(name, &standing))
    }

    fn roll_back<'a>(&'a self, tenant: &'a Name, name: &'a Name) -> BoxFuture<'a, Result<PluginItem, String>> {
        Box::pin(async move {
            self.watched.keeper.roll_back(tenant, name).await?;
            self.plugin(tenant, name).ok_or_else(|| format!("there is no Plugin \"{name}\""))
        })
    }

    fn resume<'a>(&'a self, tenant: &'a Name, name: &'a Name) -> BoxFuture<'a, Result<PluginItem, String>> {
        Box::pin(async move {
            self.watched.keeper.resume(tenant, name).await?;
            self.plugin(tenant, name).ok_or_else(|| format!("there is no Plugin \"{name}\""))
        })
    }

    fn settle(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let keeper = Arc::clone(&self.watched.keeper);
        Box::pin(async move { keeper.round().await })
    }

    fn status(&self) -> GatewayStatus {
        GatewayStatus { missing: missing(&self.watched), ..self.status.clone() }
    }

    fn conditions(&self, key: &ResourceKey) -> Vec<Condition> {
        let shortcomings = self.watched.keeper.shortcomings();
        let mut found: Vec<Condition> = Vec::new();
        let not_ready = |reason: &str, message: String| Condition {
            kind: "Ready".to_owned(),
            status: false,
            reason: reason.to_owned(),
            message,
        };
        for condition in shortcomings.conditions.iter().filter(|c| c.key == *key) {
            let reason = if condition.fatal { "NotServing" } else { "Degraded" };
            found.push(not_ready(reason, condition.problem.clone()));
        }
        if key.kind == Kind::Plugin {
            for trouble in shortcomings
                .troubles
                .iter()
                .filter(|t| t.place.tenant == key.tenant && t.place.plugin == key.name.as_str())
            {
                found.push(match (trouble.candidate, trouble.previous) {
                    (true, _) if trouble.under_way.is_some() => {
                        Condition { kind: "Candidate".to_owned(), ..not_ready("UnderWay", trouble.problem.clone()) }
                    }
                    (false, _) if trouble.under_way.is_some() => not_ready("UnderWay", trouble.problem.clone()),
                    (true, _) => Condition {
                        kind: "Candidate".to_owned(),
                        ..not_ready("CandidateRefused", trouble.problem.clone())
                    },
                    (false, true) => not_ready("PreviousServes", trouble.problem.clone()),
                    (false, false) => not_ready("NotLoaded", trouble.problem.clone()),
                });
            }
            let standing = self.watched.keeper.standing(&key.tenant, &key.name);
            found.extend(standing.iter().flat_map(plugins::conditions));
        }
        let unreachable =
            (key.kind == Kind::McpServer).then(|| self.watched.keeper.unreachable(&key.tenant, &key.name)).flatten();
        if let Some(why) = unreachable {
            found.push(Condition {
                kind: "Reachable".to_owned(),
                status: false,
                reason: "Unreachable".to_owned(),
                message: why,
            });
        }
        if !found.iter().any(|condition| condition.kind == "Ready") {
            found.push(Condition {
                kind: "Ready".to_owned(),
                status: self.watched.keeper.rounds() > 0,
                reason: "AsWritten".to_owned(),
                message: String::new(),
            });
        }
        found
    }

    fn findings(&self) -> Vec<Finding> {
        let shortcomings = self.watched.keeper.shortcomings();
        let gateways = shortcomings.conditions.iter().map(|c| Finding {
            subject: c.key.to_string(),
            grade: if c.fatal { Grade::Error } else { Grade::Warning },
            message: c.problem.clone(),
            next: Some(format!("Edit {}, then `portcullis describe {} {}`", c.key, c.key.kind.plural(), c.key.name)),
        });
        let plugins = shortcomings.troubles.iter().map(|t| Finding {
            subject: format!("Plugin/{}", t.place.plugin),
            grade: if t.previous || t.under_way.is_some() { Grade::Warning } else { Grade::Error },
            message: t.problem.clone(),
            next: Some(match t.under_way {
                Some(_) => {
                    "Nothing: it is loaded when that is done. `portcullis plugin status` says since when.".to_owned()
                }
                None => "Correct the component or its configuration; it is loaded again at once.".to_owned(),
            }),
        });
        let certificates = self.certificates.as_ref().and_then(Certificates::trouble).map(|why| Finding {
            subject: "tls".to_owned(),
            grade: Grade::Error,
            message: format!("the changed certificate files can't be used, so those of before are: {why}"),
            next: Some("Correct the file; it is read again within a second or two of the next connection.".to_owned()),
        });
        let store = self.watched.currency.trouble().map(|why| Finding {
            subject: "store".to_owned(),
            grade: Grade::Error,
            message: format!("can't be reached: {why}"),
            next: Some(
                "Nothing can be changed until it is there again; calls go on for a while (store.staleFor).".to_owned(),
            ),
        });
        let servers = self.workloads.iter().flat_map(Workloads::findings).map(|why| Finding {
            subject: "servers in the cluster".to_owned(),
            grade: Grade::Error,
            message: why,
            next: Some("It is tried again by itself; `portcullis describe server NAME` says more of one.".to_owned()),
        });
        let doors = self.customs.findings().into_iter().chain(servers);
        gateways.chain(plugins).chain(doors).chain(certificates).chain(store).collect()
    }
}

/// Records each use of the `reveal` grant before the bytes are handed out.
pub struct Reveals(pub Arc<Audit>);

impl RevealAudit for Reveals {
    #[allow(
        clippy::disallowed_methods,
        reason = "a reveal waits for one write to disk: it is rare, and has to be on record first"
    )]
    fn revealed(&self, tenant: &Name, plugin: &str, what: &str) -> bool {
        let mut event = AuditEvent::new("reveal");
        event.tenant = Some(tenant.shared());
        event.caller = Some(Arc::from(format!("plugin:{plugin}")));
        event.tool = Some(Arc::from(what));
        let runtime = tokio::runtime::Handle::current();
        // On a thread of its own, because a lane can't wait within its own runtime.
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| runtime.block_on(self.0.record_durable(event)));
            writing.join().is_ok_and(|written| written.is_ok())
        })
    }
}

/// Records that a caller's own token goes on to a server.
pub struct Passing(pub Arc<Audit>);

impl PassedAudit for Passing {
    fn passed<'a>(
        &'a self,
        tenant: &'a Name,
        caller: &'a str,
        server: &'a Name,
        exception: Option<&'a str>,
    ) -> BoxFuture<'a, bool> {
        let mut event = AuditEvent::new("passthrough");
        event.tenant = Some(tenant.shared());
        event.caller = Some(Arc::from(caller));
        event.server = Some(server.shared());
        event.reason = exception.map(|reason| reason.to_owned().into());
        Box::pin(async move { self.0.record_durable(event).await.is_ok() })
    }
}
