//! Resources as people write them: YAML documents, each error with its file, line and column.
//!
//! A document is read twice: once into a tree of positions, so that a rule which a type can't say (`Problem`) still points
//! at its line, and once straight into its typed spec, so that the parser's own errors do. Aliases, nesting, sizes and
//! counts are bounded before anything is built.

mod positions;
mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use portcullis_model::{
    Resource, ResourceKey, Spec,
    spec::{SecretSource, Source},
};
use serde::{Deserialize, Serialize};

use positions::Positions;
use serde_saphyr::SerializeError as WriteError;

/// The most bytes of one file.
pub const MAX_FILE: usize = 4 << 20;
/// The most documents of one file.
pub const MAX_DOCUMENTS: usize = 4096;
/// How many errors of one file are told; the rest would only repeat the first.
pub const MAX_ERRORS: usize = 50;

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{message}", Place(.file, *.line, *.column))]
#[serde(rename_all = "camelCase")]
pub struct DocumentError {
    /// The file as the operator named it; `-` for standard input.
    pub file: String,
    /// The line, from 1; 0 where the error is about the whole file.
    pub line: u32,
    /// The column, from 1; 0 where unknown.
    pub column: u32,
    /// What is wrong, and what would be right.
    pub message: String,
}

struct Place<'a>(&'a str, u32, u32);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.0)?;
        if self.1 > 0 {
            write!(f, "{}:", self.1)?;
            if self.2 > 0 {
                write!(f, "{}:", self.2)?;
            }
        }
        f.write_str(" ")
    }
}

/// One resource and where it was written.
#[derive(Clone, Debug)]
pub struct Document {
    /// The resource, checked alone.
    pub resource: Resource,
    /// The file it stands in.
    pub file: String,
    /// The line its document begins at.
    pub line: u32,
    positions: Positions,
}

impl Document {
    /// An error at a path in this document, such as `spec.servers[1].prefix`; at the nearest parent that was written where
    /// the path itself was not.
    pub fn error_at(&self, path: &str, message: impl fmt::Display) -> DocumentError {
        let (line, column) = self.positions.of(path).unwrap_or((self.line, 0));
        let message = if path.is_empty() { message.to_string() } else { format!("{path}: {message}") };
        DocumentError { file: self.file.clone(), line, column, message }
    }

    /// Makes the paths that the document gives relative to itself absolute.
    pub fn resolve_paths(&mut self, base: &Path) {
        resolve_paths(&mut self.resource, base);
    }
}

/// Makes paths in a resource absolute: a plugin's file, a secret's file and a child's working directory are written relative
/// to the file that holds the resource.
pub fn resolve_paths(resource: &mut Resource, base: &Path) {
    let absolute = |path: &mut String| {
        if Path::new(path.as_str()).is_relative() {
            *path = tidy(&base.join(path.as_str())).to_string_lossy().into_owned();
        }
    };
    for source in resource.spec.secret_sources_mut() {
        if let SecretSource::File(path) = source {
            absolute(path);
        }
    }
    match &mut resource.spec {
        Spec::Plugin(plugin) => {
            for source in plugin.sources_mut() {
                if let Source::File { path, .. } = source {
                    absolute(path);
                }
            }
        }
        Spec::McpServer(server) => {
            if let Some(cwd) = server.process.as_mut().and_then(|p| p.cwd.as_mut()) {
                absolute(cwd);
            }
            if let Some(Source::File { path, .. }) = server.component.as_mut().map(|component| &mut component.source) {
                absolute(path);
            }
            if let Some(files) = server.process.as_mut().and_then(|p| p.files.as_mut()) {
                files.read.iter_mut().flatten().chain(&mut files.write).for_each(absolute);
            }
            // A command with a slash is a path, as in a shell; without one it is looked up in PATH.
            if let Some(process) = server.process.as_mut().filter(|p| p.command.contains('/')) {
                absolute(&mut process.command);
            }
        }
        Spec::Connection(_) | Spec::Gateway(_) | Spec::Agent(_) | Spec::Team(_) | Spec::User(_) | Spec::Role(_) => {}
        Spec::IdentityProvider(_) | Spec::OAuthClient(_) => {}
    }
}

/// The directory that a file is in.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Leaves `.` out of a path. `..` stays: what it means depends on links.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|c| *c != std::path::Component::CurDir).collect()
}

/// Reads the documents of one file.
///
/// # Errors
/// Everything that is wrong with it, at most [`MAX_ERRORS`].
pub fn read(file: &str, bytes: &[u8]) -> Result<Vec<Document>, Vec<DocumentError>> {
    let (documents, mut errors) = read::file(file, bytes);
    errors.extend(duplicates(&documents));
    errors.truncate(MAX_ERRORS);
    if errors.is_empty() { Ok(documents) } else { Err(errors) }
}

/// Documents that name a resource which an earlier document of the same set names too.
pub fn duplicates<'a>(documents: impl IntoIterator<Item = &'a Document>) -> Vec<DocumentError> {
    let mut seen: BTreeMap<ResourceKey, &Document> = BTreeMap::new();
    let mut errors = Vec::new();
    for document in documents {
        let key = document.resource.key();
        match seen.get(&key) {
            Some(earlier) => {
                errors.push(document.error_at(
                    "metadata.name",
                    format!("{key} is already defined at {}:{}", earlier.file, earlier.line),
                ))
            }
            None => {
                seen.insert(key, document);
            }
        }
    }
    errors
}

/// Resources as YAML documents, the way [`read()`] takes them.
///
/// # Errors
/// Where a value can't be written as YAML; nothing in the resource types is such a value.
pub fn write<T: Serialize>(items: &[T]) -> Result<String, WriteError> {
    let mut text = String::new();
    for item in items {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        // By way of JSON, whose numbers, nulls and nesting are all that resources use.
        let value = serde_json::to_value(item).map_err(|e| WriteError::from(e.to_string()))?;
        text.push_str(&serde_saphyr::to_string(&in_order(value))?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

/// A resource's members in the order in which people write them.
fn in_order(value: serde_json::Value) -> serde_json::Value {
    const ORDER: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    match value {
        serde_json::Value::Object(mut members) if members.contains_key("apiVersion") => {
            let first = ORDER.into_iter().filter_map(|key| members.remove_entry(key)).collect::<Vec<_>>();
            first.into_iter().chain(members).collect()
        }
        other => other,
    }
}
