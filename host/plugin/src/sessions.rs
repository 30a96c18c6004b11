//! The hook of a client that comes in, and the one that says where tokens come from.

use std::sync::Arc;

use portcullis_model::Principal;
use wasmtime::component::Resource;

use crate::{
    answer::{Decision, Description, Read},
    bindings::portcullis::{
        auth::resource_metadata::Metadata,
        policy::{decision::Decision as WitDecision, sessions::Session},
        types::context::Caller,
    },
    calls::{lend, policy},
    error::PluginFailure,
    facts::{RequestFacts, SessionFacts},
    plugin::Plugin,
    state::{Lent, What},
};

pub(crate) type Open = (Resource<Caller>, Resource<Session>);
pub(crate) type Describe = (Resource<Metadata>,);

impl Plugin {
    /// Asks whether a client may come in. Beside the answer: what the plugin read of the caller, which the key of a remembered
    /// verdict has to hold.
    ///
    /// # Errors
    /// Why there is no answer; one that wants to modify is [`PluginFailure::Invalid`], since there is nothing to modify.
    pub async fn open(
        &self,
        principal: &Arc<Principal>,
        request: &RequestFacts,
        session: &SessionFacts,
    ) -> Result<(Decision, Vec<Read>), PluginFailure> {
        self.counted("session", async {
            let lent = policy(principal, request, What::Session(session.clone()));
            let index = self.exports.session.as_ref();
            let (decision, left) = self.run::<Open, WitDecision>(index, lent, (lend(), lend())).await?;
            let reads = left.reads.clone();
            match self.checked(decision, left)? {
                Decision::Modify(_) => Err(PluginFailure::Invalid("there is nothing to modify in a session".into())),
                decision => Ok((decision, reads)),
            }
        })
        .await
    }

    /// Asks where clients get the tokens that this provider accepts.
    pub(crate) async fn describe(&self) -> Result<Description, PluginFailure> {
        self.counted("described", async {
            let index = self.exports.described.as_ref();
            let ((), left) = self.run::<Describe, ()>(index, Lent::Describe(Box::default()), (lend(),)).await?;
            match left.lent {
                Lent::Describe(description) => Ok(*description),
                _ => Err(PluginFailure::Invalid("no answer".into())),
            }
        })
        .await
    }
}
