//! `portcullis:credential`: the target, the connections, the answer.

use http::HeaderName;
use url::Url;
use wasmtime::{Error, Result, component::Resource};

use crate::{
    answer::Read,
    bindings::portcullis::{
        credential::{connections, resolution, target},
        host::secrets::{Part, Secret},
    },
    passthrough::{self, Passed},
    secrets::Guarded,
    services::ConnectionFacts,
    state::{Chosen, Handle, Lent, MAX_FILLED, MAX_TEXT, Resolving, State},
};
use connections::Listing;
use resolution::Resolution;
use target::Target;

/// The most secrets that are kept beside an answer.
const MAX_KEPT: usize = 8;

impl State {
    fn resolving(&mut self) -> Result<&mut Resolving> {
        match &mut self.lent {
            Lent::Resolve(resolving) => Ok(resolving),
            _ => Err(Error::msg("no target is lent")),
        }
    }

    /// The URL of the server that a resolver is answering for.
    pub(super) fn target_url(&self) -> Option<Url> {
        match &self.lent {
            Lent::Resolve(resolving) => Url::parse(&resolving.target.url).ok(),
            _ => None,
        }
    }

    fn connection(&mut self, listing: &Resource<Listing>, at: u32) -> Result<&ConnectionFacts> {
        match self.handle(listing)? {
            Handle::Listing(list) => list.get(at as usize).ok_or_else(|| Error::msg("no connection at this position")),
            _ => Err(Error::msg("not a listing")),
        }
    }

    /// Checks that a value may stand in a header of the call. The caller's own token is told of as well.
    fn place(
        &mut self,
        name: &str,
        value: Guarded,
    ) -> std::result::Result<(HeaderName, Guarded, Option<Passed>), String> {
        let name: HeaderName = name.parse().map_err(|_| "a header has no valid name".to_owned())?;
        if is_hop_by_hop(name.as_str()) {
            return Err(format!("the header {name} is the host's to set"));
        }
        if value.value().len() > MAX_TEXT || http::HeaderValue::from_bytes(value.value().expose()).is_err() {
            return Err(format!("the value of {name} is no header value"));
        }
        if let Some(allowed) = value.allowed() {
            let target = self.target_url();
            if !target.as_ref().is_some_and(|url| allowed.at(url, Some(url))) {
                self.denied("secret-origin");
                return Err(format!("the secret {} may not go to this server", value.label()));
            }
            if !allowed.in_header(name.as_str()) {
                self.denied("secret-header");
                return Err(format!("the secret {} may not stand in {name}", value.label()));
            }
        }
        let Lent::Resolve(resolving) = &self.lent else { return Err("no target is lent".to_owned()) };
        let passed = match &resolving.principal.bearer {
            _ if !value.is_callers() => None,
            Some(token) => {
                Some(passthrough::check(token, &resolving.target).inspect_err(|_| self.denied("passthrough"))?)
            }
            None => return Err("the caller has no token to pass on".to_owned()),
        };
        Ok((name, value, passed))
    }
}

/// Headers that belong to the connection or to the protocol, which no plugin sets.
pub(super) fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "content-length"
            | "host"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "content-type"
            | "accept"
    ) || name.starts_with("mcp-")
}

impl target::Host for State {}

impl target::HostTarget for State {
    fn server(&mut self, _: Resource<Target>) -> Result<String> {
        Ok(self.resolving()?.target.server.to_string())
    }
    fn url(&mut self, _: Resource<Target>) -> Result<String> {
        Ok(self.resolving()?.target.url.as_ref().to_owned())
    }
    fn connection(&mut self, _: Resource<Target>) -> Result<Option<String>> {
        Ok(self.resolving()?.target.connection.as_ref().map(ToString::to_string))
    }
    fn setting(&mut self, _: Resource<Target>, name: String) -> Result<Option<String>> {
        Ok(self.resolving()?.target.settings.get(&name).map(ToString::to_string))
    }
    fn drop(&mut self, _: Resource<Target>) -> Result<()> {
        Ok(())
    }
}

impl connections::Host for State {
    fn list(&mut self) -> Result<Resource<Listing>> {
        self.read(|| Read::Connections);
        let Some(service) = self.fixed.services.connections.clone().filter(|_| self.fixed.grants.connections) else {
            self.denied("connections");
            return self.own(Handle::Listing(Vec::new()));
        };
        let resolving = self.resolving()?;
        let target = &resolving.target;
        let list = service.candidates(&resolving.principal, &target.server, target.connection.as_ref());
        self.own(Handle::Listing(list))
    }
}

impl connections::HostListing for State {
    fn count(&mut self, listing: Resource<Listing>) -> Result<u32> {
        match self.handle(&listing)? {
            Handle::Listing(list) => Ok(u32::try_from(list.len()).unwrap_or(u32::MAX)),
            _ => Err(Error::msg("not a listing")),
        }
    }
    fn id(&mut self, listing: Resource<Listing>, at: u32) -> Result<String> {
        Ok(self.connection(&listing, at)?.id.to_string())
    }
    fn owner_kind(&mut self, listing: Resource<Listing>, at: u32) -> Result<String> {
        Ok(self.connection(&listing, at)?.owner_kind.as_str().to_owned())
    }
    fn owner(&mut self, listing: Resource<Listing>, at: u32) -> Result<String> {
        Ok(self.connection(&listing, at)?.owner.clone())
    }
    fn owner_only(&mut self, listing: Resource<Listing>, at: u32) -> Result<bool> {
        Ok(self.connection(&listing, at)?.owner_only)
    }
    fn healthy(&mut self, listing: Resource<Listing>, at: u32) -> Result<bool> {
        Ok(self.connection(&listing, at)?.healthy)
    }
    fn created_ms(&mut self, listing: Resource<Listing>, at: u32) -> Result<u64> {
        Ok(self.connection(&listing, at)?.created_ms)
    }
    fn drop(&mut self, listing: Resource<Listing>) -> Result<()> {
        self.disown(&listing)
    }
}

impl resolution::Host for State {}

impl resolution::HostResolution for State {
    fn use_connection(&mut self, _: Resource<Resolution>, id: String) -> Result<()> {
        self.resolving()?.draft.chosen = Some(Chosen::Use(id));
        Ok(())
    }
    fn header(&mut self, _: Resource<Resolution>, name: String, parts: Vec<Part>) -> Result<()> {
        let placed = match self.assemble(parts)? {
            Some(value) => self.place(&name, value),
            None => Err("a header value is too large".to_owned()),
        };
        let draft = &mut self.resolving()?.draft;
        match placed {
            Ok((name, value, passed)) => {
                draft.passed = passed.or(draft.passed.take());
                draft.headers.retain(|(n, _)| *n != name);
                if draft.headers.len() >= MAX_FILLED {
                    draft.invalid = Some("too many headers".into());
                } else {
                    draft.headers.push((name, value));
                }
            }
            Err(why) => draft.invalid = Some(why),
        }
        Ok(())
    }
    fn none(&mut self, _: Resource<Resolution>) -> Result<()> {
        self.resolving()?.draft.chosen = Some(Chosen::None);
        Ok(())
    }
    fn missing(&mut self, _: Resource<Resolution>, need: String) -> Result<()> {
        let need = need.chars().filter(|c| !c.is_control()).take(500).collect();
        self.resolving()?.draft.chosen = Some(Chosen::Missing(need));
        Ok(())
    }
    fn expires(&mut self, _: Resource<Resolution>, at_ms: u64) -> Result<()> {
        self.resolving()?.draft.expires_ms = Some(at_ms);
        Ok(())
    }
    fn vary(&mut self, _: Resource<Resolution>, on: String) -> Result<()> {
        let draft = &mut self.resolving()?.draft;
        if draft.vary.len() >= MAX_FILLED || on.len() > 256 {
            draft.invalid = Some("too many or too long vary".into());
        } else if !draft.vary.contains(&on) {
            draft.vary.push(on);
        }
        Ok(())
    }
    fn keep(&mut self, _: Resource<Resolution>, name: String, value: Resource<Secret>) -> Result<()> {
        let value = self.secret(&value)?.clone();
        let draft = &mut self.resolving()?.draft;
        draft.kept.retain(|(known, _)| *known != name);
        if draft.kept.len() >= MAX_KEPT || name.len() > 64 || value.value().len() > MAX_TEXT {
            draft.invalid = Some("it keeps too many or too large secrets".into());
        } else {
            draft.kept.push((name, value));
        }
        Ok(())
    }
    fn drop(&mut self, _: Resource<Resolution>) -> Result<()> {
        Ok(())
    }
}
