//! `bridge`: a stdio server's process behind streamable HTTP.

use clap::Args;
use portcullis_bridge::{BridgeError, Options};
use portcullis_telemetry::logs;

use crate::exit::{Exit, Failure};

#[derive(Args)]
pub struct Bridge {
    #[command(flatten)]
    options: Options,
    /// What is logged
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// How a line of the log looks: pretty or json
    #[arg(long, value_name = "FORMAT", default_value = "pretty")]
    log_format: logs::Format,
}

impl Bridge {
    pub fn run(self) -> Result<(), Failure> {
        logs::init(self.log_format, &self.log).map_err(|e| Failure::usage(e.to_string()))?;
        // It waits more than it works: each of its children has processors of its own.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let served = runtime.block_on(portcullis_bridge::run(self.options, |address| {
            tracing::info!("listening at http://{address}/mcp");
        }));
        served.map_err(|error| match error {
            BridgeError::Open(_) | BridgeError::Tokens(_) | BridgeError::Key(_) => Failure::usage(error.to_string()),
            _ => Failure::new(Exit::Failure, "bridge", error.to_string()),
        })
    }
}
