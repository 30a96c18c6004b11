//! How a command ends: the exit code, and what is said on standard error.

use std::process::ExitCode;

use portcullis_console::{ClientError, api::ApiError, documents::DocumentError};
use portcullis_model::{Side, text::deceives};

/// Exit codes, as `--help` and `docs/cli.md` list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed.
    Failure = 1,
    /// The command line or what it was given makes no sense.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It was refused or denied.
    Refused = 4,
    /// The gateway can't be reached.
    Unreachable = 5,
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What is told.
    pub error: ApiError,
    /// The id that the request has in the gateway's log and audit, where it got that far.
    pub request: Option<String>,
}

impl Failure {
    /// A failure in one sentence.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        let side = if exit == Exit::Usage { Side::Caller } else { Side::Gateway };
        Self { exit, error: ApiError::new(side, code, message), request: None }
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.error.next = Some(next.into());
        self
    }

    /// Says it on standard error, and answers the exit code.
    pub fn tell(&self, json: bool) -> ExitCode {
        use std::io::Write as _;
        let mut err = std::io::stderr().lock();
        // Nothing is left to be done where even standard error is gone.
        let _ = if json {
            let mut said = serde_json::json!({ "error": self.error });
            if let Some(request) = &self.request {
                said["error"]["requestId"] = request.as_str().into();
            }
            let text = said.to_string();
            writeln!(err, "{text}")
        } else {
            let mut text = format!("error: {}\n", self.error.message);
            for problem in &self.error.problems {
                text.push_str(&format!("  {problem}\n"));
            }
            if let Some(next) = &self.error.next {
                text.push_str(&format!("next: {next}\n"));
            }
            if let Some(request) = &self.request {
                text.push_str(&format!("request: {request}\n"));
            }
            // Documents and answers are quoted in errors, and may hold what moves the cursor or turns a line round.
            let text: String = text.chars().filter(|c| matches!(c, '\n' | '\t') || !deceives(*c)).collect();
            write!(err, "{text}")
        };
        ExitCode::from(self.exit as u8)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self::new(Exit::Unreachable, "unreachable", error.to_string())
                .next("Is it running? Start one with `portcullis serve`, or name its socket with --socket or PORTCULLIS_SOCKET, or its admin listener with --admin-url."),
            ClientError::Answer(_) => Self::new(Exit::Failure, "answer", error.to_string()),
            ClientError::Api(error) => {
                let exit = match &*error.code {
                    "not-found" => Exit::NotFound,
                    "invalid-request" => Exit::Usage,
                    "refused" | "conflict" | "forbidden" | "unauthenticated" | "too-many-failures" => Exit::Refused,
                    _ if error.side == Side::Policy.as_str() => Exit::Refused,
                    _ => Exit::Failure,
                };
                Self { exit, error, request: None }
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failure, "io", error.to_string())
    }
}

impl From<Vec<DocumentError>> for Failure {
    fn from(errors: Vec<DocumentError>) -> Self {
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let message = match &text[..] {
            [one] => one.clone(),
            many => format!("{} errors:\n  {}", many.len(), many.join("\n  ")),
        };
        Self { exit: Exit::Refused, error: ApiError::new(Side::Caller, "invalid-document", message), request: None }
    }
}
