//! What a server asks back: who may be asked what, and which questions are open.
//!
//! Only the client of one conversation can be asked, only for what it said that it can do, and only once under one id.
//! Everything else is refused here, so that no caller ever sees a question that is not its own (security decision 16).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use portcullis_protocol::ParseLimits;
use serde_json::{Map, Value};

use crate::{
    message::{Message, refuse},
    target::Conversation,
};

/// The most questions of one conversation that may be open at a time.
const MAX_OPEN: usize = 64;
/// The call that a question outside any call counts for: ids of calls begin with 1.
pub(crate) const OUTSIDE: u64 = 0;

/// The questions of one conversation.
pub(crate) struct Asking {
    granted: Granted,
    /// By the server's id as JSON text: the call that the question belongs to.
    open: Mutex<HashMap<Box<str>, u64>>,
}

/// What a client said that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Granted {
    elicitation: bool,
    sampling: bool,
    roots: bool,
    tasks: bool,
    /// Extensions and experiments, whose methods nobody here knows.
    other: bool,
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The client gets it.
    Pass,
    /// The server gets this answer at once.
    Answer(Vec<u8>),
    /// Nothing: it stands open already, and two answers to one id would be taken for each other.
    Drop,
}

impl Asking {
    pub(crate) fn new(conversation: &Conversation) -> Self {
        let all: Map<String, Value> = serde_json::from_str(&conversation.capabilities).unwrap_or_default();
        let has = |name: &str| all.get(name).is_some_and(Value::is_object);
        let granted = Granted {
            elicitation: has("elicitation"),
            sampling: has("sampling"),
            roots: has("roots"),
            tasks: has("tasks"),
            other: has("extensions") || has("experimental"),
        };
        Self { granted, open: Mutex::default() }
    }

    /// What becomes of a question of the server. One that passes is open until it is answered or its call ends.
    pub(crate) fn judge(&self, request: &Message, call: u64) -> Verdict {
        let allowed = match request.method().as_deref() {
            Some("elicitation/create") => self.granted.elicitation,
            Some("sampling/createMessage") => self.granted.sampling,
            Some("roots/list") => self.granted.roots,
            Some(method) if method.starts_with("tasks/") => self.granted.tasks,
            Some("ping") | None => false,
            Some(_) => self.granted.other,
        };
        if !allowed {
            return Verdict::Answer(refuse(request));
        }
        let mut open = self.open();
        if open.contains_key(request.id_text()) {
            return Verdict::Drop;
        }
        if open.len() >= MAX_OPEN {
            let id = request.id_text();
            return Verdict::Answer(
                format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"too many requests of this server are open"}}}}"#
                )
                .into_bytes(),
            );
        }
        open.insert(request.id_text().into(), call);
        Verdict::Pass
    }

    /// Whether this message of the client may go to the server: an answer only to a question that is open, which it closes.
    pub(crate) fn closes(&self, body: &[u8]) -> bool {
        let limits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };
        match portcullis_protocol::parse(body, &limits) {
            Ok(message) if message.kind == portcullis_protocol::Kind::Response => {
                message.id.is_some_and(|id| self.open().remove(id.raw).is_some())
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Whose question this id is, where it is open.
    pub(crate) fn call_of(&self, id: &str) -> Option<u64> {
        self.open().get(id).copied()
    }

    /// Nobody will answer this question.
    pub(crate) fn forget(&self, id: &str) {
        self.open().remove(id);
    }

    /// A call ended, and with it all that the server asked on its behalf.
    pub(crate) fn ended(&self, call: u64) {
        self.open().retain(|_, owner| *owner != call);
    }

    /// The session or child is gone: nothing stands open.
    pub(crate) fn clear(&self) {
        self.open().clear();
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Box<str>, u64>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn asking(capabilities: &str) -> Asking {
        Asking::new(&Conversation { id: "c".into(), capabilities: capabilities.into() })
    }

    fn request(id: &str, method: &str) -> Message {
        Message::parse(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{}}}}"#)))
            .unwrap()
    }

    #[test]
    fn only_what_was_advertised_may_be_asked() {
        for (capabilities, method, passes) in [
            (r#"{"elicitation":{}}"#, "elicitation/create", true),
            (r#"{"elicitation":{}}"#, "elicitation\\/create", true),
            (r#"{"elicitation":{}}"#, "sampling/createMessage", false),
            (r#"{"elicitation":true}"#, "elicitation/create", false),
            (r#"{"sampling":{},"roots":{}}"#, "roots/list", true),
            (r#"{"roots":{}}"#, "vendor/ask", false),
            (r#"{"experimental":{"x":{}}}"#, "vendor/ask", true),
            (r#"{"elicitation":{},"experimental":{}}"#, "ping", false),
            ("nonsense", "roots/list", false),
        ] {
            let verdict = asking(capabilities).judge(&request("1", method), 1);
            assert_eq!(verdict == Verdict::Pass, passes, "{capabilities} {method}");
            assert!(passes || matches!(verdict, Verdict::Answer(_)));
        }
    }

    #[test]
    fn an_id_is_open_once_and_answered_once() {
        let asking = asking(r#"{"roots":{}}"#);
        assert_eq!(asking.judge(&request("\"a\"", "roots/list"), 7), Verdict::Pass);
        assert_eq!(asking.judge(&request("\"a\"", "roots/list"), 8), Verdict::Drop);
        assert_eq!(asking.call_of("\"a\""), Some(7));
        let answer = br#"{"jsonrpc":"2.0","id":"a","result":{}}"#;
        assert!(asking.closes(answer));
        assert!(!asking.closes(answer), "twice");
        assert!(!asking.closes(br#"{"jsonrpc":"2.0","id":99,"result":{}}"#), "never asked");
        assert!(asking.closes(br#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#));
        assert!(!asking.closes(b"nonsense"));
        assert_eq!(asking.judge(&request("\"a\"", "roots/list"), 8), Verdict::Pass);
        asking.ended(8);
        assert!(!asking.closes(answer), "its call has ended");
    }

    #[test]
    fn open_questions_are_bounded() {
        let asking = asking(r#"{"roots":{}}"#);
        for id in 0..MAX_OPEN {
            assert_eq!(asking.judge(&request(&id.to_string(), "roots/list"), 1), Verdict::Pass);
        }
        assert!(matches!(asking.judge(&request("1000", "roots/list"), 1), Verdict::Answer(_)));
    }
}
