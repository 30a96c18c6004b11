//! Compiled components on disk: native code, so in a directory that nobody else can write.

use std::{
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use portcullis_telemetry::Metrics;
use wasmtime::{Engine, Precompiled, component::Component};

use crate::error::LoadError;

/// What the names of compiled components end in.
const COMPILED: &str = "cwasm";
/// After this long, a file that was never finished is somebody's who died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A directory of compiled components, keyed by the component's digest and by the engine that compiled it.
pub(crate) struct Cache {
    dir: PathBuf,
    engine_key: u64,
    max: u64,
    metrics: Arc<Metrics>,
}

impl Cache {
    /// Opens or makes the directory: 0700 and ours, otherwise refused.
    pub(crate) fn open(dir: &Path, engine: &Engine, max: u64, metrics: Arc<Metrics>) -> io::Result<Self> {
        portcullis_package::private_dir(dir)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self { dir: dir.to_owned(), engine_key: hasher.finish(), max, metrics };
        cache.tidy(None);
        Ok(cache)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}-{:016x}.{COMPILED}", self.engine_key))
    }

    /// The compiled component, if it is here and fits this engine.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        if !ours(&path) {
            return None;
        }
        match load(engine, &path) {
            Ok(component) => {
                // What is used last is given up last.
                let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled plugin in the cache is not usable; it is compiled again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Has somebody else write a compiled component, and loads it if it is one for this engine.
    pub(crate) fn fill(
        &self,
        engine: &Engine,
        digest: &str,
        write: impl FnOnce(File) -> Result<(), LoadError>,
    ) -> Result<Component, LoadError> {
        let failed = |e: io::Error| LoadError::Host(format!("the cache of compiled plugins: {e}"));
        let aside = self.aside(digest);
        let work = || {
            let file = fresh(&aside).map_err(failed)?;
            write(file.try_clone().map_err(failed)?)?;
            file.sync_all().map_err(failed)?;
            let kind = Engine::detect_precompiled_file(&aside).map_err(|e| LoadError::Host(format!("{e:#}")))?;
            if !matches!(kind, Some(Precompiled::Component)) {
                return Err(LoadError::Host("the compiler wrote no compiled component".to_owned()));
            }
            let path = self.path(digest);
            fs::rename(&aside, &path).map_err(failed)?;
            load(engine, &path).map_err(|e| {
                let _ = fs::remove_file(&path);
                LoadError::Host(format!("what the compiler wrote does not load: {e:#}"))
            })
        };
        let done = work();
        if done.is_err() {
            let _ = fs::remove_file(&aside);
        }
        self.tidy(Some(digest));
        done
    }

    /// Keeps what was compiled here. A cache that can't be written costs time, nothing else.
    pub(crate) fn put(&self, digest: &str, component: &Component) {
        let aside = self.aside(digest);
        let written = component.serialize().map_err(|e| e.to_string()).and_then(|code| {
            let write = || -> io::Result<()> {
                let mut file = fresh(&aside)?;
                file.write_all(&code)?;
                file.sync_all()?;
                fs::rename(&aside, self.path(digest))
            };
            write().map_err(|e| e.to_string())
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&aside);
            tracing::warn!(dir = %self.dir.display(), error, "a compiled plugin could not be kept");
        }
        self.tidy(Some(digest));
    }

    fn aside(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.{}.{:x}", std::process::id(), getrandom::u64().unwrap_or(0)))
    }

    /// Gives up what was used longest ago, until the rest is within the bound. What is loaded stays mapped.
    fn tidy(&self, but: Option<&str>) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let but = but.map(|digest| self.path(digest));
        let mut all: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            let (path, used) = (entry.path(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            if path.extension().is_some_and(|e| e == COMPILED) {
                all.push((used, meta.len(), path));
            } else if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(&path);
            }
        }
        all.sort();
        let mut total: u64 = all.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in &all {
            if total <= self.max {
                break;
            }
            if but.as_ref() != Some(path) && fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
        self.metrics.plugin_disk("compiled", total);
    }
}

/// A new file that only we can read or write.
fn fresh(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Whether a file is a regular one that nobody but us can write.
fn ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| {
        meta.is_file() && meta.uid() == rustix::process::geteuid().as_raw() && meta.permissions().mode() & 0o022 == 0
    })
}

fn load(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // Read, not mapped: a file that is cut short later would end the process, and pages that the kernel dropped would be fetched again
    // on the processor time of a call.
    let native = fs::read(path)?;
    // SAFETY: the bytes are native code that is trusted because only this service can have written it: the directory was checked
    // to be ours with mode 0700, the file to be a regular one of ours that nobody else may write (or it was made by us a moment
    // ago), and into it went what this engine compiled, or our own program in a child; it was renamed into place when it was
    // whole and on the disk.
    #[expect(unsafe_code, reason = "wasmtime can't verify compiled code; see the comment above")]
    unsafe {
        Component::deserialize(engine, native)
    }
}
