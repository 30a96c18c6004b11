//! What a container image starts, by its configuration (OCI image specification 1.1; Docker's of before means the same).

use http::StatusCode;
use portcullis_model::oci::{Digest, InvalidReference, Reference};
use serde::Deserialize;

use super::Registry;
use crate::{
    PackageError,
    layout::{self, Descriptor, clean},
    sha256,
};

/// Everything that an image's manifest may be.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// The most bytes of a configuration: a long history is most of one.
const MAX_CONFIG: usize = 1 << 20;
/// The most words of an entrypoint, or of a command.
const MAX_WORDS: usize = 1_000;

/// What an image starts where nobody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// What is always started.
    pub entrypoint: Vec<String>,
    /// What follows it, where no arguments are given.
    pub command: Vec<String>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    manifests: Vec<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    digest: String,
    platform: Option<Machine>,
}

#[derive(Deserialize)]
struct Machine {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Configuration {
    config: Option<Execution>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

/// The name of an image in full: one without a registry is of `docker.io`, as container runtimes have it.
///
/// # Errors
/// [`InvalidReference`].
pub fn image(name: &str) -> Result<Reference, InvalidReference> {
    let first = name.split_once('/').map(|(first, _)| first);
    match first {
        Some(first) if first.contains(['.', ':']) || first == "localhost" => Reference::parse(name),
        Some(_) => Reference::parse(&format!("docker.io/{name}")),
        None => Reference::parse(&format!("docker.io/library/{name}")),
    }
}

impl Registry {
    /// What an image starts. Of one for several machines, the one for Linux on `architecture` (as the specification names it), or on
    /// any: what is started is the same.
    ///
    /// # Errors
    /// [`PackageError`].
    pub async fn startup(&mut self, image: &Reference, architecture: &str) -> Result<Startup, PackageError> {
        let name = image.digest().map(Digest::as_str).or(image.tag()).unwrap_or("latest").to_owned();
        let mut manifest = self.image_manifest(image, &name).await?;
        if manifest.config.is_none() {
            let linux = |on: &dyn Fn(&Machine) -> bool| {
                let fits = |p: &&Platform| p.platform.as_ref().is_some_and(|m| m.os == "linux" && on(m));
                manifest.manifests.iter().find(fits)
            };
            let chosen = linux(&|m| m.architecture == architecture).or_else(|| linux(&|_| true));
            let chosen = chosen.ok_or_else(|| PackageError::Layout("it is no image for Linux".to_owned()))?;
            let digest = Digest::parse(&chosen.digest)?.to_string();
            manifest = self.image_manifest(image, &digest).await?;
        }
        let config = manifest.config.ok_or_else(|| PackageError::Layout("it is no image".to_owned()))?;
        let config = self.blob(&config, "the image's configuration", MAX_CONFIG).await?;
        read(&config)
    }

    async fn image_manifest(&mut self, image: &Reference, name: &str) -> Result<Manifest, PackageError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let response = self.read(url, ACCEPT, layout::MAX_MANIFEST, "the manifest").await?;
        match response.status {
            StatusCode::NOT_FOUND => return Err(PackageError::NotFound(image.to_string())),
            StatusCode::OK => {}
            status => return Err(self.unexpected(status)),
        }
        if let Ok(wanted) = Digest::parse(name) {
            let found = Digest::of(sha256(&response.body));
            if found != wanted {
                return Err(PackageError::Altered { what: "the manifest", wanted, found });
            }
        }
        serde_json::from_slice(&response.body).map_err(|error| {
            PackageError::Layout(format!("what lies there is no image: {}", clean(&error.to_string())))
        })
    }
}

fn read(config: &[u8]) -> Result<Startup, PackageError> {
    let wrong = |why: &str| PackageError::Layout(format!("the image's configuration {why}"));
    let configuration: Configuration = serde_json::from_slice(config).map_err(|_| wrong("can't be read"))?;
    let Execution { entrypoint, cmd } = configuration.config.unwrap_or(Execution { entrypoint: None, cmd: None });
    let startup = Startup { entrypoint: entrypoint.unwrap_or_default(), command: cmd.unwrap_or_default() };
    let all = || startup.entrypoint.iter().chain(&startup.command);
    if all().any(|word| word.contains('\0')) || all().count() > MAX_WORDS {
        return Err(wrong("starts what can't be started"));
    }
    Ok(startup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_whole_as_container_runtimes_do() {
        for (name, whole) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("mcp/time", "docker.io/mcp/time"),
            ("ghcr.io/x/y:1", "ghcr.io/x/y:1"),
            ("localhost/x", "localhost/x"),
            ("registry:5000/x", "registry:5000/x"),
        ] {
            assert_eq!(image(name).unwrap().to_string(), whole);
        }
        assert!(image("A b").is_err());
    }

    #[test]
    fn what_is_started_is_read_and_nothing_is_guessed() {
        let of = |config: &str| read(config.as_bytes());
        let startup = |entrypoint: &[&str], command: &[&str]| {
            let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
            Startup { entrypoint: words(entrypoint), command: words(command) }
        };
        assert_eq!(of(r#"{"config":{"Entrypoint":["/x"],"Cmd":null}}"#).unwrap(), startup(&["/x"], &[]));
        assert_eq!(of(r#"{"config":{"Cmd":["a","b"]}}"#).unwrap(), startup(&[], &["a", "b"]));
        assert_eq!(of("{}").unwrap(), Startup::default());
        for bad in ["", "[]", r#"{"config":{"Cmd":"a b"}}"#, r#"{"config":{"Cmd":["a\u0000"]}}"#] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
