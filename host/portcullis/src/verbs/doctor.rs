//! `doctor`: what is not as it should be.

use std::process::ExitCode;

use clap::Args;
use portcullis_console::api::{Finding, GatewayStatus, Grade};

use crate::{cli::Global, exit::Failure, output};

/// Look for what is not as it should be
///
/// Exits with 1 where something does not work.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis doctor")]
pub struct Doctor {}

impl Doctor {
    pub async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let client = global.client()?;
        let status = client.status().await?;
        let mut findings = client.doctor().await?;
        findings.extend(version(&status));
        findings.sort_by_key(|f| std::cmp::Reverse(f.grade));
        let worst = findings.iter().map(|f| f.grade).max().unwrap_or(Grade::Ok);
        output::list(global.output, &findings, |all| show(&status, all))?;
        Ok(if worst == Grade::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn version(status: &GatewayStatus) -> Option<Finding> {
    let ours = env!("CARGO_PKG_VERSION");
    (status.version != ours).then(|| Finding {
        subject: "version".to_owned(),
        grade: Grade::Warning,
        message: format!("the gateway is {}, this command is {ours}", status.version),
        next: Some("Restart the gateway with the new binary, or use its own.".to_owned()),
    })
}

fn show(status: &GatewayStatus, findings: &[Finding]) -> String {
    let counts: Vec<String> = status.resources.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    let mut out = format!(
        "portcullis {} at {}, process {}, up {}\nstate in {}; {}\n\n",
        status.version,
        status.url,
        status.pid,
        output::when(Some(status.started_ms)).trim_end_matches(" ago"),
        status.data_dir,
        if counts.is_empty() { "no resources".to_owned() } else { counts.join(", ") },
    );
    for finding in findings {
        let mark = match finding.grade {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Error => "ERROR",
        };
        out.push_str(&format!("{mark:8}{}: {}\n", finding.subject, finding.message));
        if let Some(next) = &finding.next {
            out.push_str(&format!("        next: {next}\n"));
        }
    }
    out
}
