//! Log levels of MCP (RFC 5424), and the level of a log message.

use portcullis_upstream::Message;
use serde::Deserialize;

/// How grave a log message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `notice`
    Notice,
    /// `warning`
    Warning,
    /// `error`
    Error,
    /// `critical`
    Critical,
    /// `alert`
    Alert,
    /// `emergency`
    Emergency,
}

impl Level {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }

    /// The level in `params.level`, of `logging/setLevel` or of a log message.
    pub fn of_params(params: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Params {
            level: Level,
        }
        serde_json::from_str::<Params>(params).ok().map(|p| p.level)
    }

    /// Whether a client that wants this level wants this notification. What is no log message is wanted always.
    pub fn wants(self, message: &Message) -> bool {
        !is_log(message) || Self::of_params(message.payload_text()).is_none_or(|level| level >= self)
    }
}

fn is_log(message: &Message) -> bool {
    message.method().as_deref() == Some("notifications/message")
}

/// Which log messages a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// What the server sends: it knows what the client wants.
    All,
    /// None: a client of 2026-07-28 that did not ask for any.
    Nothing,
    /// Those of this level and graver ones.
    From(Level),
}

impl Logs {
    /// Whether the client gets this notification.
    pub fn wants(self, message: &Message) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => !is_log(message),
            Self::From(level) => level.wants(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_client_gets_the_levels_that_it_wants() {
        let log = |level: &str| {
            let text = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/message","params":{{"level":"{level}","data":1}}}}"#
            );
            Message::parse(Bytes::from(text)).unwrap()
        };
        assert!(Logs::From(Level::Warning).wants(&log("error")) && !Logs::From(Level::Warning).wants(&log("notice")));
        assert!(Logs::All.wants(&log("debug")) && !Logs::Nothing.wants(&log("emergency")));
        assert!(Logs::From(Level::Error).wants(&log("unheard-of")), "what nobody can judge passes");
        let other = Message::parse(Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/x"}"#)).unwrap();
        assert!(Logs::Nothing.wants(&other));
        assert_eq!(Level::of_params(r#"{"level":"notice"}"#), Some(Level::Notice));
        assert_eq!(Level::of_params(r#"{"level":"loud"}"#), None);
    }
}
