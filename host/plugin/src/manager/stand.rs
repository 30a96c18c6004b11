//! How resources stand after a round, and telling what became of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use portcullis_model::spec::Candidate as CandidateSpec;
use serde_json::Value;

use super::{
    CandidateStanding, Manager, Place, Resource, Stage, Standing, State, Trouble, Wanted, config_text,
    fetch::{Fetched, Unready},
    life_of,
    places::Slot,
    standing::{not_compared, not_shared, now_ms},
    versions::{Version, Versions},
};
use crate::{Hooks, Placed};

impl Manager {
    /// Notes how each resource stands, and tells what became of it. Gives the components that serve.
    pub(super) fn stand(
        &self,
        wanted: &BTreeMap<(&str, &str), Wanted<'_>>,
        after: &HashMap<Place, Slot>,
        troubles: &[Trouble],
        versions: &mut Versions,
    ) -> Vec<(String, Arc<[u8]>)> {
        let mut components = Vec::new();
        let before = self.standings.load_full();
        let mut standings = BTreeMap::new();
        for wanted in wanted.values() {
            let (tenant, name) = (&wanted.resource.tenant, &wanted.resource.name);
            let here = |place: &Place| place.tenant == *tenant && place.plugin == name.as_str();
            let places = after.iter().filter(|(place, _)| here(place));
            let places: Vec<(&Place, &Placed)> =
                places.filter_map(|(place, slot)| Some((place, slot.serving.as_ref().ok()?))).collect();
            let serving: Vec<&Placed> = places.iter().map(|(_, placed)| *placed).collect();
            // What is wrong at one place says more than what still goes on at another.
            let trouble = |candidate: bool| {
                let here = || troubles.iter().filter(|t| here(&t.place) && t.candidate == candidate);
                here().find(|t| t.under_way.is_none()).or_else(|| here().next())
            };
            let problem = trouble(false).map(|t| t.problem.clone());
            let going = troubles.iter().filter(|t| here(&t.place) && !t.candidate).find_map(|t| t.under_way);
            let wrong = trouble(false).is_some_and(|t| t.under_way.is_none());
            let version = wanted.version.as_ref().ok();
            // Some place has it: it is the one that serves, though another place may have a configuration that it does not take.
            let has = |(place, placed): &(&Place, &Placed), (fetched, config): &(Fetched, Value)| {
                let own = || placed.plugin.config() == config_text(config);
                placed.plugin.digest() == fetched.digest && (place.config.is_some() || own())
            };
            let took = version.filter(|version| places.iter().any(|place| has(place, version)));
            if let Some((fetched, config)) = took {
                let version = Version { digest: fetched.digest.clone(), config: config.to_string() };
                components.push((fetched.digest.clone(), Arc::clone(&fetched.wasm)));
                if let Some(life) = versions.lives.get_mut(&life_of(tenant, name.as_str())) {
                    life.activated(&version);
                }
            }
            let state = match going {
                _ if serving.is_empty() && wrong => State::Refused,
                _ if took.is_some() && wanted.pinned => State::RolledBack,
                _ if wrong => State::Previous,
                Some(Stage::Fetching) => State::Fetching,
                Some(Stage::Compiling) => State::Compiling,
                None if serving.is_empty() => State::Refused,
                None => State::Active,
            };
            let active =
                took.map(|(f, _)| f.digest.clone()).or_else(|| serving.first().map(|p| p.plugin.digest().to_owned()));
            let life = versions.lives.get(&life_of(tenant, name.as_str()));
            let previous = life.map(|l| l.previous.iter().map(|v| v.digest.clone()).collect()).unwrap_or_default();
            let was = before.get(&(tenant.clone(), name.clone()));
            let mut standing = Standing {
                state,
                desired: wanted.desired.clone(),
                active,
                hooks: serving.first().map_or_else(Hooks::default, |p| p.plugin.hooks()),
                withheld: serving.first().map(|p| p.plugin.withheld().to_vec()).unwrap_or_default(),
                ungranted: serving.first().map(|p| p.plugin.ungranted().to_vec()).unwrap_or_default(),
                problem,
                under_way: going,
                since_ms: now_ms(),
                previous,
                candidate: wanted
                    .candidate
                    .as_ref()
                    .map(|(spec, found)| candidate(spec, found, &serving, trouble(true))),
                quarantined: Vec::new(),
            };
            if let Some(was) = was.filter(|was| (was.state, &was.active) == (standing.state, &standing.active)) {
                standing.since_ms = was.since_ms;
            }
            self.tell(wanted.resource, &standing, was);
            standings.insert((tenant.clone(), name.clone()), standing);
        }
        for ((tenant, name), _) in before.iter().filter(|(key, _)| !standings.contains_key(key)) {
            self.metrics.plugin_handle(tenant.as_str(), name.as_str()).transition("gone");
            tracing::info!(plugin = %name, %tenant, "a plugin is gone");
        }
        self.standings.store(Arc::new(standings));
        components
    }

    /// Counts and logs what became of a resource since `before`.
    fn tell(&self, resource: &Resource, standing: &Standing, before: Option<&Standing>) {
        let metrics = self.metrics.plugin_handle(resource.tenant.as_str(), resource.name.as_str());
        let (desired, active) = (standing.desired.as_deref(), standing.active.as_deref());
        for (to, why) in standing.transitions(before) {
            metrics.transition(to);
            let (plugin, tenant, digest) = (&resource.name, &resource.tenant, active.unwrap_or_default());
            let desired = desired.unwrap_or_default();
            if to.ends_with("refused") {
                let why = why.unwrap_or_default();
                tracing::warn!(%plugin, %tenant, to, digest, desired, why, "a version of a plugin is refused");
            } else {
                tracing::info!(%plugin, %tenant, to, digest, desired, "a plugin changes");
            }
        }
    }
}

/// How a candidate stands.
fn candidate(
    spec: &CandidateSpec,
    found: &Result<Fetched, Unready>,
    serving: &[&Placed],
    refused: Option<&Trouble>,
) -> CandidateStanding {
    let loaded = serving.iter().find_map(|p| p.candidate.as_ref());
    let plugin = loaded.map(|c| &c.plugin);
    let idle = plugin.and_then(|p| if spec.share == 0 { not_compared(p) } else { not_shared(p) });
    let asked = loaded.is_some() && idle.is_none();
    CandidateStanding {
        digest: found.as_ref().ok().map(|f| f.digest.clone()),
        share: spec.share,
        asked,
        problem: refused.map(|t| t.problem.clone()).or_else(|| idle.map(str::to_owned)),
        under_way: refused.and_then(|t| t.under_way),
        differences: loaded.map(|c| c.differences.clone()).unwrap_or_default(),
    }
}
