//! `portcullis:types`, and the results that policies review: getters over what is lent.

use std::time::Instant;

use portcullis_model::Principal;
use wasmtime::{Error, Result, component::Resource};

use super::json;
use crate::{
    answer::Read,
    bindings::portcullis::{policy, types},
    facts::{CallFacts, RequestFacts, ResultFacts, carries_credential},
    state::{Lent, State},
};
use types::context::{Call, Caller, Value};

impl State {
    fn principal(&self) -> Result<&Principal> {
        match &self.lent {
            Lent::Policy { principal, .. } => Ok(principal),
            Lent::Resolve(resolving) => Ok(&resolving.principal),
            _ => Err(Error::msg("no caller is lent")),
        }
    }

    fn request_facts(&self) -> Result<&RequestFacts> {
        match &self.lent {
            Lent::Policy { request, .. } => Ok(request),
            Lent::Resolve(resolving) => Ok(&resolving.request),
            _ => Err(Error::msg("no request is lent")),
        }
    }

    fn call_facts(&self) -> Result<&CallFacts> {
        match &self.lent {
            Lent::Policy { call: Some(call), .. } => Ok(call),
            _ => Err(Error::msg("no call is lent")),
        }
    }

    fn result_facts(&self) -> Result<&ResultFacts> {
        match &self.lent {
            Lent::Policy { outcome: Some(outcome), .. } => Ok(outcome),
            _ => Err(Error::msg("no outcome is lent")),
        }
    }
}

/// A header that no credential is in, as text.
pub(super) fn plain_header(headers: &http::HeaderMap, name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    if carries_credential(&name) {
        return None;
    }
    headers.get(&name).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

fn texts(names: &[portcullis_model::Name]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

impl types::context::Host for State {}
impl types::error::Host for State {}

impl types::context::HostCaller for State {
    fn tenant(&mut self, _: Resource<Caller>) -> Result<String> {
        Ok(self.principal()?.tenant.to_string())
    }
    fn subject(&mut self, _: Resource<Caller>) -> Result<String> {
        Ok(self.principal()?.subject_text.to_string())
    }
    fn kind(&mut self, _: Resource<Caller>) -> Result<String> {
        Ok(self.principal()?.subject.kind().as_str().to_owned())
    }
    fn teams(&mut self, _: Resource<Caller>) -> Result<Vec<String>> {
        self.read(|| Read::Teams);
        Ok(texts(&self.principal()?.teams))
    }
    fn roles(&mut self, _: Resource<Caller>) -> Result<Vec<String>> {
        self.read(|| Read::Roles);
        Ok(texts(&self.principal()?.roles))
    }
    fn groups(&mut self, _: Resource<Caller>) -> Result<Vec<String>> {
        self.read(|| Read::Groups);
        Ok(self.principal()?.groups.clone())
    }
    fn claim(&mut self, _: Resource<Caller>, name: String) -> Result<Option<Value>> {
        let value = self.principal()?.claims.get(&name).map(json::to_wit);
        self.read(|| Read::Claim(name));
        Ok(value)
    }
    fn header(&mut self, _: Resource<Caller>, name: String) -> Result<Option<String>> {
        let value = plain_header(&self.request_facts()?.headers, &name);
        self.read(|| Read::Header(name.to_ascii_lowercase()));
        Ok(value)
    }
    fn attribute(&mut self, _: Resource<Caller>, key: String) -> Result<Option<Value>> {
        let value = self.request_facts()?.attributes.get(&key).as_ref().map(json::to_wit);
        self.read(|| Read::Attribute(key));
        Ok(value)
    }
    fn drop(&mut self, _: Resource<Caller>) -> Result<()> {
        Ok(())
    }
}

impl types::context::HostCall for State {
    fn gateway(&mut self, _: Resource<Call>) -> Result<String> {
        Ok(self.request_facts()?.gateway.to_string())
    }
    fn server(&mut self, _: Resource<Call>) -> Result<String> {
        Ok(self.call_facts()?.server.to_string())
    }
    fn tool(&mut self, _: Resource<Call>) -> Result<String> {
        Ok(self.call_facts()?.tool.as_ref().to_owned())
    }
    fn exposed_tool(&mut self, _: Resource<Call>) -> Result<String> {
        Ok(self.call_facts()?.exposed_tool.as_ref().to_owned())
    }
    fn arguments(&mut self, _: Resource<Call>) -> Result<Vec<u8>> {
        Ok(self.call_facts()?.arguments.to_vec())
    }
    fn arguments_size(&mut self, _: Resource<Call>) -> Result<u64> {
        Ok(self.call_facts()?.arguments.len() as u64)
    }
    fn argument(&mut self, _: Resource<Call>, pointer: String) -> Result<Option<String>> {
        let arguments =
            std::str::from_utf8(&self.call_facts()?.arguments).map_err(|_| Error::msg("arguments are no UTF-8"))?;
        Ok(json::point(arguments, &pointer).map(str::to_owned))
    }
    fn deadline_ms(&mut self, _: Resource<Call>) -> Result<u64> {
        let left = self.request_facts()?.deadline.saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
    fn request_id(&mut self, _: Resource<Call>) -> Result<String> {
        Ok(self.request_facts()?.request_id.as_ref().to_owned())
    }
    fn annotate(&mut self, _: Resource<Call>, key: String, value: Value) -> Result<()> {
        if !self.request_facts()?.attributes.set(key, json::from_wit(value)) && self.may_log() {
            tracing::warn!(plugin = %self.fixed.name, tenant = %self.fixed.tenant, "an attribute is beyond 16 a call or 1 KiB; it is dropped");
        }
        Ok(())
    }
    fn drop(&mut self, _: Resource<Call>) -> Result<()> {
        Ok(())
    }
}

impl policy::decision::Host for State {}
impl policy::results::Host for State {}

impl policy::results::HostOutcome for State {
    fn is_error(&mut self, _: Resource<policy::results::Outcome>) -> Result<bool> {
        Ok(self.result_facts()?.is_error)
    }
    fn content(&mut self, _: Resource<policy::results::Outcome>) -> Result<Vec<u8>> {
        Ok(self.result_facts()?.content.to_vec())
    }
    fn content_size(&mut self, _: Resource<policy::results::Outcome>) -> Result<u64> {
        Ok(self.result_facts()?.content.len() as u64)
    }
    fn drop(&mut self, _: Resource<policy::results::Outcome>) -> Result<()> {
        Ok(())
    }
}
