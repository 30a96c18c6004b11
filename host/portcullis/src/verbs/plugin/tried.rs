//! `plugin test` and `plugin bench`: a plugin on the real host, with scripted services.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use portcullis_plugin::{Component, Host};
use portcullis_testing::{
    Case,
    conformance::{self, Outcome, Report},
    cost::{self, Cost},
    recorded::{self, Recorded, RecordedError, Verdict},
};
use serde::Serialize;

use super::{compile, component, project};
use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// What is tried.
#[derive(Args)]
struct Which {
    /// A component; that of the plugin's project, built first, where left out
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The plugin's project
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// The folder of recorded cases; `tests` in the project where left out
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Options for cargo
    #[arg(last = true, value_name = "CARGO OPTIONS")]
    cargo: Vec<String>,
}

impl Which {
    fn recorded(&self) -> Result<Vec<Recorded>, Failure> {
        let folder = match (&self.cases, &self.file) {
            (Some(folder), _) if !folder.is_dir() => {
                return Err(Failure::new(Exit::NotFound, "cases", format!("{} is no folder", folder.display())));
            }
            (Some(folder), _) => folder.clone(),
            // Whoever names a component may stand anywhere.
            (None, Some(_)) => return Ok(Vec::new()),
            (None, None) => self.path.join("tests"),
        };
        recorded::read(&folder).map_err(unreadable)
    }

    async fn component(&self) -> Result<(Arc<Host>, Arc<Component>), Failure> {
        let path = match &self.file {
            Some(file) => file.clone(),
            None => project::built(&self.path, &self.cargo)?,
        };
        compile(component(&path)?).await
    }
}

fn unreadable(error: RecordedError) -> Failure {
    let exit = if matches!(error, RecordedError::File { .. }) { Exit::Failure } else { Exit::Usage };
    Failure::new(exit, "case", error.to_string())
}

fn case_fails(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, "case", error.to_string())
}

/// Test a plugin
///
/// First its own unit tests (`cargo test`), then what every plugin of its kind has to survive, then its recorded cases: files in `tests/`
/// that say what is asked and, under `expect`, what has to be said. All on the host that a gateway has, with the answers of other
/// services taken from the cases. Exits with 1 where something does not hold.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin test
  portcullis plugin test --record                          # writes what it says where nothing is expected yet
  portcullis plugin test --accept                          # and where it says something else than before
  portcullis plugin test broker.wasm --cases broker-cases  # anybody's component")]
pub struct Test {
    #[command(flatten)]
    which: Which,
    /// Write what it says into cases that expect nothing yet
    #[arg(long)]
    record: bool,
    /// Write what it says into every case that expects something else
    #[arg(long)]
    accept: bool,
    /// Leave its own unit tests out
    #[arg(long)]
    no_unit: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tested {
    conformance: Report,
    cases: Vec<Replayed>,
}

#[derive(Serialize)]
struct Replayed {
    case: String,
    #[serde(flatten)]
    verdict: Verdict,
    written: bool,
}

impl Test {
    pub async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        let recorded = self.which.recorded()?;
        let (host, component) = if self.which.file.is_some() || self.no_unit {
            self.which.component().await?
        } else {
            portcullis_authoring::test(&self.which.path, &self.which.cargo).map_err(project::not_built)?;
            self.which.component().await?
        };
        let cases: Vec<Case> = recorded.iter().map(|recorded| recorded.case.clone()).collect();
        let report = conformance::run(&host, &component, &cases).await.map_err(case_fails)?;
        let mut replayed = Vec::new();
        for case in &recorded {
            let (verdict, told) = case.replay(&host, &component).await.map_err(unreadable)?;
            let write = match verdict {
                Verdict::Unrecorded => self.record || self.accept,
                Verdict::Differs { .. } => self.accept,
                Verdict::Same | Verdict::NotLoaded { .. } => false,
            };
            if write {
                case.accept(&told).map_err(unreadable)?;
            }
            replayed.push(Replayed { case: name(&case.path), verdict, written: write });
        }
        let tested = Tested { conformance: report, cases: replayed };
        let good = tested.conformance.failures().next().is_none()
            && tested
                .cases
                .iter()
                .all(|case| case.written || matches!(case.verdict, Verdict::Same | Verdict::Unrecorded));
        output::one(global.output, &tested, show)?;
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn show(tested: &Tested) -> String {
    let mut out = String::new();
    for finding in &tested.conformance.findings {
        let (mark, why) = match &finding.outcome {
            Outcome::Holds => ("ok", None),
            Outcome::Fails(why) => ("FAILS", Some(why)),
            Outcome::Advice(why) => ("note", Some(why)),
        };
        line(&mut out, mark, &format!("{}: {}", finding.of, finding.check));
        why.into_iter().for_each(|why| line(&mut out, "", &format!("  {why}")));
    }
    for case in &tested.cases {
        match &case.verdict {
            _ if case.written => line(&mut out, "written", &case.case),
            Verdict::Same => line(&mut out, "ok", &case.case),
            Verdict::Unrecorded => {
                line(&mut out, "note", &case.case);
                line(&mut out, "", "  expects nothing yet: --record writes what the plugin says");
            }
            Verdict::NotLoaded { why } => {
                line(&mut out, "FAILS", &case.case);
                line(&mut out, "", &format!("  the plugin is not loaded: {why}"));
            }
            Verdict::Differs { fields } => {
                line(&mut out, "FAILS", &case.case);
                for field in fields {
                    line(&mut out, "", &format!("  {}: expected {}", field.field, field.expected));
                    line(&mut out, "", &format!("  {}  it says {}", " ".repeat(field.field.len()), field.told));
                }
            }
        }
    }
    let count =
        |holds: &dyn Fn(&&conformance::Finding) -> bool| tested.conformance.findings.iter().filter(holds).count();
    let same = tested.cases.iter().filter(|case| case.verdict == Verdict::Same || case.written).count();
    let all = tested.conformance.findings.len();
    let held = count(&|finding| !matches!(finding.outcome, Outcome::Fails(_)));
    out.push_str(&format!("\n{held} of {all} checks hold, {same} of {} recorded cases\n", tested.cases.len()));
    out
}

/// A line without what moves a terminal's cursor: plugins write some of it.
fn line(out: &mut String, mark: &str, text: &str) {
    let text = portcullis_model::text::shown(text, 2000);
    out.push_str(format!("{mark:8}{text}").trim_end());
    out.push('\n');
}

/// Measure what a call of a plugin costs
///
/// The processor time of one call on the host that a gateway has, of each recorded case: in a fresh instance (`isolation: call`), and in
/// one that was used before (`isolation: tenant`). In microseconds, medians of nine rounds; only a release build of Portcullis tells what a
/// gateway would spend.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin bench
  portcullis plugin bench broker.wasm --cases broker-cases")]
pub struct Bench {
    #[command(flatten)]
    which: Which,
    /// How many calls are made of each case, for each of the two
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(9..=1_000_000))]
    calls: u32,
}

#[derive(Serialize)]
struct Measured {
    case: String,
    #[serde(flatten)]
    cost: Cost,
}

impl Bench {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let recorded = self.which.recorded()?;
        if recorded.is_empty() {
            return Err(Failure::new(Exit::NotFound, "cases", "there is no recorded case to measure")
                .next("Write one into `tests/`, or name a folder with --cases."));
        }
        let (host, component) = self.which.component().await?;
        let mut measured = Vec::new();
        for case in &recorded {
            let cost = cost::measure(&host, &component, &case.case, self.calls).await.map_err(case_fails)?;
            measured.push(Measured { case: name(&case.path), cost });
        }
        output::list(global.output, &measured, costs)
    }
}

fn costs(measured: &[Measured]) -> String {
    let row = |one: &Measured| {
        let time = |us: f64| format!("{us:.2}");
        vec![one.case.clone(), time(one.cost.fresh_us), time(one.cost.warm_us), time(one.cost.fresh_worst_us)]
    };
    let mut out = output::table(
        &["CASE", "FRESH US", "WARM US", "WORST FRESH US"],
        &measured.iter().map(row).collect::<Vec<_>>(),
    );
    if measured.iter().any(|one| !one.cost.starts_ready) {
        out.push_str("its memory after `setup` can't be kept: each fresh instance gets ready by itself\n");
    }
    if cfg!(debug_assertions) {
        out.push_str("this is a debug build of Portcullis: a release build costs a fraction\n");
    }
    out
}
