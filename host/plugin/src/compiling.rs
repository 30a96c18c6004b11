//! From a component's bytes to native code: looked at first, then taken from the cache or compiled. There is one place of work for
//! each digest, however many ask for it, and it goes on when nobody waits any longer.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError, Weak},
};

use portcullis_manifest::Declared;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    task::{JoinError, spawn_blocking},
};
use wasmtime::component::Component as Compiled;

use crate::{
    answer::Hooks,
    compile::{self, Compiler},
    component::{
        Component, Exports, Import, LIST_FILTER, PROMPT_GET, PROVIDER, RESOLVER, RESOURCE_READ, SERVER_REQUEST,
        SESSION, SETUP, TOOL_CALL, TOOL_RESULT, VERSION, brief,
    },
    error::LoadError,
    host::Host,
    prepare,
    survey::survey,
};

/// What a component came to, once it did.
pub(crate) type Compilation = Option<Result<Arc<Component>, LoadError>>;
/// Native code, and whether its memory can be taken.
type Code = (Compiled, bool);

impl Host {
    /// Checks, compiles (or takes from the cache) and reads a component. Two are compiled at a time, for as long as
    /// [`crate::HostOptions::compile_timeout`] each; what is in the cache waits for nobody.
    ///
    /// # Errors
    /// What is wrong with it, offenders by name.
    pub async fn compile(self: &Arc<Self>, wasm: Arc<[u8]>) -> Result<Arc<Component>, LoadError> {
        let component = self.compile_tools(wasm).await?;
        if component.hooks == Hooks::default() {
            let policies = [SESSION, TOOL_CALL, TOOL_RESULT, RESOURCE_READ, PROMPT_GET, SERVER_REQUEST, LIST_FILTER];
            let all = [RESOLVER, PROVIDER].into_iter().chain(policies);
            return Err(LoadError::NoHook(
                all.map(|(interface, _)| format!("{interface}@{VERSION}")).collect::<Vec<_>>().join(", "),
            ));
        }
        Ok(component)
    }

    /// The same for a component that need not have any hook: its functions are tools.
    ///
    /// # Errors
    /// As for [`Host::compile`].
    pub async fn compile_tools(self: &Arc<Self>, wasm: Arc<[u8]>) -> Result<Arc<Component>, LoadError> {
        let (bytes, max) = (Arc::clone(&wasm), self.max_component);
        // Hashing many megabytes takes its time.
        let looked = spawn_blocking(move || {
            survey(&bytes, max)?;
            let declared = portcullis_manifest::read(&bytes)?;
            Ok::<_, LoadError>((Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect(), declared))
        });
        let (digest, declared): (String, Declared) = looked.await.map_err(ended)??;
        if let Some(component) = self.known(&digest) {
            return Ok(component);
        }
        let mut outcome = self.work_on(digest, declared, wasm);
        let done = outcome.wait_for(Option::is_some).await.map(|done| done.clone());
        done.ok().flatten().unwrap_or_else(|| Err(LoadError::Host("compiling ended without a word".to_owned())))
    }

    /// A component that somebody has.
    fn known(&self, digest: &str) -> Option<Arc<Component>> {
        let known = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).and_then(Weak::upgrade)
    }

    /// The work on a component: what is under way, or begun now.
    fn work_on(self: &Arc<Self>, digest: String, declared: Declared, wasm: Arc<[u8]>) -> watch::Receiver<Compilation> {
        let mut under_way = self.under_way();
        // One whose worker is gone without a word is no more under way.
        if let Some(found) = under_way.get(&digest).filter(|found| found.has_changed().is_ok()) {
            return found.clone();
        }
        let (sender, outcome) = watch::channel(None);
        under_way.insert(digest.clone(), outcome.clone());
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let done = host.brought(&digest, declared, wasm).await;
            // Whoever comes from here on finds it among those that are known.
            host.under_way().remove(&digest);
            let _ = sender.send(Some(done));
        });
        outcome
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Compilation>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn brought(
        self: &Arc<Self>,
        digest: &str,
        declared: Declared,
        wasm: Arc<[u8]>,
    ) -> Result<Arc<Component>, LoadError> {
        let (host, key, bytes) = (Arc::clone(self), digest.to_owned(), Arc::clone(&wasm));
        // What was compiled before waits for no compilation of others.
        let kept = spawn_blocking(move || host.kept(&key, &bytes)).await.map_err(ended)?;
        let code = match kept {
            Some(code) => code,
            None => {
                let permit =
                    Arc::clone(&self.compiling).acquire_owned().await.map_err(|e| LoadError::Host(e.to_string()))?;
                let (host, key, bytes) = (Arc::clone(self), digest.to_owned(), Arc::clone(&wasm));
                let work = spawn_blocking(move || {
                    let _permit = permit;
                    host.compile_now(&key, &bytes)
                });
                let patience = self.compile_timeout;
                let done = tokio::time::timeout(patience, work).await;
                done.map_err(|_| LoadError::CompileTimeout(patience))?.map_err(ended)??
            }
        };
        self.read(digest, declared, wasm, code)
    }

    /// What the cache has of a component.
    fn kept(&self, digest: &str, wasm: &[u8]) -> Option<Code> {
        let cache = self.cache.as_ref()?;
        let open = || Some((cache.get(&self.engine, &open(digest))?, true));
        let plain = || Some((cache.get(&self.engine, digest)?, false));
        let code = if may_get_ready(wasm) { open().or_else(plain) } else { plain() };
        code.inspect(|_| self.metrics.plugin_compiled("cached"))
    }

    fn compile_now(&self, digest: &str, wasm: &[u8]) -> Result<Code, LoadError> {
        match may_get_ready(wasm).then(|| prepare::opened(wasm)).flatten() {
            Some(wasm) => Ok((self.compiled(&open(digest), || &wasm)?, true)),
            None => Ok((self.compiled(digest, || wasm)?, false)),
        }
    }

    /// What a compiled component imports and exports.
    fn read(
        &self,
        digest: &str,
        declared: Declared,
        wasm: Arc<[u8]>,
        (compiled, open): Code,
    ) -> Result<Arc<Component>, LoadError> {
        let imports = Import::all(&self.engine, &compiled)?;
        let hooks = Exports::of(&compiled).hooks();
        let source = open.then_some(wasm);
        let digest = digest.to_owned();
        let component = Arc::new(Component { digest: digest.clone(), compiled, source, hooks, imports, declared });
        let mut known = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody has any more go, so there are never more than plugins.
        known.retain(|_, component| component.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&component));
        Ok(component)
    }

    /// Native code of a component, from the cache by this key or compiled now.
    pub(crate) fn compiled<'a>(&self, key: &str, wasm: impl FnOnce() -> &'a [u8]) -> Result<Compiled, LoadError> {
        if let Some(compiled) = self.cache.as_ref().and_then(|cache| cache.get(&self.engine, key)) {
            self.metrics.plugin_compiled("cached");
            return Ok(compiled);
        }
        let compiled = match (&self.compiler, &self.cache) {
            (Compiler::Child(program), Some(cache)) => {
                if let Some(what) = self.too_costly.get(key) {
                    return Err(LoadError::CompileLimit(what));
                }
                let filled = cache.fill(&self.engine, key, |into| {
                    compile::in_child(program, self.compile_limits, self.compile_timeout, wasm(), into)
                });
                filled.inspect_err(|error| self.too_costly.remember(key, error))
            }
            (_, cache) => Compiled::from_binary(&self.engine, wasm())
                .inspect(|compiled| cache.iter().for_each(|cache| cache.put(key, compiled)))
                .map_err(|e| LoadError::Compile(brief(&format!("{e:#}")))),
        };
        self.metrics.plugin_compiled(match &compiled {
            Ok(_) => "compiled",
            Err(LoadError::Compile(_)) => "refused",
            Err(_) => "failed",
        });
        compiled
    }
}

/// The key in the cache of a component whose memory can be taken.
fn open(digest: &str) -> String {
    format!("{digest}-open")
}

/// Whether the name of that export occurs; where it is none after all, nothing is lost but a little time.
fn may_get_ready(wasm: &[u8]) -> bool {
    let name = SETUP.0.as_bytes();
    wasm.windows(name.len()).any(|window| window == name)
}

fn ended(error: JoinError) -> LoadError {
    LoadError::Host(error.to_string())
}
