//! `portcullis:types` and what policies are asked about: getters over what is lent.

use std::time::Instant;

use portcullis_model::Principal;
use wasmtime::{Error, Result, component::Resource};

use super::{json, patch::Patched};
use crate::{
    answer::Read,
    bindings::portcullis::{policy, types},
    facts::{CallFacts, PromptFacts, QuestionFacts, ReadFacts, RequestFacts, ResultFacts, carries_credential},
    state::{Lent, ListColumns, State, What},
};
use policy::{
    lists::{Listing, Texts},
    requests,
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

    pub(super) fn request_facts(&self) -> Result<&RequestFacts> {
        match &self.lent {
            Lent::Policy { request, .. } => Ok(request),
            Lent::Resolve(resolving) => Ok(&resolving.request),
            _ => Err(Error::msg("no request is lent")),
        }
    }

    pub(super) fn what(&self) -> Result<&What> {
        match &self.lent {
            Lent::Policy { what, .. } => Ok(what),
            _ => Err(Error::msg("nothing is lent")),
        }
    }

    fn call_facts(&self) -> Result<&CallFacts> {
        match self.what()? {
            What::Call(call) | What::Result(call, _) => Ok(call),
            _ => Err(Error::msg("no call is lent")),
        }
    }

    fn result_facts(&self) -> Result<&ResultFacts> {
        match self.what()? {
            What::Result(_, outcome) => Ok(outcome),
            _ => Err(Error::msg("no outcome is lent")),
        }
    }

    fn read_facts(&self) -> Result<&ReadFacts> {
        match self.what()? {
            What::Read(read) => Ok(read),
            _ => Err(Error::msg("no read is lent")),
        }
    }

    fn prompt_facts(&self) -> Result<&PromptFacts> {
        match self.what()? {
            What::Prompt(prompt) => Ok(prompt),
            _ => Err(Error::msg("no prompt is lent")),
        }
    }

    fn question_facts(&self) -> Result<&QuestionFacts> {
        match self.what()? {
            What::Question(question) => Ok(question),
            _ => Err(Error::msg("no question is lent")),
        }
    }

    fn columns(&self) -> Result<&ListColumns> {
        match self.what()? {
            What::List(columns) => Ok(columns),
            _ => Err(Error::msg("no list is lent")),
        }
    }

    pub(super) fn gateway_name(&self) -> Result<String> {
        Ok(self.request_facts()?.gateway.as_str().to_owned())
    }

    pub(super) fn request_name(&self) -> Result<String> {
        Ok(self.request_facts()?.request_id.as_ref().to_owned())
    }

    pub(super) fn milliseconds_left(&self) -> Result<u64> {
        let left = self.request_facts()?.deadline.saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn note(&mut self, key: String, value: Value) -> Result<()> {
        if !self.request_facts()?.attributes.set(key, json::from_wit(value)) && self.may_log() {
            tracing::warn!(plugin = %self.fixed.name, tenant = %self.fixed.tenant, "an attribute is beyond 16 a call or 1 KiB; it is dropped");
        }
        Ok(())
    }
}

/// One value of a JSON text by JSON Pointer, as it stands there.
fn pointed(json: &[u8], pointer: &str) -> Result<Option<String>> {
    let text = std::str::from_utf8(json).map_err(|_| Error::msg("what is lent is no UTF-8"))?;
    Ok(json::point(text, pointer).map(str::to_owned))
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
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

impl types::context::Host for State {}
impl types::error::Host for State {}

impl types::context::HostCaller for State {
    fn tenant(&mut self, _: Resource<Caller>) -> Result<String> {
        Ok(self.principal()?.tenant.as_str().to_owned())
    }
    fn subject(&mut self, _: Resource<Caller>) -> Result<String> {
        Ok(self.principal()?.subject_text.as_ref().to_owned())
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
        self.gateway_name()
    }
    fn server(&mut self, _: Resource<Call>) -> Result<String> {
        Ok(self.call_facts()?.server.as_str().to_owned())
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
        pointed(&self.call_facts()?.arguments, &pointer)
    }
    fn deadline_ms(&mut self, _: Resource<Call>) -> Result<u64> {
        self.milliseconds_left()
    }
    fn request_id(&mut self, _: Resource<Call>) -> Result<String> {
        self.request_name()
    }
    fn annotate(&mut self, _: Resource<Call>, key: String, value: Value) -> Result<()> {
        self.note(key, value)
    }
    fn patch(&mut self, _: Resource<Call>, operations: String) -> Result<std::result::Result<(), String>> {
        self.patch_lent(Patched::Arguments, &operations)
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
        let facts = self.result_facts()?;
        facts.look();
        Ok(facts.content.to_vec())
    }
    fn content_size(&mut self, _: Resource<policy::results::Outcome>) -> Result<u64> {
        Ok(self.result_facts()?.content.len() as u64)
    }
    fn value(&mut self, _: Resource<policy::results::Outcome>, pointer: String) -> Result<Option<String>> {
        let facts = self.result_facts()?;
        facts.look();
        pointed(&facts.content, &pointer)
    }
    fn patch(
        &mut self,
        _: Resource<policy::results::Outcome>,
        operations: String,
    ) -> Result<std::result::Result<(), String>> {
        self.patch_lent(Patched::Result, &operations)
    }
    fn drop(&mut self, _: Resource<policy::results::Outcome>) -> Result<()> {
        Ok(())
    }
}

impl policy::requests::Host for State {}

impl policy::requests::HostRead for State {
    fn gateway(&mut self, _: Resource<requests::Read>) -> Result<String> {
        self.gateway_name()
    }
    fn server(&mut self, _: Resource<requests::Read>) -> Result<String> {
        Ok(self.read_facts()?.server.as_str().to_owned())
    }
    fn uri(&mut self, _: Resource<requests::Read>) -> Result<String> {
        Ok(self.read_facts()?.uri.as_ref().to_owned())
    }
    fn exposed_uri(&mut self, _: Resource<requests::Read>) -> Result<String> {
        Ok(self.read_facts()?.exposed_uri.as_ref().to_owned())
    }
    fn purpose(&mut self, _: Resource<requests::Read>) -> Result<String> {
        Ok(self.read_facts()?.purpose.as_str().to_owned())
    }
    fn deadline_ms(&mut self, _: Resource<requests::Read>) -> Result<u64> {
        self.milliseconds_left()
    }
    fn request_id(&mut self, _: Resource<requests::Read>) -> Result<String> {
        self.request_name()
    }
    fn annotate(&mut self, _: Resource<requests::Read>, key: String, value: Value) -> Result<()> {
        self.note(key, value)
    }
    fn drop(&mut self, _: Resource<requests::Read>) -> Result<()> {
        Ok(())
    }
}

impl policy::requests::HostPrompt for State {
    fn gateway(&mut self, _: Resource<requests::Prompt>) -> Result<String> {
        self.gateway_name()
    }
    fn server(&mut self, _: Resource<requests::Prompt>) -> Result<String> {
        Ok(self.prompt_facts()?.server.as_str().to_owned())
    }
    fn name(&mut self, _: Resource<requests::Prompt>) -> Result<String> {
        Ok(self.prompt_facts()?.prompt.as_ref().to_owned())
    }
    fn exposed_name(&mut self, _: Resource<requests::Prompt>) -> Result<String> {
        Ok(self.prompt_facts()?.exposed_prompt.as_ref().to_owned())
    }
    fn purpose(&mut self, _: Resource<requests::Prompt>) -> Result<String> {
        Ok(self.prompt_facts()?.purpose.as_str().to_owned())
    }
    fn arguments(&mut self, _: Resource<requests::Prompt>) -> Result<Vec<u8>> {
        Ok(self.prompt_facts()?.arguments.to_vec())
    }
    fn arguments_size(&mut self, _: Resource<requests::Prompt>) -> Result<u64> {
        Ok(self.prompt_facts()?.arguments.len() as u64)
    }
    fn argument(&mut self, _: Resource<requests::Prompt>, pointer: String) -> Result<Option<String>> {
        pointed(&self.prompt_facts()?.arguments, &pointer)
    }
    fn deadline_ms(&mut self, _: Resource<requests::Prompt>) -> Result<u64> {
        self.milliseconds_left()
    }
    fn request_id(&mut self, _: Resource<requests::Prompt>) -> Result<String> {
        self.request_name()
    }
    fn annotate(&mut self, _: Resource<requests::Prompt>, key: String, value: Value) -> Result<()> {
        self.note(key, value)
    }
    fn patch(&mut self, _: Resource<requests::Prompt>, operations: String) -> Result<std::result::Result<(), String>> {
        self.patch_lent(Patched::Prompt, &operations)
    }
    fn drop(&mut self, _: Resource<requests::Prompt>) -> Result<()> {
        Ok(())
    }
}

impl policy::requests::HostQuestion for State {
    fn gateway(&mut self, _: Resource<requests::Question>) -> Result<String> {
        self.gateway_name()
    }
    fn server(&mut self, _: Resource<requests::Question>) -> Result<String> {
        Ok(self.question_facts()?.server.as_str().to_owned())
    }
    fn method(&mut self, _: Resource<requests::Question>) -> Result<String> {
        Ok(self.question_facts()?.method.as_ref().to_owned())
    }
    fn params(&mut self, _: Resource<requests::Question>) -> Result<Vec<u8>> {
        Ok(self.question_facts()?.params.to_vec())
    }
    fn params_size(&mut self, _: Resource<requests::Question>) -> Result<u64> {
        Ok(self.question_facts()?.params.len() as u64)
    }
    fn param(&mut self, _: Resource<requests::Question>, pointer: String) -> Result<Option<String>> {
        pointed(&self.question_facts()?.params, &pointer)
    }
    fn tool(&mut self, _: Resource<requests::Question>) -> Result<Option<String>> {
        Ok(self.question_facts()?.tool.as_deref().map(str::to_owned))
    }
    fn deadline_ms(&mut self, _: Resource<requests::Question>) -> Result<u64> {
        self.milliseconds_left()
    }
    fn request_id(&mut self, _: Resource<requests::Question>) -> Result<String> {
        self.request_name()
    }
    fn annotate(&mut self, _: Resource<requests::Question>, key: String, value: Value) -> Result<()> {
        self.note(key, value)
    }
    fn patch(
        &mut self,
        _: Resource<requests::Question>,
        operations: String,
    ) -> Result<std::result::Result<(), String>> {
        self.patch_lent(Patched::Question, &operations)
    }
    fn drop(&mut self, _: Resource<requests::Question>) -> Result<()> {
        Ok(())
    }
}

impl policy::lists::Host for State {}

impl policy::lists::HostListing for State {
    fn gateway(&mut self, _: Resource<Listing>) -> Result<String> {
        self.gateway_name()
    }
    fn kind(&mut self, _: Resource<Listing>) -> Result<String> {
        Ok(self.columns()?.kind.as_str().to_owned())
    }
    fn count(&mut self, _: Resource<Listing>) -> Result<u32> {
        Ok(self.columns()?.ends.len() as u32)
    }
    fn servers(&mut self, _: Resource<Listing>) -> Result<Vec<String>> {
        Ok(self.columns()?.servers.clone())
    }
    fn server_of(&mut self, _: Resource<Listing>) -> Result<Vec<u32>> {
        Ok(self.columns()?.server_of.clone())
    }
    fn names(&mut self, _: Resource<Listing>) -> Result<Texts> {
        let columns = self.columns()?;
        Ok(Texts { text: columns.names.clone(), ends: columns.ends.clone() })
    }
    fn request_id(&mut self, _: Resource<Listing>) -> Result<String> {
        self.request_name()
    }
    fn drop(&mut self, _: Resource<Listing>) -> Result<()> {
        Ok(())
    }
}
