//! One place: what serves there now, which may be what served before, and the version that is tried beside it.

use std::sync::Arc;

use portcullis_model::spec::{Grants, Isolation, Limits, Plugin as Spec};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Manager, Place, Stage, Trouble, Wanted, config_of, config_text,
    fetch::{self, Fetched, Unready, granted, identity},
    standing::not_compared,
    works::{Progress, Wait},
};
use crate::{Candidate, LoadError, LoadPlan, Placed, Plugin, PluginFailure, rollout::Differences};

/// What there is at a place.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) serving: Result<Placed, String>,
    /// What was refused for good, by identity: trying the same again would only cost time.
    refused: Option<Refused>,
    refused_candidate: Option<Refused>,
}

#[derive(Clone)]
pub(super) struct Refused {
    identity: String,
    problem: String,
}

/// What a place came to, and what is not as it should be.
pub(super) type Loaded = (Slot, Vec<Trouble>);

/// One version for one place, ready to load.
struct Recipe<'w> {
    name: String,
    fetched: &'w Fetched,
    config: String,
    grants: Grants,
    limits: Limits,
    isolation: Isolation,
}

impl Manager {
    /// What a place comes to: what serves there now, and what is not as it should be.
    pub(super) async fn place(
        &self,
        place: &Place,
        wanted: Option<&Wanted<'_>>,
        earlier: Option<&Slot>,
        wait: &Wait,
    ) -> Loaded {
        let mut troubles = Vec::new();
        let trouble = |why: &Unready, previous: bool, candidate: bool| Trouble {
            place: place.clone(),
            problem: why.words().to_owned(),
            previous,
            candidate,
            under_way: why.under_way(),
        };
        // Whoever deletes a plugin wants it gone, also where something still names it: nothing goes on serving then.
        let is_there = wanted.is_some() || self.built_ins.contains_key(place.plugin.as_str());
        let was = earlier.and_then(|slot| slot.serving.as_ref().ok()).filter(|_| is_there);
        let built_in;
        let recipe = match wanted {
            None => match fetch::built_in(&place.plugin, &self.built_ins) {
                Ok(fetched) => {
                    built_in = fetched;
                    Ok(Recipe::of(place, &built_in, None, &Value::Null))
                }
                Err(problem) => Err(Unready::Failed(problem)),
            },
            Some(wanted) => match &wanted.version {
                Ok((fetched, config)) => Ok(Recipe::of(place, fetched, Some(&wanted.resource.spec), config)),
                Err(why) => Err(why.clone()),
            },
        };
        let known = was.map(|was| (&was.plugin, &was.identity));
        let (loaded, refused) = match recipe {
            Ok(recipe) => self.load(place, recipe, known, earlier.and_then(|e| e.refused.as_ref()), wait).await,
            Err(why) => {
                if why.under_way().is_some() {
                    self.loads.keep(&key_of(place, &place.plugin), wait.round);
                }
                (Err(why), earlier.and_then(|e| e.refused.clone()))
            }
        };
        let mut serving = match loaded {
            Ok((plugin, identity)) => Ok(Placed::alone(plugin, identity)),
            Err(why) => {
                troubles.push(trouble(&why, was.is_some(), false));
                match was {
                    Some(was) => Ok(Placed::alone(Arc::clone(&was.plugin), Arc::clone(&was.identity))),
                    None => Err(match &why {
                        Unready::Failed(problem) => problem.clone(),
                        Unready::UnderWay(stage) => format!("plugin \"{}\": {}", place.plugin, stage.words()),
                    }),
                }
            }
        };
        let mut refused_candidate = None;
        if let (Ok(placed), Some((wanted, (spec, found)))) =
            (&mut serving, wanted.and_then(|w| Some((w, w.candidate.as_ref()?))))
        {
            let was = was.and_then(|was| was.candidate.as_ref());
            let loaded = match found {
                Ok(fetched) => {
                    let own = wanted.resource.spec.config.as_ref();
                    let config = config_of(spec.config.as_ref().or(own));
                    let mut recipe = Recipe::of(place, fetched, Some(&wanted.resource.spec), &config);
                    recipe.name = candidate_of(place);
                    let refused = earlier.and_then(|e| e.refused_candidate.as_ref());
                    let known = was.map(|was| (&was.plugin, &was.identity));
                    let (loaded, refused) = self.load(place, recipe, known, refused, wait).await;
                    refused_candidate = refused;
                    loaded
                }
                Err(why) => {
                    if why.under_way().is_some() {
                        self.loads.keep(&key_of(place, &candidate_of(place)), wait.round);
                        refused_candidate = earlier.and_then(|e| e.refused_candidate.clone());
                    }
                    Err(why.clone())
                }
            };
            // Its callers would be without that hook.
            let fits = loaded.and_then(|(plugin, identity)| match plugin.hooks().lacks(placed.plugin.hooks()) {
                Some(hook) => {
                    Err(Unready::Failed(format!("it lacks the hook {hook}, which the active version serves")))
                }
                None => Ok((plugin, identity)),
            });
            match fits {
                Ok((plugin, identity)) => {
                    let differences = was
                        .filter(|was| *was.identity == *identity)
                        .map_or_else(Differences::default, |was| was.differences.clone());
                    let share = spec.share;
                    let shadows = share == 0 && not_compared(&plugin).is_none();
                    placed.candidate = Some(Candidate { plugin, identity, share, shadows, differences });
                }
                Err(why) => troubles.push(trouble(&why, true, true)),
            }
        }
        (Slot { serving, refused, refused_candidate }, troubles)
    }

    /// Loads one version, unless it is the one that is there or one that was refused for good.
    async fn load(
        &self,
        place: &Place,
        recipe: Recipe<'_>,
        known: Option<(&Arc<Plugin>, &Arc<str>)>,
        refused: Option<&Refused>,
        wait: &Wait,
    ) -> (Result<(Arc<Plugin>, Arc<str>), Unready>, Option<Refused>) {
        let Recipe { name, fetched, config, grants, limits, isolation } = recipe;
        let secrets = match granted(&place.tenant, &grants, self.services.secrets.as_deref()) {
            Ok(secrets) => secrets,
            Err(problem) => return (Err(Unready::Failed(problem)), None),
        };
        let identity = identity(&fetched.digest, &config, &grants, &secrets, &limits, isolation);
        if let Some((plugin, known)) = known.filter(|(_, known)| ***known == *identity) {
            return (Ok((Arc::clone(plugin), Arc::clone(known))), None);
        }
        if let Some(refused) = refused.filter(|refused| refused.identity == identity) {
            return (Err(Unready::Failed(refused.problem.clone())), Some(refused.clone()));
        }
        let key = format!("{}{identity}", key_of(place, &name));
        let loaded = || {
            let (host, wasm) = (Arc::clone(&self.host), Arc::clone(&fetched.wasm));
            let (tenant, services) = (place.tenant.clone(), self.services.clone());
            async move {
                let component = host.compile(wasm).await?;
                host.load(LoadPlan { name, tenant, component, config, grants, secrets, limits, isolation, services })
                    .await
            }
        };
        match self.loads.get(&key, wait, loaded).await {
            Progress::Done { value: Ok(plugin), .. } => {
                let (tenant, digest, key) = (&place.tenant, plugin.digest(), fetched.key.as_deref().unwrap_or("none"));
                tracing::info!(plugin = plugin.name(), %tenant, digest, key, "plugin is serving");
                (Ok((plugin, Arc::from(identity))), None)
            }
            Progress::Done { value: Err(error), .. } => {
                let problem = error.to_string();
                let refused = (!may_pass(&error)).then(|| Refused { identity, problem: problem.clone() });
                (Err(Unready::Failed(problem)), refused)
            }
            // What was refused before stays so: it may be asked for again before this is done.
            Progress::UnderWay => (Err(Unready::UnderWay(Stage::Compiling)), refused.cloned()),
            Progress::Lost => (Err(Unready::Failed("loading it ended without a word".to_owned())), None),
        }
    }
}

impl<'w> Recipe<'w> {
    fn of(place: &Place, fetched: &'w Fetched, spec: Option<&Spec>, own: &Value) -> Self {
        let config = place.config.clone().unwrap_or_else(|| config_text(own));
        // What a resource grants to a built-in is all that it gets, as with anybody else's.
        let grants = match (spec.map(|s| &s.grants), &fetched.usual) {
            (None, Some(usual)) => usual.clone(),
            (Some(asked), Some(usual)) if *asked == Grants::default() => usual.clone(),
            (Some(asked), _) => asked.clone(),
            (None, None) => Grants::default(),
        };
        Self {
            name: place.plugin.clone(),
            fetched,
            config,
            grants,
            limits: spec.map(|s| s.limits.clone()).unwrap_or_default(),
            isolation: spec.map(|s| s.isolation).unwrap_or_default(),
        }
    }
}

/// What a candidate is called wherever something is kept by name.
fn candidate_of(place: &Place) -> String {
    format!("{}@candidate", place.plugin)
}

/// How keys of work on a place's versions begin. A plugin belongs to one place: its quarantine is that place's.
fn key_of(place: &Place, name: &str) -> String {
    let config = place.config.as_deref().map(|config| fetch::hex(&Sha256::digest(config)));
    format!("{}/{name}/{}/", place.tenant, config.as_deref().unwrap_or("own"))
}

/// Whether the same may well load another time.
fn may_pass(error: &LoadError) -> bool {
    matches!(
        error,
        LoadError::CompileTimeout(_)
            | LoadError::Host(_)
            | LoadError::Unavailable(_)
            | LoadError::Trial(PluginFailure::Timeout | PluginFailure::PoolFull | PluginFailure::Cpu)
    )
}
