//! `portcullis:policy/sessions`: a client that comes in.

use wasmtime::{Error, Result, component::Resource};

use crate::{
    bindings::portcullis::policy::sessions::{self, Session},
    facts::SessionFacts,
    state::{State, What},
};

impl State {
    fn session_facts(&self) -> Result<&SessionFacts> {
        match self.what()? {
            What::Session(session) => Ok(session),
            _ => Err(Error::msg("no session is lent")),
        }
    }
}

impl sessions::Host for State {}

impl sessions::HostSession for State {
    fn gateway(&mut self, _: Resource<Session>) -> Result<String> {
        self.gateway_name()
    }
    fn occasion(&mut self, _: Resource<Session>) -> Result<String> {
        Ok(self.session_facts()?.occasion.to_owned())
    }
    fn protocol(&mut self, _: Resource<Session>) -> Result<String> {
        Ok(self.session_facts()?.protocol.to_owned())
    }
    fn client_name(&mut self, _: Resource<Session>) -> Result<Option<String>> {
        Ok(self.session_facts()?.client_name.as_deref().map(str::to_owned))
    }
    fn client_version(&mut self, _: Resource<Session>) -> Result<Option<String>> {
        Ok(self.session_facts()?.client_version.as_deref().map(str::to_owned))
    }
    fn client_capabilities(&mut self, _: Resource<Session>) -> Result<String> {
        Ok(self.session_facts()?.capabilities.as_ref().to_owned())
    }
    fn deadline_ms(&mut self, _: Resource<Session>) -> Result<u64> {
        self.milliseconds_left()
    }
    fn request_id(&mut self, _: Resource<Session>) -> Result<String> {
        self.request_name()
    }
    fn drop(&mut self, _: Resource<Session>) -> Result<()> {
        Ok(())
    }
}
