//! Joins a hook's trait to the export that the bindings make of it.

use std::marker::PhantomData;

use crate::{
    Call, Caller, Decision, Denial, Described, Earlier, Error, Identity, List, ListFilter, Metadata, NextStep,
    OnRejected, Outcome, Prompt, PromptGet, Provider, Question, Read, Refresher, Request, Resolution, Resolver,
    ResourceRead, ServerRequest, Session, SessionOpen, Setup, Target, ToolCall, ToolOutcome, ToolResult,
    bindings::{
        described::exports::portcullis::auth::described,
        imports::portcullis::{auth, credential, policy, types},
        list_filter::exports::portcullis::policy::list_filter,
        on_rejected::exports::portcullis::credential::on_rejected,
        prompt_get::exports::portcullis::policy::prompt_get,
        provider::exports::portcullis::auth::provider,
        refresher::exports::portcullis::credential::refresher,
        resolver::exports::portcullis::credential::resolver,
        resource_read::exports::portcullis::policy::resource_read,
        server_request::exports::portcullis::policy::server_request,
        session::exports::portcullis::policy::session,
        setup::exports::portcullis::types::setup,
        tool_call::exports::portcullis::policy::tool_call,
        tool_result::exports::portcullis::policy::tool_result,
    },
};

/// What is exported on behalf of a plugin.
#[derive(Debug)]
pub struct Adapter<T>(PhantomData<T>);

impl<T: ToolCall> tool_call::Guest for Adapter<T> {
    fn decide(
        caller: &types::context::Caller,
        call: &types::context::Call,
    ) -> Result<policy::decision::Decision, types::error::Error> {
        T::decide(Caller(caller), Call(call)).map(decision).map_err(error)
    }
}

impl<T: ToolResult> tool_result::Guest for Adapter<T> {
    fn review(
        caller: &types::context::Caller,
        call: &types::context::Call,
        outcome: &policy::results::Outcome,
    ) -> Result<policy::decision::Decision, types::error::Error> {
        T::review(Caller(caller), Call(call), ToolOutcome(outcome)).map(decision).map_err(error)
    }
}

impl<T: ResourceRead> resource_read::Guest for Adapter<T> {
    fn decide(
        caller: &types::context::Caller,
        read: &policy::requests::Read,
    ) -> Result<policy::decision::Decision, types::error::Error> {
        T::decide(Caller(caller), Read(read)).map(decision).map_err(error)
    }
}

impl<T: PromptGet> prompt_get::Guest for Adapter<T> {
    fn decide(
        caller: &types::context::Caller,
        prompt: &policy::requests::Prompt,
    ) -> Result<policy::decision::Decision, types::error::Error> {
        T::decide(Caller(caller), Prompt(prompt)).map(decision).map_err(error)
    }
}

impl<T: ServerRequest> server_request::Guest for Adapter<T> {
    fn decide(
        caller: &types::context::Caller,
        question: &policy::requests::Question,
    ) -> Result<policy::decision::Decision, types::error::Error> {
        T::decide(Caller(caller), Question(question)).map(decision).map_err(error)
    }
}

impl<T: ListFilter> list_filter::Guest for Adapter<T> {
    fn filter(
        caller: &types::context::Caller,
        listing: &policy::lists::Listing,
    ) -> Result<Vec<u32>, types::error::Error> {
        T::filter(Caller(caller), List(listing)).map_err(error)
    }
}

impl<T: SessionOpen> session::Guest for Adapter<T> {
    fn open(
        caller: &types::context::Caller,
        session: &policy::sessions::Session,
    ) -> Result<policy::decision::Decision, types::error::Error> {
        T::open(Caller(caller), Session(session)).map(decision).map_err(error)
    }
}

impl<T: Described> described::Guest for Adapter<T> {
    fn describe(into: &auth::resource_metadata::Metadata) -> Result<(), types::error::Error> {
        T::describe(Metadata(into)).map_err(error)
    }
}

impl<T: Setup> setup::Guest for Adapter<T> {
    fn prepare() -> Result<(), types::error::Error> {
        T::prepare().map_err(error)
    }
}

impl<T: Resolver> resolver::Guest for Adapter<T> {
    fn resolve(
        caller: &types::context::Caller,
        target: &credential::target::Target,
        into: &credential::resolution::Resolution,
    ) -> Result<(), types::error::Error> {
        T::resolve(Caller(caller), Target(target), Resolution(into)).map_err(error)
    }
}

impl<T: Refresher> refresher::Guest for Adapter<T> {
    fn refresh(
        caller: &types::context::Caller,
        target: &credential::target::Target,
        earlier: &credential::earlier::Earlier,
        into: &credential::resolution::Resolution,
    ) -> Result<(), types::error::Error> {
        T::refresh(Caller(caller), Target(target), Earlier(earlier), Resolution(into)).map_err(error)
    }
}

impl<T: OnRejected> on_rejected::Guest for Adapter<T> {
    fn rejected(
        caller: &types::context::Caller,
        target: &credential::target::Target,
        earlier: &credential::earlier::Earlier,
        into: &credential::resolution::Resolution,
    ) -> Result<on_rejected::NextStep, types::error::Error> {
        let next = T::rejected(Caller(caller), Target(target), Earlier(earlier), Resolution(into)).map_err(error)?;
        Ok(match next {
            NextStep::Retry => on_rejected::NextStep::Retry,
            NextStep::Reconnect(what) => on_rejected::NextStep::Reconnect(what),
            NextStep::GiveUp => on_rejected::NextStep::GiveUp,
        })
    }
}

impl<T: Provider> provider::Guest for Adapter<T> {
    fn authenticate(
        request: &auth::request::Request,
        into: &auth::identity::Identity,
    ) -> Result<provider::Outcome, types::error::Error> {
        let outcome = T::authenticate(Request(request), Identity(into)).map_err(error)?;
        Ok(match outcome {
            Outcome::Accepted => provider::Outcome::Accepted,
            Outcome::Anonymous => provider::Outcome::Anonymous,
            Outcome::NotMine => provider::Outcome::NotMine,
            Outcome::Challenge { parameters, message } => {
                provider::Outcome::Challenge(provider::Challenge { parameters, message })
            }
            Outcome::Refused(why) => provider::Outcome::Other(why),
        })
    }
}

fn denial(denial: Denial) -> types::error::Denial {
    types::error::Denial { code: denial.code, message: denial.message }
}

fn decision(decision: Decision) -> policy::decision::Decision {
    use policy::decision::{Decision as D, Patch};
    match decision {
        Decision::Allow => D::Allow,
        Decision::Deny(why) => D::Deny(denial(why)),
        Decision::Modify(json) => D::Modify(Patch::Whole(json)),
        Decision::RequireApproval(what) => D::RequireApproval(what),
    }
}

fn error(error: Error) -> types::error::Error {
    use types::error::Error as E;
    match error {
        Error::InvalidConfig(what) => E::InvalidConfig(what),
        Error::Denied(why) => E::Denied(denial(why)),
        Error::NotFound => E::NotFound,
        Error::Expired => E::Expired,
        Error::NeedsConsent { url, message } => E::NeedsConsent(types::error::UrlInfo { url, message }),
        Error::Upstream { status, message } => E::Upstream(types::error::UpstreamError { status, message }),
        Error::Timeout => E::Timeout,
        Error::Unavailable(what) => E::Unavailable(what),
        Error::Other(what) => E::Other(what),
    }
}
