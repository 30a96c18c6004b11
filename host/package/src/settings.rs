//! The server setting `plugins`: whose signatures count, which registries are how reached, how much is kept.

use std::path::{Path, PathBuf};

use portcullis_model::{Bytes, Span};
use serde::Deserialize;

use crate::MAX_COMPONENT;

/// How components come to this gateway. `docs/configuration.md` explains each.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PackageSettings {
    /// Which components need a signature.
    pub signatures: Need,
    /// Whose signatures count.
    pub keys: Vec<KeySetting>,
    /// Registries that are reached otherwise than over https on the public internet.
    pub registries: Vec<RegistrySetting>,
    /// How many bytes of fetched components are kept.
    pub keep: Bytes,
    /// How long a change waits for components that are fetched or compiled for it; after that it goes on without them, and they come
    /// when they come.
    pub wait: Span,
    /// The most bytes of a component, 64 MiB at most. What is larger is neither fetched nor compiled.
    pub max_component: Bytes,
}

impl Default for PackageSettings {
    fn default() -> Self {
        Self {
            signatures: Need::default(),
            keys: Vec::new(),
            registries: Vec::new(),
            keep: Bytes::mebi(1024),
            wait: Span::seconds(10),
            max_component: Bytes::mebi(16),
        }
    }
}

/// Which components need a signature of a trusted key before they are compiled. Built-in ones are part of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Those of registries and those of files.
    All,
    /// Those of registries. A file was put there by whoever runs the gateway.
    #[default]
    Registries,
    /// None.
    None,
}

/// A key whose signatures count.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeySetting {
    /// What logs and status call it.
    pub name: String,
    /// A PEM file with the public key (ECDSA P-256), as `portcullis plugin keys new` and cosign write it.
    pub file: PathBuf,
    /// Repositories that it may sign for: `registry.example.com/team/plugin`, or all below `registry.example.com/team/*`; all where
    /// left out.
    #[serde(default)]
    pub repositories: Vec<String>,
    /// Whether it may sign files; where left out, only if it may sign for all repositories.
    #[serde(default)]
    pub files: Option<bool>,
}

/// A registry that is reached in its own way.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistrySetting {
    /// `registry.example.com`, with its port where references have one.
    pub host: String,
    /// Whether its name may lead to the own network.
    #[serde(default)]
    pub private: bool,
    /// Whether it is asked over http: anybody on the way reads the password then. On loopback this is so where left out.
    #[serde(default)]
    pub plain_http: Option<bool>,
}

impl PackageSettings {
    /// # Errors
    /// In words for operators, where a setting makes no sense.
    pub fn check(&self) -> Result<(), String> {
        match self.max_component.as_usize() {
            0 => Err("plugins.maxComponent: must be more than nothing".to_owned()),
            size if size > MAX_COMPONENT => {
                Err(format!("plugins.maxComponent: {}MiB is the most", MAX_COMPONENT >> 20))
            }
            _ => Ok(()),
        }
    }

    /// Makes relative paths start from a directory.
    pub fn start_from(&mut self, base: &Path) {
        for key in &mut self.keys {
            key.file = base.join(&key.file);
        }
    }
}
