//! The figures as a table, as JSON, and beside the budgets of the design.

use std::{fs, path::Path};

use anyhow::Context;
use serde::Serialize;

use crate::{cases::Figure, gateway::Gateway};

#[derive(Serialize)]
struct Report {
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    name: String,
    connections: usize,
    cpu_ms_per_call: f64,
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    rss_mb: f64,
    ratio_to_nginx: Option<f64>,
}

/// CPU per call against nginx in front of the same server; none for the server itself, and where nginx is missing.
fn ratio(figure: &Figure, all: &[Figure]) -> Option<f64> {
    if figure.name.starts_with("direct") {
        return None;
    }
    let nginx = all.iter().find(|f| f.name == figure.yardstick && f.connections == figure.connections)?;
    Some(figure.sample.cpu_ms_per_call / nginx.sample.cpu_ms_per_call)
}

/// Prints every figure.
pub fn table(figures: &[Figure]) {
    println!("| case | connections | CPU-ms/call | calls/s | p50 us | p99 us | RSS MB | x nginx |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    for figure in figures {
        let s = &figure.sample;
        let ratio = ratio(figure, figures).map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        println!(
            "| {} | {} | {:.4} | {:.0} | {:.0} | {:.0} | {:.1} | {ratio} |",
            figure.name, figure.connections, s.cpu_ms_per_call, s.requests_per_s, s.p50_us, s.p99_us, figure.rss_mb
        );
    }
    println!("\n`direct` counts the CPU time of the server itself; every other row that of the process in the middle.");
}

/// Prints the budgets of the design beside what was measured.
pub fn budgets(figures: &[Figure], few: &Gateway, many: &Gateway) {
    let find = |name: &str, connections: usize| figures.iter().find(|f| f.name == name && f.connections == connections);
    let cpu = |name: &str, connections: usize| find(name, connections).map(|f| f.sample.cpu_ms_per_call);
    println!("\n| budget | limit | measured | |");
    println!("|---|--:|--:|---|");
    for connections in [1, 8, 32] {
        for (name, limit) in [("auth+policy+credential", 2.0), ("auth+policy+credential+warm", 1.5)] {
            let measured = find(name, connections).and_then(|f| ratio(f, figures));
            row(&format!("CPU a call of {name}, {connections} connections, x nginx"), limit, measured);
        }
    }
    if let (Some(ours), Some(nginx)) = (find("auth+policy+credential", 1), find("nginx", 1)) {
        row("median latency over nginx, one connection, us", 50.0, Some(ours.sample.p50_us - nginx.sample.p50_us));
    }
    // With many connections the wake-ups that blur a difference of microseconds are shared between calls.
    for (name, limit) in [("auth+policy", 10.0), ("auth+policy+warm", 2.0)] {
        let measured = cpu(name, 32).zip(cpu("auth", 32)).map(|(with, without)| (with - without) * 1e3);
        row(&format!("one policy call ({name} less auth), us"), limit, measured);
    }
    row("idle memory, built-in plugins loaded, MB", 64.0, Some(few.idle_mb));
    // Two servers show the large catalogue.
    let tools = 2.0 * (crate::gateway::MANY - crate::gateway::FEW) as f64;
    row(
        "memory of a further tool in the catalogue, kB",
        4.0,
        Some((many.idle_mb - few.idle_mb).max(0.0) * 1e3 / tools),
    );
    let large = cpu("auth+policy+credential/10000-tools", 32).zip(cpu("auth+policy+credential", 32));
    row("CPU a call with 10,000 tools, x that with 10", 1.1, large.map(|(many, few)| many / few));
    row("start to first answer, plugins cached, s", 1.0, Some(few.start.as_secs_f64()));
}

fn row(what: &str, limit: f64, measured: Option<f64>) {
    match measured {
        Some(value) => {
            println!("| {what} | {limit} | {value:.2} | {} |", if value <= limit { "kept" } else { "MISSED" })
        }
        None => println!("| {what} | {limit} | - | not measured |"),
    }
}

/// Writes the figures in the shape that the design fixes.
pub fn json(figures: &[Figure], path: &Path) -> anyhow::Result<()> {
    let cases = figures
        .iter()
        .map(|f| Case {
            name: f.name.clone(),
            connections: f.connections,
            cpu_ms_per_call: f.sample.cpu_ms_per_call,
            requests_per_s: f.sample.requests_per_s,
            p50_us: f.sample.p50_us,
            p99_us: f.sample.p99_us,
            rss_mb: f.rss_mb,
            ratio_to_nginx: ratio(f, figures),
        })
        .collect();
    let text = serde_json::to_string_pretty(&Report { cases })?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
