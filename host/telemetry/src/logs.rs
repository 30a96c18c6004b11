//! Logs: one subscriber on standard error, for people or for programs.

use std::str::FromStr;

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(format!("\"{}\" is no log format: use pretty or json", text.chars().take(40).collect::<String>())),
        }
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The filter can't be read.
    #[error("the log filter can't be read: {0}")]
    Filter(String),
    /// Somebody set up logs before.
    #[error("logs are set up already")]
    Taken,
}

/// Sends every event that passes `filter` (such as `info,portcullis_gateway=debug`) to standard error, because standard
/// output belongs to commands' answers.
///
/// # Errors
/// [`LogsError`].
pub fn init(format: Format, filter: &str) -> Result<(), LogsError> {
    // Each failed request once more, in other words than ours. What the filter says itself comes later and wins.
    let filter = EnvFilter::try_new(format!("kube_client=off,kube_runtime=off,{filter}"))
        .map_err(|e| LogsError::Filter(e.to_string()))?;
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Pretty => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
            registry.with(layer).try_init()
        }
        Format::Json => {
            let layer = fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).with_current_span(true);
            registry.with(layer.with_span_list(false)).try_init()
        }
    };
    set.map_err(|_| LogsError::Taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_settings_are_named() {
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().is_err());
        assert!(matches!(init(Format::Json, "portcullis=loud"), Err(LogsError::Filter(_))));
    }
}
