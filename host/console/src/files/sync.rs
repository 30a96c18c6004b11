//! One round: read the files, take what is right, tell what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::PoisonError,
};

use portcullis_model::{Door, Resource};
use portcullis_store::registry::{Applied, Outcome, Refusal, RegistryError};

use super::{Shared, scan};
use crate::{
    api::FileStatus,
    documents::{self, Document, DocumentError},
    recorded::TakeError,
};

/// What is remembered from one round to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// The files as they were read last, so that an unchanged directory costs no write and no log line.
    seen: Option<BTreeMap<PathBuf, Result<Vec<u8>, String>>>,
    blind: BTreeMap<PathBuf, String>,
    stamps: BTreeMap<PathBuf, Option<(u64, u64, u64, i64)>>,
    /// Directories that should be watched.
    pub(super) directories: BTreeSet<PathBuf>,
    /// The store did not answer: try again although no file changed.
    again: bool,
}

/// A file of this round.
#[derive(Default)]
struct Seen {
    documents: Vec<Document>,
    errors: Vec<DocumentError>,
    warnings: Vec<DocumentError>,
}

pub(super) async fn round(shared: &Shared, memory: &mut Memory) {
    let paths = shared.options.paths.clone();
    let Ok(found) = tokio::task::spawn_blocking(move || scan::scan(&paths)).await else { return };
    referred(shared, memory);
    memory.directories = found.directories;
    let also = shared.also.lock().unwrap_or_else(PoisonError::into_inner).clone();
    memory.directories.extend(also.iter().filter_map(|f| f.parent().map(Path::to_owned)));
    if memory.seen.as_ref() == Some(&found.files) && memory.blind == found.blind && !memory.again {
        shared.rounds.send_modify(|n| *n += 1);
        return;
    }
    let mut files: BTreeMap<String, Seen> = BTreeMap::new();
    for (path, why) in &found.blind {
        let name = path.to_string_lossy().into_owned();
        files.entry(name.clone()).or_default().errors.push(DocumentError {
            file: name,
            line: 0,
            column: 0,
            message: format!("can't be read: {why}; what it brought before is kept"),
        });
    }
    for (path, bytes) in &found.files {
        let name = path.to_string_lossy().into_owned();
        let seen = files.entry(name.clone()).or_default();
        match bytes {
            Err(why) => seen.errors.push(DocumentError { file: name, line: 0, column: 0, message: why.clone() }),
            Ok(bytes) => match documents::read(&name, bytes) {
                Ok(mut documents) => {
                    let base = documents::directory_of(path);
                    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
                    documents.iter_mut().for_each(|d| d.resolve_paths(&base));
                    seen.documents = documents;
                }
                Err(errors) => seen.errors = errors,
            },
        }
    }
    refuse_doubles(&mut files);
    if files.values().any(|s| !s.errors.is_empty()) {
        shared.metrics.config_loaded("file", "refused");
    }
    memory.again = take(shared, &mut files, &found.blind).await.is_err();
    let status: Vec<FileStatus> = files
        .into_iter()
        .map(|(file, seen)| FileStatus {
            file,
            resources: seen.documents.len(),
            errors: seen.errors,
            warnings: seen.warnings,
        })
        .collect();
    {
        let mut known = shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        tell(&known, &status);
        *known = status;
    }
    memory.seen = Some(found.files);
    memory.blind = found.blind;
    shared.rounds.send_modify(|n| *n += 1);
}

/// Whether files that resources refer to changed.
fn referred(shared: &Shared, memory: &mut Memory) {
    let also = shared.also.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let stamps: BTreeMap<_, _> = also.into_iter().map(|f| (f.clone(), scan::stamp(&f))).collect();
    // One that was not watched yet is news only to those who look at the files anyway.
    let changed = stamps.iter().any(|(file, stamp)| memory.stamps.get(file).is_some_and(|before| before != stamp));
    memory.stamps = stamps;
    if changed {
        shared.referred.send_modify(|n| *n += 1);
    }
}

/// Two files that define one resource: the later one is refused, so that the order of reading decides nothing silently.
fn refuse_doubles(files: &mut BTreeMap<String, Seen>) {
    let errors = documents::duplicates(files.values().flat_map(|s| &s.documents));
    for error in errors {
        if let Some(seen) = files.get_mut(&error.file) {
            seen.errors.push(error);
        }
    }
}

/// Gives the registry the files that are right. Where it refuses one, the others are given again without it.
async fn take(
    shared: &Shared,
    files: &mut BTreeMap<String, Seen>,
    blind: &BTreeMap<PathBuf, String>,
) -> Result<(), ()> {
    // Each try sets one file aside at least.
    for _ in 0..=files.len() {
        let kept: BTreeSet<String> =
            files.iter().filter(|(_, s)| !s.errors.is_empty()).map(|(f, _)| f.clone()).collect();
        let unseen: Vec<PathBuf> = blind.keys().cloned().collect();
        // Where others share the store, files that are not ours may be theirs; what ours brought and no longer hold goes.
        let ours = shared.registry.store().is_shared().then(|| shared.options.paths.clone());
        let scope = move |door: &Door| match door {
            Door::File(file) => {
                let file_path = Path::new(file);
                let is_ours = ours.as_ref().is_none_or(|paths| paths.iter().any(|p| file_path.starts_with(p)));
                is_ours && !kept.contains(file) && !unseen.iter().any(|p| file_path.starts_with(p))
            }
            Door::Api | Door::Kubernetes(_) | Door::BuiltIn => false,
        };
        let mut set: Vec<(Door, Resource)> = Vec::new();
        let mut places: Vec<(String, usize)> = Vec::new();
        for (file, seen) in files.iter().filter(|(_, s)| s.errors.is_empty()) {
            for (i, document) in seen.documents.iter().enumerate() {
                set.push((Door::File(file.clone()), document.resource.clone()));
                places.push((file.clone(), i));
            }
        }
        match shared.recorded.sync(&scope, &set, &|_| None).await {
            Ok(applied) => {
                done(files, &applied);
                shared.metrics.config_loaded("file", "applied");
                return Ok(());
            }
            Err(TakeError::Registry(RegistryError::Refused(refusals))) => {
                shared.metrics.config_loaded("file", "refused");
                if !blame(files, &places, &refusals) {
                    return Err(());
                }
            }
            Err(error) => {
                tracing::error!(%error, "the watched files could not be stored; what was serving goes on");
                for seen in files.values_mut() {
                    let file = seen.documents.first().map(|d| d.file.clone()).unwrap_or_default();
                    seen.errors.push(DocumentError { file, line: 0, column: 0, message: error.to_string() });
                }
                return Err(());
            }
        }
    }
    Err(())
}

/// Puts each refusal down to its file and line. Answers whether there was one.
fn blame(files: &mut BTreeMap<String, Seen>, places: &[(String, usize)], refusals: &[Refusal]) -> bool {
    let mut found = false;
    for refusal in refusals {
        let Some((file, index)) = places.get(refusal.position) else { continue };
        let Some(seen) = files.get_mut(file) else { continue };
        for problem in &refusal.problems {
            if let Some(document) = seen.documents.get(*index) {
                let error = document.error_at(&problem.path, &problem.message);
                seen.errors.push(error);
                found = true;
            }
        }
    }
    found
}

fn done(files: &mut BTreeMap<String, Seen>, applied: &[Applied]) {
    for item in applied {
        match item.change {
            Outcome::Unchanged => {}
            change => tracing::info!(resource = %item.key, change = change.as_str(), "taken from a watched file"),
        }
        let seen = files.values_mut().find(|s| s.documents.iter().any(|d| d.resource.key() == item.key));
        let Some(seen) = seen else { continue };
        if let Some(document) = seen.documents.iter().find(|d| d.resource.key() == item.key) {
            let warnings: Vec<_> = item.warnings.iter().map(|w| document.error_at(&w.path, &w.message)).collect();
            seen.warnings.extend(warnings);
        }
    }
}

/// Logs what was not known before.
fn tell(before: &[FileStatus], now: &[FileStatus]) {
    for file in now {
        let known = before.iter().find(|f| f.file == file.file);
        for error in file.errors.iter().filter(|e| !known.is_some_and(|k| k.errors.contains(e))) {
            tracing::error!(file = %error.file, line = error.line, column = error.column, "refused: {error}");
        }
        for warning in file.warnings.iter().filter(|w| !known.is_some_and(|k| k.warnings.contains(w))) {
            tracing::warn!(file = %warning.file, line = warning.line, "{warning}");
        }
        if file.errors.is_empty() && known.is_some_and(|k| !k.errors.is_empty()) {
            tracing::info!(file = %file.file, "is right again");
        }
    }
}
