//! Holds configurations of plugins against the schemas that their components carry, when a resource comes in: whoever applies it is
//! told which path is wrong, before anything is written. What is not known then (a component that can't be read yet) is told when the
//! plugin is loaded.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use portcullis_model::{
    Door, Name, Problem, Resource, ResourceKey, Spec,
    spec::{PluginUse, Source},
};
use portcullis_package::{MAX_COMPONENT, Need};
use portcullis_plugin::{Schema, schema_of};
use portcullis_store::{Fleet, Judge};
use serde_json::{Value, json};

/// The most files whose schema is remembered.
const MAX_KNOWN: usize = 256;

/// A file as it was when it was read.
type Seen = (u64, Option<SystemTime>);

/// The same, and the schema that it had then.
type Known = (Seen, Option<Arc<Schema>>);

/// Knows what components say of their configuration.
#[derive(Default)]
pub struct Schemas {
    built_in: HashMap<&'static str, Option<Arc<Schema>>>,
    /// Not where files have to be signed: nobody looks into one before its signature is checked, which loading does.
    reads_files: bool,
    files: Mutex<HashMap<PathBuf, Known>>,
}

impl Schemas {
    /// One that knows the built-in plugins; and those in files where these need no signature.
    pub fn new(need: Need) -> Self {
        let built_in = portcullis_plugins::built_ins();
        let of = |one: &portcullis_plugins::BuiltIn| (one.name, schema_of(one.wasm).map(Arc::new));
        Self { built_in: built_in.iter().map(of).collect(), reads_files: need != Need::All, files: Mutex::default() }
    }

    /// The schema of the plugin that a name stands for, and the configuration that it has where a place says none.
    fn of(&self, fleet: &Fleet, tenant: &Name, name: &str) -> Option<(Arc<Schema>, Option<Value>)> {
        let key = name.parse().ok().map(|name| ResourceKey {
            tenant: tenant.clone(),
            kind: portcullis_model::Kind::Plugin,
            name,
        });
        match key.and_then(|key| fleet.get(&key)).map(|resource| (&resource.spec, resource)) {
            Some((Spec::Plugin(plugin), resource)) => {
                Some((self.of_source(&plugin.source, resource)?, plugin.config.clone()))
            }
            _ => Some((self.built_in.get(name)?.clone()?, None)),
        }
    }

    fn of_source(&self, source: &Source, resource: &Resource) -> Option<Arc<Schema>> {
        match source {
            // What a registry holds is fetched when the plugin is loaded.
            Source::Oci(_) => None,
            Source::BuiltIn(name) => self.built_in.get(name.as_str())?.clone(),
            Source::File { path, .. } => {
                let base = match &resource.metadata.door {
                    Some(Door::File(file)) => Path::new(file).parent(),
                    _ => None,
                };
                self.of_file(&base.map_or_else(|| PathBuf::from(path), |base| base.join(path)))
            }
        }
    }

    fn of_file(&self, path: &Path) -> Option<Arc<Schema>> {
        if !self.reads_files {
            return None;
        }
        let meta = fs::metadata(path).ok().filter(|meta| meta.is_file() && meta.len() <= MAX_COMPONENT as u64)?;
        let seen = (meta.len(), meta.modified().ok());
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, schema)) = files.get(path)
            && *before == seen
        {
            return schema.clone();
        }
        let schema = schema_of(&fs::read(path).ok()?).map(Arc::new);
        if files.len() >= MAX_KNOWN {
            files.clear();
        }
        files.insert(path.to_owned(), (seen, schema.clone()));
        schema
    }

    fn place(&self, fleet: &Fleet, tenant: &Name, path: &str, used: &PluginUse, problems: &mut Vec<Problem>) {
        let Some((schema, own)) = self.of(fleet, tenant, &used.plugin) else { return };
        match (&used.config, own) {
            (Some(here), _) => complain(&schema, here, path, problems),
            // The plugin's own is told at the plugin.
            (None, Some(_)) => {}
            (None, None) => complain(&schema, &json!({}), path, problems),
        }
    }
}

fn complain(schema: &Schema, config: &Value, path: &str, problems: &mut Vec<Problem>) {
    problems.extend(schema.check(config).into_iter().map(|complaint| {
        let path = if complaint.path.is_empty() { path.to_owned() } else { format!("{path}.{}", complaint.path) };
        Problem::new(path, complaint.message)
    }));
}

impl Judge for Schemas {
    fn problems(&self, fleet: &Fleet, resource: &Resource) -> Vec<Problem> {
        let tenant = &resource.metadata.namespace;
        let mut problems = Vec::new();
        match &resource.spec {
            Spec::Plugin(plugin) => {
                if let (Some(config), Some(schema)) = (&plugin.config, self.of_source(&plugin.source, resource)) {
                    complain(&schema, config, "spec.config", &mut problems);
                }
                let tried = plugin.candidate.as_ref();
                let tried = tried.and_then(|tried| Some((tried, self.of_source(&tried.source, resource)?)));
                if let Some((candidate, schema)) = tried
                    && let Some(config) = candidate.config.as_ref().or(plugin.config.as_ref())
                {
                    complain(&schema, config, "spec.candidate.config", &mut problems);
                }
            }
            Spec::Gateway(gateway) => {
                for (list, uses) in [("auth", &gateway.auth), ("policies", &gateway.policies)] {
                    for (at, used) in uses.iter().enumerate() {
                        self.place(fleet, tenant, &format!("spec.{list}[{at}].config"), used, &mut problems);
                    }
                }
            }
            _ => {}
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_to_be_signed_is_not_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        let access = portcullis_plugins::built_ins().iter().find(|one| one.name == "jwks").unwrap();
        fs::write(&file, access.wasm).unwrap();
        assert!(Schemas::new(Need::Registries).of_file(&file).is_some());
        assert!(Schemas::new(Need::All).of_file(&file).is_none());
    }
}
