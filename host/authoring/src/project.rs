//! Makes a new project, and brings another version of the SDK into one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Template, vendored};

/// Where a project has the SDK from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// Its source lies in the project's `vendor` folder.
    Vendored,
    /// A checkout's `plugin-sdk` folder.
    Path(PathBuf),
}

/// Why there is no project.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No name that a crate and a `Plugin` resource may both have.
    #[error(
        "\"{0}\" is no name of a plugin: letters a to z, digits and single hyphens, beginning with a letter, 50 at most"
    )]
    Name(String),
    /// Somebody's files are there.
    #[error("{0} is there already, and not empty")]
    Exists(PathBuf),
    /// No SDK there.
    #[error("{0} is not the folder of an SDK: it holds no Cargo.toml of portcullis-sdk")]
    NoSdk(PathBuf),
    /// Not a project with a vendored SDK.
    #[error("{0} holds no vendor/portcullis-sdk: it is no project with an SDK of its own")]
    NotVendored(PathBuf),
    /// It can't be written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes a project in a folder that is not there, or is empty.
///
/// # Errors
/// Where the name is none, the folder is taken, or it can't be written. What was written until then stays.
pub fn create(folder: &Path, name: &str, template: Template, sdk: &Sdk) -> Result<(), CreateError> {
    if !is_name(name) {
        return Err(CreateError::Name(name.to_owned()));
    }
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file();
    if occupied {
        return Err(CreateError::Exists(folder.to_owned()));
    }
    let path = match sdk {
        Sdk::Vendored => "vendor/portcullis-sdk".to_owned(),
        Sdk::Path(path) => {
            let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
            if !manifest.contains("name = \"portcullis-sdk\"") {
                return Err(CreateError::NoSdk(path.clone()));
            }
            let absolute = path.canonicalize().map_err(|source| CreateError::File { path: path.clone(), source })?;
            absolute.display().to_string()
        }
    };
    for (file, text) in template.files(name) {
        // The versions of its lock are those of the vendored SDK.
        if file == "Cargo.lock" && *sdk != Sdk::Vendored {
            continue;
        }
        write(&folder.join(file), &text.replace("{{sdk}}", &path.replace('\\', "/").replace('"', "\\\"")))?;
    }
    if *sdk == Sdk::Vendored {
        vendor(folder)?;
    }
    Ok(())
}

/// Brings this SDK's source into a project that has one of its own.
///
/// # Errors
/// Where it has none, or can't be written.
pub fn revise(folder: &Path) -> Result<(), CreateError> {
    let own = folder.join("vendor/portcullis-sdk");
    if !own.join("Cargo.toml").is_file() {
        return Err(CreateError::NotVendored(folder.to_owned()));
    }
    for old in [own, folder.join("vendor/portcullis-sdk-macros")] {
        match fs::remove_dir_all(&old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CreateError::File { path: old, source: error });
            }
            _ => {}
        }
    }
    vendor(folder)
}

fn vendor(folder: &Path) -> Result<(), CreateError> {
    vendored::all().try_for_each(|(path, text)| write(&folder.join("vendor").join(path), text))
}

fn write(path: &Path, text: &str) -> Result<(), CreateError> {
    let failed = |source| CreateError::File { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}

fn is_name(name: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= 50
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('-').all(word)
        // Crates that the project itself needs, and words that a Rust crate can't be called.
        && !["portcullis-sdk", "portcullis-sdk-macros", "serde", "serde-json", "test", "core", "std", "self", "super", "crate"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_whole_in_itself() {
        let dir = tempfile::tempdir().unwrap();
        for (name, template) in
            [("token-broker", Template::Resolver), ("idp", Template::Provider), ("roles", Template::Policy)]
        {
            let folder = dir.path().join(name);
            create(&folder, name, template, &Sdk::Vendored).unwrap();
            let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
            assert!(read("Cargo.toml").contains(&format!("name = \"{name}\"")));
            assert!(read("Cargo.lock").contains(&format!("name = \"{name}\"")));
            assert!(read("vendor/portcullis-sdk/src/lib.rs").contains("Write a Portcullis plugin"));
            for file in ["Cargo.toml", "src/lib.rs", "plugin.yaml", "README.md"] {
                assert!(!read(file).contains("{{"), "{file} of {name}");
            }
            assert!(matches!(create(&folder, name, template, &Sdk::Vendored), Err(CreateError::Exists(_))));
        }
    }

    #[test]
    fn names_are_those_of_crates_and_resources() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "Broker", "1st", "a--b", "a-", "../x", "a b", "é", "portcullis-sdk", &"x".repeat(51)] {
            let made = create(&dir.path().join("x"), name, Template::Policy, &Sdk::Vendored);
            assert!(matches!(made, Err(CreateError::Name(_))), "{name}");
        }
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn another_sdk_takes_the_place_of_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("p");
        assert!(matches!(revise(&folder), Err(CreateError::NotVendored(_))));
        create(&folder, "p", Template::Policy, &Sdk::Vendored).unwrap();
        let old = folder.join("vendor/portcullis-sdk/src/old.rs");
        fs::write(&old, "").unwrap();
        fs::write(folder.join("src/lib.rs"), "mine").unwrap();
        revise(&folder).unwrap();
        assert!(!old.exists() && folder.join("vendor/portcullis-sdk/src/lib.rs").exists());
        assert_eq!(fs::read_to_string(folder.join("src/lib.rs")).unwrap(), "mine");
        let elsewhere = Sdk::Path(dir.path().to_owned());
        assert!(matches!(create(&dir.path().join("q"), "q", Template::Policy, &elsewhere), Err(CreateError::NoSdk(_))));
    }
}
