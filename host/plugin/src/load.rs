//! From a plan to a plugin: grants are checked, the component is linked, tried once, and only then is there a plugin.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::AtomicBool},
};

use portcullis_model::{
    Name, Secret,
    spec::{Grants, Isolation, Limits},
};
use portcullis_telemetry::Metrics;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component as Compiled, InstancePre};

use crate::{
    closed,
    component::{Component, Exports, brief},
    error::{LoadError, PluginFailure},
    granted,
    health::Health,
    host::Host,
    instances::Ready,
    meter::{LogBudget, Slack},
    plugin::Plugin,
    prepare::Prepared,
    secrets::{Allowed, Guarded, OriginPattern},
    services::Services,
    spaces::Space,
    state::{Fixed, State},
};

/// A secret that an operator granted, already read.
#[derive(Clone, Debug)]
pub struct GrantedSecret {
    /// The secret.
    pub value: Secret,
    /// Origins that it may go to; the servers that a resolver answers for where empty.
    pub origins: Vec<String>,
}

/// What makes a component a plugin.
pub struct LoadPlan {
    /// The `Plugin` resource's name, for logs and metrics.
    pub name: String,
    /// Whose plugin it is.
    pub tenant: Name,
    /// The component.
    pub component: Arc<Component>,
    /// Its configuration: JSON text.
    pub config: String,
    /// What it may do, as far as its manifest asks for it.
    pub grants: Grants,
    /// The secrets of `grants.secrets`, read.
    pub secrets: BTreeMap<String, GrantedSecret>,
    /// How much one call may use.
    pub limits: Limits,
    /// How long an instance lives.
    pub isolation: Isolation,
    /// What the house does for it.
    pub services: Services,
}

impl Host {
    /// Checks grants, links, runs a trial instantiation and loads every hook. Only then is there a plugin, so what
    /// served before is replaced by what works.
    ///
    /// # Errors
    /// What is wrong; nothing was changed.
    pub async fn load(self: &Arc<Self>, plan: LoadPlan) -> Result<Arc<Plugin>, LoadError> {
        let (name, tenant) = (plan.name.clone(), plan.tenant.clone());
        let loaded = self.loaded(plan).await;
        if let Err(error) = &loaded {
            tracing::warn!(plugin = %name, %tenant, %error, "a plugin is refused");
        }
        loaded
    }

    async fn loaded(self: &Arc<Self>, mut plan: LoadPlan) -> Result<Arc<Plugin>, LoadError> {
        let manifest = plan.component.manifest();
        let (grants, apart) = granted::both(manifest, &plan.grants);
        plan.secrets.retain(|name, _| manifest.is_none_or(|manifest| granted::asks_for(manifest, "secrets", name)));
        let operator = std::mem::replace(&mut plan.grants, grants);
        if !apart.withheld.is_empty() {
            let (plugin, tenant, grants) = (&plan.name, &plan.tenant, apart.withheld.join(", "));
            tracing::warn!(plugin, %tenant, grants, "granted and not handed out: the plugin's manifest does not ask for it");
        }
        let fixed = Arc::new(check(&plan, &operator, &self.metrics, self.spaces.of(&plan.tenant, &plan.name))?);
        let ready = self.ready(&plan, &fixed).await?;
        let health = Health::new(&plan.name, &plan.tenant, Arc::clone(&fixed.metrics), plan.isolation);
        let mut plugin = Plugin {
            host: Arc::clone(self),
            exports: Arc::clone(&ready.exports),
            ready,
            suspends: plan.component.suspends(),
            fixed,
            limits: plan.limits,
            isolation: plan.isolation,
            health,
            apart,
            description: None,
        };
        plugin.trial().await?;
        if plugin.hooks().described {
            plugin.description = Some(plugin.describe().await.map_err(|failure| match failure {
                PluginFailure::Error(error) => LoadError::Setup(error),
                failure => LoadError::Trial(failure),
            })?);
        }
        Ok(Arc::new(plugin))
    }

    /// The component, ready for instances: the same for everybody who shares them.
    async fn ready(self: &Arc<Self>, plan: &LoadPlan, fixed: &Arc<Fixed>) -> Result<Arc<Ready>, LoadError> {
        let key = (plan.isolation == Isolation::Shared).then(|| shared_by(plan));
        let known = |key: &String| {
            let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.get(key).and_then(std::sync::Weak::upgrade)
        };
        if let Some(ready) = key.as_ref().and_then(known) {
            return Ok(ready);
        }
        let prepared = self.prepare(plan, fixed).await?;
        let (runs, unprepared) = match &prepared {
            Prepared::Image(compiled) => (compiled, false),
            Prepared::EachTime => (&plan.component.compiled, true),
            Prepared::NotNeeded => (&plan.component.compiled, false),
        };
        let ready = Arc::new(Ready::new(Arc::clone(&plan.component), self.link(runs)?, Exports::of(runs), unprepared));
        if let Some(key) = key {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody has any more go, so there are never more than plugins.
            shared.retain(|_, ready| ready.strong_count() > 0);
            shared.insert(key, Arc::downgrade(&ready));
        }
        Ok(ready)
    }

    pub(crate) fn link(&self, compiled: &Compiled) -> Result<InstancePre<State>, LoadError> {
        let failed = |e: wasmtime::Error| LoadError::Link(brief(&format!("{e:#}")));
        let closed = closed::linked(&self.linker, compiled).map_err(failed)?;
        closed.as_ref().unwrap_or(&self.linker).instantiate_pre(compiled).map_err(failed)
    }
}

/// Tells those who may share instances from others: what a guest's memory may hold of what it was given, and its limits.
fn shared_by(plan: &LoadPlan) -> String {
    let mut hash = Sha256::new();
    let more = serde_json::to_vec(&(&plan.grants, &plan.limits)).unwrap_or_default();
    for part in [plan.component.digest().as_bytes(), plan.config.as_bytes(), &more] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Everything about a plan that can be said without running it. `operator` is what was granted before the manifest was looked at.
fn check(plan: &LoadPlan, operator: &Grants, metrics: &Metrics, space: Arc<Space>) -> Result<Fixed, LoadError> {
    let metrics = metrics.plugin_handle(plan.tenant.as_str(), &plan.name);
    let (component, grants, services) = (&plan.component, &plan.grants, &plan.services);
    for (interface, need) in component.needed() {
        let (interface, grant) = (interface.to_owned(), need.grant);
        if !(need.granted)(grants) {
            metrics.capability_denied(need.capability);
            return Err(match (need.granted)(operator) {
                true => LoadError::Unasked { interface, grant },
                false => LoadError::Ungranted { interface, grant },
            });
        }
        if !(need.available)(services) {
            return Err(LoadError::Unavailable(interface));
        }
    }
    if plan.isolation == Isolation::Shared {
        // What it holds of one tenant would be at hand in the next one's call.
        let why = match (component.hooks().resolver, grants.reveal) {
            (true, _) => "a credential resolver can't share its instances: use isolation `call` or `tenant`",
            (false, true) => {
                "a plugin that may reveal secrets can't share its instances: use isolation `call` or `tenant`"
            }
            (false, false) => "",
        };
        if !why.is_empty() {
            return Err(LoadError::Invalid(why.to_owned()));
        }
    }
    let not_an_origin =
        |text: &str| LoadError::Invalid(format!("\"{text}\" is not an origin such as https://idp.example.com"));
    let http_origins: Result<Vec<_>, _> =
        grants.http.iter().map(|o| OriginPattern::parse(o).ok_or_else(|| not_an_origin(o))).collect();
    let mut secrets = BTreeMap::new();
    for (name, secret) in &plan.secrets {
        let allowed = Allowed::granted(&secret.origins).map_err(|o| not_an_origin(&o))?;
        secrets.insert(name.clone(), Guarded::secret(secret.value.clone(), allowed, name.clone()));
    }
    let config: serde_json::Value = serde_json::from_str(&plan.config)
        .map_err(|e| LoadError::Invalid(format!("the configuration is no JSON: {e}")))?;
    let complaints = component.schema().map(|schema| schema.check(&config)).unwrap_or_default();
    if !complaints.is_empty() {
        return Err(LoadError::Config(complaints));
    }
    Ok(Fixed {
        name: plan.name.clone(),
        tenant: plan.tenant.clone(),
        config: plan.config.clone(),
        grants: plan.grants.clone(),
        http_origins: http_origins?,
        secrets,
        services: plan.services.clone(),
        metrics,
        log_budget: LogBudget::new(),
        slack: Slack::new(),
        space,
        max_output: plan.limits.output.as_usize(),
        figures_dropped: AtomicBool::new(false),
    })
}
