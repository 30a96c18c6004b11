//! Metrics held to their golden file; the audit chain through crashes, tampering, rotation and full queues.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_model::{Fault, Side};
use portcullis_telemetry::{
    Audit, AuditEvent, Metrics, Outcome,
    audit::{AuditOptions, VerifyError, verify},
    metrics::{MAX_NAMES, MAX_TOOLS},
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");

fn event(n: u32) -> AuditEvent {
    AuditEvent { tool: Some(Arc::from(format!("tool-{n}"))), ..AuditEvent::new("call") }
}

fn open(dir: &Path) -> Arc<Audit> {
    Audit::open(AuditOptions::new(dir), Metrics::new()).unwrap()
}

async fn recorded(dir: &Path, count: u32) {
    let audit = open(dir);
    for n in 0..count {
        audit.record(event(n));
    }
    audit.record_durable(event(count)).await.unwrap();
}

/// Dashboards and alerts hang on these names: changing one is a decision, made by editing the golden file.
#[test]
fn metric_names_are_the_golden_ones() {
    let metrics = Metrics::new();
    let mut lines: Vec<String> = metrics
        .declared()
        .iter()
        .map(|d| format!("{} {} [{}]", d.full_name(), d.kind.as_str(), d.labels.join(",")))
        .collect();
    lines.sort();
    let golden = fs::read_to_string(GOLDEN).unwrap();
    assert_eq!(lines.join("\n"), golden.trim_end(), "the golden file is {GOLDEN}");
    let docs = fs::read_to_string(DOCS).unwrap();
    for declared in metrics.declared() {
        assert!(docs.contains(&format!("`{}`", declared.full_name())), "{} is not in docs/metrics.md", declared.name);
    }
}

#[test]
fn every_family_is_exposed_and_counts() {
    let metrics = Metrics::new();
    let call = metrics.call_handle("default", "team", "github", "github__search");
    call.record(Outcome::Ok, Duration::from_micros(300), Duration::from_micros(260));
    metrics.plugin_handle("default", "tool-access").record("tool-call", true, Duration::from_micros(3));
    metrics.refused(&Fault::new(Side::Caller, "unknown-tool", "x"));
    metrics.in_flight.inc();
    let text = metrics.encode();
    for line in [
        "portcullis_calls_total{tenant=\"default\",gateway=\"team\",server=\"github\",tool=\"github__search\",outcome=\"ok\"} 1",
        "portcullis_call_overhead_seconds_bucket{le=\"0.00005\",tenant=\"default\",gateway=\"team\"} 1",
        "portcullis_plugin_calls_total{tenant=\"default\",plugin=\"tool-access\",hook=\"tool-call\",outcome=\"ok\"} 1",
        "portcullis_refusals_total{side=\"caller\",code=\"unknown-tool\"} 1",
        "portcullis_requests_in_flight 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }
    // A family with labels shows with its first series.
    for declared in metrics.declared().iter().filter(|d| d.labels.is_empty()) {
        let line = format!("# TYPE portcullis_{} {}", declared.name, declared.kind.as_str());
        assert!(text.lines().any(|l| l == line), "{line}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn labels_are_bounded() {
    let metrics = Metrics::new();
    for n in 0..MAX_TOOLS + 300 {
        let call = metrics.call_handle("t", &format!("g{}", n % 7), "s", &format!("tool{n}"));
        call.record(Outcome::Ok, Duration::ZERO, Duration::ZERO);
    }
    for n in 0..MAX_NAMES + 50 {
        metrics.plugin_handle("t", &format!("p{n}")).trapped();
        metrics.child_restarts("t", &format!("s{n}")).inc();
    }
    for n in 0..5_000 {
        metrics.call_handle(&format!("t{n}"), "g", "s", "x").record(Outcome::Ok, Duration::ZERO, Duration::ZERO);
    }
    let text = metrics.encode();
    let series = |name: &str| text.lines().filter(|l| l.starts_with(name)).count();
    assert!(series("portcullis_calls_total{") <= MAX_TOOLS + 2 * MAX_NAMES + 1);
    assert!(series("portcullis_plugin_traps_total{") <= MAX_NAMES + 1);
    assert_eq!(series("portcullis_child_restarts_total{"), MAX_NAMES + 1);
    assert!(text.contains("tool=\"other\""));
    let again = metrics.call_handle("t", "g0", "s", "tool0");
    assert_eq!(again.count(Outcome::Ok), 1);
}

#[tokio::test]
async fn a_durable_record_is_on_disk_when_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let full = AuditEvent {
        request_id: Some("r-1".into()),
        caller: Some("user:alice".into()),
        decision: Some("deny".into()),
        executed_as: Some("team:blue".into()),
        duration_us: Some(12),
        ..AuditEvent::new("denial")
    };
    audit.record_durable(full).await.unwrap();
    let text = fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(line["event"]["caller"], "user:alice");
    assert_eq!(line["event"]["executedAs"], "team:blue");
    assert_eq!(line["event"]["durationUs"], 12);
    assert_eq!(line["seq"], 1);
    assert!(line["event"].get("connection").is_none());
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(dir.path().join("audit.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_plain_record_follows_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    audit.record(event(1));
    let deadline = Instant::now() + Duration::from_secs(5);
    let started = Instant::now();
    while verify(dir.path()).is_err() {
        assert!(Instant::now() < deadline, "not written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        recorded(dir.path(), 4).await;
    }
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.first, found.last, found.gaps), (1, 15, 0));
}

#[tokio::test]
async fn many_waiting_are_synced_together() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    let all: Vec<_> = (0..200)
        .map(|n| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move { audit.record_durable(event(n)).await })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    assert_eq!(verify(dir.path()).unwrap().last, 200);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    recorded(dir.path(), 4).await;
    let path = dir.path().join("audit.jsonl");
    let whole = fs::read(&path).unwrap();
    let last_start = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    // A kill may cut anywhere: in the last line, before its line break, or right after the first byte.
    for cut in [last_start + 1, last_start + 40, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        recorded(dir.path(), 0).await;
        let found = verify(dir.path()).unwrap();
        assert_eq!((found.last, found.gaps), (6, 1), "cut at {cut}");
    }
    // The very first line, torn.
    fs::write(&path, &whole[..20]).unwrap();
    recorded(dir.path(), 0).await;
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.first, found.last, found.gaps), (1, 2, 1));
}

#[tokio::test]
async fn every_kind_of_tampering_is_found() {
    let dir = tempfile::tempdir().unwrap();
    recorded(dir.path(), 6).await;
    let path = dir.path().join("audit.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let tampered = |lines: Vec<String>| {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        verify(dir.path())
    };
    let owned = || lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    assert_eq!(tampered(owned()).unwrap().last, 7);
    let mut changed = owned();
    changed[2] = changed[2].replace("tool-2", "tool-9");
    let mut removed = owned();
    removed.remove(3);
    let mut swapped = owned();
    swapped.swap(1, 2);
    let mut doubled = owned();
    doubled.insert(1, doubled[1].clone());
    let mut appended = owned();
    appended.push("{}".into());
    for (what, lines, line) in [
        ("changed", changed, 3),
        ("removed", removed, 4),
        ("swapped", swapped, 2),
        ("doubled", doubled, 3),
        ("appended", appended, 8),
    ] {
        match tampered(lines) {
            Err(VerifyError::Broken { line: found, .. }) => assert_eq!(found, line, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_put_aside_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    recorded(dir.path(), 3).await;
    let path = dir.path().join("audit.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len();
    bytes[len - 90] ^= 1;
    fs::write(&path, &bytes).unwrap();
    recorded(dir.path(), 0).await;
    let found = verify(dir.path()).unwrap();
    assert_eq!((found.first, found.last, found.gaps), (1, 2, 1));
    let kept =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains("damaged"));
    assert_eq!(fs::read(kept.unwrap()).unwrap(), bytes);
}

#[tokio::test]
async fn the_chain_runs_across_files_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let options = AuditOptions { max_file_bytes: 2_000, max_files: 3, ..AuditOptions::new(dir.path()) };
    for round in 0..2 {
        let audit = Audit::open(options.clone(), Metrics::new()).unwrap();
        for n in 0..60 {
            audit.record_durable(event(n)).await.unwrap();
        }
        drop(audit);
        let found = verify(dir.path()).unwrap();
        assert_eq!((found.last, found.gaps), ((round + 1) * 60, 0));
        assert!(found.first > 1);
        let files = fs::read_dir(dir.path()).unwrap().count();
        assert!(files <= 4, "{files}");
    }
}

#[tokio::test]
async fn what_does_not_fit_the_queue_leaves_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let options = AuditOptions { queue: 64, ..AuditOptions::new(dir.path()) };
    let audit = Audit::open(options, Arc::clone(&metrics)).unwrap();
    let total = 20_000;
    for n in 0..total {
        audit.record(event(n));
    }
    audit.flush().await.unwrap();
    audit.record_durable(event(total)).await.unwrap();
    drop(audit);
    let found = verify(dir.path()).unwrap();
    assert!(found.gaps > 0 && found.dropped > 0, "{found:?}");
    assert_eq!(found.dropped, metrics.audit_dropped.get());
    assert_eq!(found.last - found.gaps + found.dropped, u64::from(total) + 1);
}

#[tokio::test]
async fn closing_writes_what_waits_and_refuses_more() {
    let dir = tempfile::tempdir().unwrap();
    let audit = open(dir.path());
    for n in 0..10 {
        audit.record(event(n));
    }
    audit.close();
    assert_eq!(verify(dir.path()).unwrap().last, 10);
    assert!(audit.record_durable(event(11)).await.is_err());
    let discard = Audit::discard();
    discard.record(event(1));
    discard.record_durable(event(2)).await.unwrap();
    discard.flush().await.unwrap();
}

/// `/dev/full` takes every open and no write, like a disk without space.
#[tokio::test]
async fn a_disk_that_refuses_fails_the_record() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("audit.jsonl")).unwrap();
    let metrics = Metrics::new();
    let audit = Audit::open(AuditOptions::new(dir.path()), Arc::clone(&metrics)).unwrap();
    assert!(audit.record_durable(event(1)).await.is_err());
    assert_eq!(metrics.audit_dropped.get(), 1);
}
