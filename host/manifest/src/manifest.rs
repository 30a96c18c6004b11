//! The manifest: who a plugin is, which contract it was built for, and which grants it wants, with reasons.

use serde::{Deserialize, Serialize};

/// The only form of a manifest so far.
const FORM: u32 = 1;
/// The most characters of a text in it.
const MAX_TEXT: usize = 1000;
/// The most things that a plugin wants.
const MAX_WANTS: usize = 100;

/// The grants of a `Plugin` resource that can be wanted, as they are written there. `httpPrivate` is none: which network an origin
/// lies in is for operators to know.
pub const GRANTS: [&str; 11] = [
    "http",
    "secrets",
    "reveal",
    "tokens",
    "issuers",
    "roles",
    "connections",
    "callerToken",
    "passthrough",
    "state",
    "sign",
];

/// What a plugin says of itself. Whoever wrote the component wrote this: nothing in it is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The form of this manifest: 1.
    pub manifest: u32,
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The version of the contract (`wit/`) that it was built for.
    pub wit: String,
    /// The SDK that built it, such as `rust 0.1.0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sdk: String,
    /// What it wants to be granted; none where it does not say, so that its imports alone tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<Vec<Want>>,
}

/// One thing that a plugin wants to be granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Want {
    /// The grant, as it is called in a `Plugin` resource.
    pub grant: String,
    /// Which one: a secret's name, an origin, an issuer, a role. Any where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// What for.
    pub reason: String,
}

impl Manifest {
    /// Whether it may be given a grant: it asks for it, or does not say what it wants.
    pub fn asks_for(&self, grant: &str) -> bool {
        self.wants.as_ref().is_none_or(|wants| wants.iter().any(|want| want.grant == grant))
    }

    /// Which ones of a grant it names; none where it asks for any, or for none at all (see [`Manifest::asks_for`]).
    pub fn named(&self, grant: &str) -> Option<Vec<&str>> {
        let mut wanted = self.wants.iter().flatten().filter(|want| want.grant == grant).peekable();
        wanted.peek()?;
        wanted.map(|want| want.what.as_deref()).collect()
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if manifest.manifest != FORM {
        return Err(format!("it is of the form {}, and only form {FORM} is known", manifest.manifest));
    }
    if manifest.name.is_empty() || manifest.version.is_empty() || manifest.wit.is_empty() {
        return Err("name, version and wit must not be empty".to_owned());
    }
    let wants = manifest.wants.as_deref().unwrap_or_default();
    if wants.len() > MAX_WANTS {
        return Err(format!("it wants more than {MAX_WANTS} things"));
    }
    let own = [&manifest.name, &manifest.version, &manifest.description, &manifest.wit, &manifest.sdk];
    let wanted = wants.iter().flat_map(|want| [Some(&want.grant), want.what.as_ref(), Some(&want.reason)]);
    if own.into_iter().chain(wanted.flatten()).any(|text| text.chars().count() > MAX_TEXT) {
        return Err(format!("a text has more than {MAX_TEXT} characters"));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Manifest, String> {
        parse(json.as_bytes())
    }

    #[test]
    fn a_manifest_says_what_is_wanted() {
        let read = read(
            r#"{"manifest": 1, "name": "broker", "version": "1.2.3", "wit": "0.1.0", "later": true, "wants": [
                {"grant": "http", "reason": "asks"}, {"grant": "secrets", "what": "key", "reason": "proves"}]}"#,
        )
        .unwrap();
        assert!(read.asks_for("http") && read.asks_for("secrets") && !read.asks_for("reveal"));
        assert_eq!((read.named("http"), read.named("secrets"), read.named("reveal")), (None, Some(vec!["key"]), None));
    }

    #[test]
    fn who_does_not_say_asks_for_anything() {
        let read = read(r#"{"manifest": 1, "name": "old", "version": "1", "wit": "0.1.0"}"#).unwrap();
        assert!(read.asks_for("reveal"));
        assert_eq!(read.named("secrets"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let long = "x".repeat(MAX_TEXT + 1);
        for (json, word) in [
            ("", "EOF"),
            (r#"{"manifest": 2, "name": "a", "version": "1", "wit": "0.1.0"}"#, "form 2"),
            (r#"{"manifest": 1, "name": "", "version": "1", "wit": "0.1.0"}"#, "empty"),
            (r#"{"manifest": 1, "name": "a", "version": "1"}"#, "wit"),
            (&format!(r#"{{"manifest": 1, "name": "{long}", "version": "1", "wit": "0.1.0"}}"#), "characters"),
        ] {
            assert!(read(json).is_err_and(|why| why.contains(word)), "{json}");
        }
    }

    #[test]
    fn the_sdk_knows_the_same_grants() {
        // A guest's crate can't share the list: it holds nothing of the house.
        let sdk = include_str!("../../../plugin-sdk/src/json.rs");
        let (_, after) = sdk.split_once("const GRANTS:").unwrap();
        let (list, _) = after.split_once("];").unwrap();
        let names: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, GRANTS);
    }
}
