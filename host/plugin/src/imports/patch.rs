//! `patch` of what policies are lent: a part of it changes, and the rest stays as it was.

use bytes::Bytes;
use wasmtime::{Error, Result};

use crate::{
    json_patch,
    state::{Lent, State, What},
};

/// What a patch changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patched {
    /// The arguments of a call.
    Arguments,
    /// The result of a call.
    Result,
    /// The arguments of a prompt.
    Prompt,
    /// The params of a server's request.
    Question,
}

impl State {
    /// Changes what is lent, so that the getters show it so from now on.
    pub(super) fn patch_lent(&mut self, which: Patched, operations: &str) -> Result<std::result::Result<(), String>> {
        let max_output = self.fixed.max_output;
        let Lent::Policy { what, patched, .. } = &mut self.lent else { return Err(Error::msg("nothing is lent")) };
        let text = match (which, what) {
            (Patched::Arguments, What::Call(call)) => &mut call.arguments,
            (Patched::Arguments, What::Result(..)) => return Ok(Err("the arguments have been sent".into())),
            (Patched::Result, What::Result(_, outcome)) => {
                outcome.look();
                &mut outcome.content
            }
            (Patched::Prompt, What::Prompt(prompt)) => &mut prompt.arguments,
            (Patched::Question, What::Question(question)) => &mut question.params,
            _ => return Err(Error::msg("that is not lent")),
        };
        let before = std::str::from_utf8(text).map_err(|_| Error::msg("what is lent is no UTF-8"))?;
        // What came in may be longer than an answer may be: what a plugin adds is its answer.
        Ok(json_patch::apply(before, operations, before.len().saturating_add(max_output)).map(|new| {
            *text = Bytes::from(new);
            *patched = true;
        }))
    }
}

impl Lent {
    /// What the guest's patches have left, where there were any.
    pub(crate) fn patched(self) -> Option<Bytes> {
        match self {
            Self::Policy { what, patched: true, .. } => match what {
                What::Call(call) => Some(call.arguments),
                What::Result(_, outcome) => Some(outcome.content),
                What::Prompt(prompt) => Some(prompt.arguments),
                What::Question(question) => Some(question.params),
                What::Read(_) | What::List(_) | What::Session(_) => None,
            },
            _ => None,
        }
    }
}
