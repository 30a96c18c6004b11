//! `portcullis:host` but for `http`: configuration, log, secrets, reveal.

use wasmtime::{Result, component::Resource};

use crate::{
    bindings::portcullis::{
        host::{config, log, reveal, secrets},
        types::error::Error,
    },
    secrets::{Allowed, Guarded},
    state::{Handle, State},
};
use secrets::{Part, Secret};

/// The most bytes of one log line, fields included.
const MAX_LINE: usize = 4096;

impl State {
    /// Pieces of a header or body, put together; none where that is too large.
    pub(super) fn assemble(&mut self, parts: Vec<Part>) -> Result<Option<Guarded>> {
        let mut pieces = Vec::with_capacity(parts.len());
        for part in parts {
            pieces.push(match part {
                Part::Text(text) => Guarded::text(text),
                Part::Secret(secret) => self.secret(&secret)?.clone(),
            });
        }
        Ok(Guarded::concat(&pieces))
    }
}

impl config::Host for State {
    fn get(&mut self) -> Result<String> {
        Ok(self.fixed.config.clone())
    }
}

/// Cuts a text at a character's edge and keeps it on one line.
fn one_line(text: &str, max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(max).collect()
}

impl log::Host for State {
    fn log(&mut self, level: log::Level, message: String, fields: Vec<(String, String)>) -> Result<()> {
        if !self.may_log() {
            return Ok(());
        }
        let (plugin, tenant) = (&self.fixed.name, &self.fixed.tenant);
        let message = one_line(&message, MAX_LINE / 2);
        let mut text = String::new();
        for (name, value) in fields.iter().take(16) {
            if text.len() > MAX_LINE / 2 {
                break;
            }
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&one_line(name, 64));
            text.push('=');
            text.push_str(&one_line(value, 512));
        }
        match level {
            log::Level::Error => tracing::error!(%plugin, %tenant, fields = text, "{message}"),
            log::Level::Warn => tracing::warn!(%plugin, %tenant, fields = text, "{message}"),
            log::Level::Info => tracing::info!(%plugin, %tenant, fields = text, "{message}"),
            log::Level::Debug => tracing::debug!(%plugin, %tenant, fields = text, "{message}"),
        }
        Ok(())
    }
}

impl secrets::Host for State {
    fn get(&mut self, name: String) -> Result<Result<Resource<Secret>, Error>> {
        let Some(secret) = self.fixed.secrets.get(&name).cloned() else {
            self.denied("secret");
            return Ok(Err(Error::NotFound));
        };
        Ok(Ok(self.own(Handle::Secret(secret))?))
    }
}

impl secrets::HostSecret for State {
    fn base64(&mut self, secret: Resource<Secret>) -> Result<Resource<Secret>> {
        let encoded = self.secret(&secret)?.base64();
        self.own(Handle::Secret(encoded))
    }
    fn form_encoded(&mut self, secret: Resource<Secret>) -> Result<Resource<Secret>> {
        let encoded = self.secret(&secret)?.form_encoded();
        self.own(Handle::Secret(encoded))
    }
    fn hex(&mut self, secret: Resource<Secret>) -> Result<Resource<Secret>> {
        let encoded = self.secret(&secret)?.hex();
        self.own(Handle::Secret(encoded))
    }
    fn concat(&mut self, parts: Vec<Part>) -> Result<Resource<Secret>> {
        match self.assemble(parts)? {
            // Also a concatenation of mere texts is a handle of a secret; it may go anywhere that the plugin may.
            Some(whole) => self.own(Handle::Secret(whole)),
            None => self.forbid("a secret above 64 KiB"),
        }
    }
    fn drop(&mut self, secret: Resource<Secret>) -> Result<()> {
        self.disown(&secret)
    }
}

impl reveal::Host for State {
    fn reveal(&mut self, secret: Resource<Secret>) -> Result<Result<Vec<u8>, Error>> {
        if !self.fixed.grants.reveal {
            self.denied("reveal");
            return Ok(Err(Error::Other("reveal is not granted".into())));
        }
        let secret = self.secret(&secret)?.clone();
        if secret.is_secret() {
            let recorded = self
                .fixed
                .services
                .audit
                .as_ref()
                .is_some_and(|audit| audit.revealed(&self.fixed.tenant, &self.fixed.name, secret.label()));
            if !recorded {
                return Ok(Err(Error::Unavailable("the use of reveal can't be recorded".into())));
            }
        }
        Ok(Ok(secret.value().expose().to_vec()))
    }
}

/// The caller's own token: a plugin may look it up and verify it, and send it nowhere.
pub(super) fn callers_token(token: portcullis_model::Secret) -> Guarded {
    Guarded::callers(token, Allowed::nowhere(), super::caller_token::LABEL)
}
