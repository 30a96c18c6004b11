//! Compiled components on disk: native code, so in a directory that nobody else can write.

use std::{
    fs::{self, DirBuilder},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use wasmtime::{Engine, component::Component};

/// A directory of compiled components, keyed by the component's digest and by the engine that compiled it.
pub(crate) struct Cache {
    dir: PathBuf,
    engine_key: u64,
}

impl Cache {
    /// Opens or makes the directory: 0700 and ours, otherwise refused.
    pub(crate) fn open(dir: &Path, engine: &Engine) -> io::Result<Self> {
        if !dir.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let meta = fs::symlink_metadata(dir)?;
        let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
        if !ours || meta.permissions().mode() & 0o077 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{} must be a directory of this user with mode 0700: it holds native code", dir.display()),
            ));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir: dir.to_owned(), engine_key: hasher.finish() })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}-{:016x}.cwasm", self.engine_key))
    }

    /// The compiled component, if it is here and fits this engine.
    pub(crate) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let path = self.path(digest);
        let meta = fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        // SAFETY: the file is native code that is trusted because only this service can have written it: the directory
        // was checked to be ours with mode 0700, the file to be a regular one of ours, and `put` writes only what this
        // engine compiled, to a fresh file that is renamed into place and never changed afterwards.
        #[expect(unsafe_code, reason = "wasmtime can't verify compiled code; see the comment above")]
        let loaded = unsafe { Component::deserialize_file(engine, &path) };
        match loaded {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled plugin in the cache is not usable; it is compiled again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps what was compiled. A cache that can't be written costs time, nothing else.
    pub(crate) fn put(&self, digest: &str, component: &Component) {
        let written = component.serialize().map_err(|e| e.to_string()).and_then(|code| {
            let path = self.path(digest);
            let temporary =
                self.dir.join(format!("{digest}.{}.{:x}", std::process::id(), getrandom::u64().unwrap_or(0)));
            let write = || -> io::Result<()> {
                let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
                file.write_all(&code)?;
                fs::rename(&temporary, &path)
            };
            write().map_err(|e| {
                let _ = fs::remove_file(&temporary);
                e.to_string()
            })
        });
        if let Err(error) = written {
            tracing::warn!(dir = %self.dir.display(), error, "a compiled plugin could not be kept");
        }
    }
}
