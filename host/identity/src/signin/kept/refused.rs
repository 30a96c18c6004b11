//! Sign-ins that their provider took back: what it had said of somebody before that counts for nothing any more.
//!
//! A mark stays for as long as anything could go on from such a sign-in. It is read where a client's grant is renewed, not on calls.

use std::sync::Arc;

use portcullis_store::{StoreError, keys};

use super::{KeptError, KeptTokens, LIFE, Person, Whose};
use crate::{
    clock::{millis, now_ms},
    shelf::{ShelfError, ShelfPlan},
};

/// A mark needs somebody who had signed in, so that strangers make none.
pub(super) const PLAN: ShelfPlan = ShelfPlan { what: "refused sign-ins", prefix: "w/r/", most: 50_000 };

impl Whose {
    fn mark(&self) -> String {
        let key = self.key();
        key.strip_prefix(keys::LOGINS).unwrap_or(&key).to_owned()
    }
}

impl KeptTokens {
    /// When the provider took back what it had said of somebody, in milliseconds since 1970; none where it did not.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn refused_ms(&self, whose: &Whose) -> Result<Option<u64>, StoreError> {
        Ok(self.refused.get(&whose.mark()).await?.map(|found| found.value))
    }

    /// The provider takes back what it said of somebody: what is kept of that sign-in is dropped, and the mark is durable. Answers false
    /// where it is no more what is kept, because they have signed in anew meanwhile or signed out: then it says nothing.
    ///
    /// # Errors
    /// Where the mark could not be written: then it stays kept, so that the provider is asked, and refuses, again.
    pub(crate) async fn refuse(&self, person: &Arc<Person>) -> Result<bool, KeptError> {
        let whose = person.held().whose.clone();
        let _turn = self.writing.lock().await;
        if !self.is_current(person) {
            return Ok(false);
        }
        let now = now_ms();
        let (mark, until) = (whose.mark(), now.saturating_add(millis(LIFE)));
        loop {
            let done = match self.refused.get(&mark).await? {
                Some(earlier) => self.refused.replace(&mark, &earlier, until, &now).await?,
                None => self.refused.claim(&mark, until, &now).await.map_err(|error| match error {
                    ShelfError::Full(_) => KeptError::Full,
                    ShelfError::Store(error) => error.into(),
                })?,
            };
            if done {
                break;
            }
        }
        self.forget(&whose.key()).await?;
        Ok(true)
    }

    pub(super) async fn forget_marks(&self) -> Result<(), StoreError> {
        self.refused.sweep().await
    }
}
