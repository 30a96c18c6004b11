//! How processes live and end: what they see, what is left of them.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use portcullis_model::{Secret, spec::Traffic};
use portcullis_orchestrator::State;
use portcullis_telemetry::Metrics;
use portcullis_upstream::{Account, LaunchError, LaunchSpec, SecretFile, Sent, UpstreamError};
use serde_json::json;

use crate::kit::{FIXTURE, House, alive, call, eventually, name, private, process, send, tenant};

#[tokio::test]
async fn a_child_sees_nothing_but_what_is_declared() {
    let house = House::new();
    let mut declared = process(&[]);
    declared["env"] = json!({"DECLARED": "yes"});
    declared["memory"] = json!("2GiB");
    let spec = LaunchSpec {
        env: vec![("TOKEN".to_owned(), Secret::new("s3cret-value"))],
        files: vec![SecretFile { env: "KEY_FILE".to_owned(), content: Secret::new("in-a-file") }],
        ..LaunchSpec::plain(Arc::new(serde_json::from_value(declared).unwrap()))
    };
    let peer = house.peer("fixture", spec, Traffic::default());
    let seen = call(&peer, "env", json!({})).await.unwrap();
    let env = seen["env"].as_object().unwrap();
    assert_eq!(env.keys().collect::<Vec<_>>(), ["DECLARED", "HOME", "KEY_FILE", "PATH", "TMPDIR", "TOKEN"]);
    assert_eq!(env["TOKEN"], "s3cret-value");
    assert_eq!(std::fs::read_to_string(env["KEY_FILE"].as_str().unwrap()).unwrap(), "in-a-file");
    let (key, home) = (env["KEY_FILE"].as_str().unwrap(), env["HOME"].as_str().unwrap());
    let private = std::path::Path::new(key).parent().unwrap();
    assert!(std::path::Path::new(seen["cwd"].as_str().unwrap()).starts_with(private));
    assert!(!std::path::Path::new(home).starts_with(private), "what lasts holds no secrets");

    let limits = call(&peer, "limits", json!({})).await.unwrap();
    let (text, status) = (limits["limits"].as_str().unwrap(), limits["status"].as_str().unwrap());
    let limit = |of: &str| text.lines().find(|l| l.starts_with(of)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(limit("Max core file size")[4], "0");
    assert_eq!(limit("Max open files")[3], "4096");
    assert_eq!(limit("Max address space")[3], (2u64 << 30).to_string());
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // Three streams, and the directory that is being listed.
    assert_eq!(limits["fds"], 4, "no descriptor of the gateway or the supervisor gets through");
    house.close().await;
}

#[tokio::test]
async fn a_flood_of_errors_is_bounded_and_harms_nobody() {
    let house = House::new();
    let peer = house.server(&["flood-stderr"]);
    for n in 0..50 {
        assert_eq!(call(&peer, "echo", json!(n)).await.unwrap()["echo"], n);
    }
    assert!(house.log().len() < 3 << 20);
    house.close().await;
}

#[tokio::test]
async fn letting_go_ends_the_whole_tree() {
    let house = House::new();
    // Ignores SIGTERM itself, as do its grandchildren in sessions of their own.
    let shell = format!("trap '' TERM; '{FIXTURE}' server fork stay");
    let peer = house.process(json!({"command": "sh", "args": ["-c", shell]}), Traffic::default());
    call(&peer, "pid", json!({})).await.unwrap();
    let dir = house.dir.path().to_owned();
    eventually("the grandchildren are up", || alive(&dir).len() >= 7).await;
    drop(peer);
    house.pool.retain(|_| false);
    eventually("nothing is left", || alive(&dir).is_empty()).await;
    eventually("it idles", || house.orchestrator.status()[0].state == State::Idle).await;
    house.close().await;
}

#[tokio::test]
async fn a_child_that_nobody_uses_ends_and_the_next_call_starts_it() {
    let house = House::new();
    let mut brief = process(&[]);
    brief["idleAfter"] = json!("200ms");
    let peer = house.process(brief, Traffic::default());
    let first = call(&peer, "pid", json!({})).await.unwrap()["pid"].clone();
    // In use for longer than that, it stays.
    let slow = call(&peer, "slow", json!({"ms": 900})).await.unwrap();
    assert_eq!(call(&peer, "pid", json!({})).await.unwrap()["pid"], first, "{slow}");
    let dir = house.dir.path().to_owned();
    eventually("it idles", || house.orchestrator.status()[0].state == State::Idle).await;
    eventually("its whole tree is gone", || alive(&dir).is_empty()).await;
    assert_eq!(house.orchestrator.status()[0].failures, 0, "that is no failure");
    assert_ne!(call(&peer, "pid", json!({})).await.unwrap()["pid"], first);
    // Many calls at the moment at which it ends: none is lost.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        call(&peer, "pid", json!({})).await.unwrap();
    }
    house.close().await;
}

#[tokio::test]
async fn what_a_server_leaves_behind_goes_with_it() {
    let house = House::new();
    let peer = house.server(&["fork"]);
    call(&peer, "echo", json!(1)).await.unwrap();
    let dir = house.dir.path().to_owned();
    eventually("the grandchildren are up", || alive(&dir).len() >= 5).await;
    call(&peer, "die", json!({})).await.unwrap_err();
    eventually("nothing is left", || alive(&dir).is_empty()).await;
    house.close().await;
}

#[tokio::test]
async fn a_killed_gateway_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut gateway =
        Command::new(FIXTURE).arg("gateway").arg(&run).stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(gateway.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    eventually("the tree is up", || alive(dir.path()).len() >= 6).await;
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    eventually("nothing is left", || alive(dir.path()).is_empty()).await;
    eventually("its secrets are gone", || private(&run) == 0).await;
}

/// Either of the two supervisors is killed, and nothing stays of a tree that ignores SIGTERM in sessions of its own.
#[tokio::test]
async fn a_killed_supervisor_leaves_nothing() {
    for inner in [false, true] {
        let house = House::new();
        let peer = house.server(&["fork", "stay"]);
        call(&peer, "pid", json!({})).await.unwrap();
        let dir = house.dir.path().to_owned();
        // Two supervisors, the server, and two grandchildren with a child each.
        eventually("the tree is up", || alive(&dir).len() >= 7).await;
        let outer = house.orchestrator.status()[0].pid.unwrap();
        let pid = if inner { children(outer)[0] } else { outer };
        let waiting = tokio::spawn({
            let peer = peer.clone();
            async move { send(&peer, "never", json!({}), Duration::from_secs(20)).await.map(drop) }
        });
        eventually("a call is in flight", || peer.in_flight() == 1).await;
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let error = waiting.await.unwrap().unwrap_err();
        assert!(matches!(error, UpstreamError::Closed { sent: Sent::Maybe }), "{error}");
        eventually("nothing is left", || alive(&dir).is_empty()).await;
        eventually("it failed", || matches!(house.orchestrator.status()[0].state, State::Failed(_))).await;
        call(&peer, "echo", json!(1)).await.expect("it comes up again");
        house.close().await;
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|p| p.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_home_lasts_until_its_server_is_gone() {
    let house = House::new();
    let home = |env: serde_json::Value| std::path::PathBuf::from(env["env"]["HOME"].as_str().unwrap());
    let peer = house.server(&[]);
    let first = home(call(&peer, "env", json!({})).await.unwrap());
    std::fs::write(first.join("cache"), "downloaded").unwrap();
    house.orchestrator.retain_homes(|_| false);
    assert!(first.join("cache").exists(), "a process runs in it");
    house.orchestrator.restart(&tenant(), &name("fixture"), Duration::ZERO).await;
    let again = home(call(&peer, "env", json!({})).await.unwrap());
    assert_eq!(std::fs::read_to_string(again.join("cache")).unwrap(), "downloaded");

    let account = |revision| Account::Connection { name: name("mine"), revision };
    let mut homes = vec![again.clone()];
    for revision in [1, 2] {
        let spec = LaunchSpec::plain(Arc::new(serde_json::from_value(process(&[])).unwrap()));
        let peer = house.peer_of("fixture", account(revision), spec, Traffic::default());
        homes.push(home(call(&peer, "env", json!({})).await.unwrap()));
        house.orchestrator.restart(&tenant(), &name("fixture"), Duration::ZERO).await;
    }
    assert!(homes[0].exists() && homes[2].exists());
    assert!(!homes[1].exists(), "other values may be another account's");
    assert_eq!(homes.iter().collect::<std::collections::HashSet<_>>().len(), 3);

    house.orchestrator.retain_homes(|home| home.connection.is_none());
    assert!(homes[0].exists() && !homes[2].exists());
    house.orchestrator.retain_homes(|_| false);
    assert!(!homes[0].exists());
    house.close().await;
}

#[tokio::test]
async fn processes_are_counted() {
    let metrics = Metrics::new();
    let house = House::with(|o| o.metrics = metrics.clone());
    let peer = house.server(&[]);
    for _ in 0..2 {
        call(&peer, "echo", json!(1)).await.unwrap();
        assert_eq!(metrics.children.get(), 1);
        house.orchestrator.restart(&tenant(), &name("fixture"), Duration::ZERO).await;
    }
    assert_eq!(metrics.children.get(), 0);
    let text = metrics.encode();
    assert!(text.contains(r#"child_restarts_total{tenant="default",server="fixture"} 1"#), "{text}");
    house.close().await;
}

#[tokio::test]
async fn a_server_that_keeps_dying_is_started_less_and_less() {
    let house = House::new();
    let peer = house.server(&["die-at-once"]);
    let first = call(&peer, "echo", json!(1)).await.unwrap_err();
    assert!(matches!(first, UpstreamError::Closed { .. }), "{first}");
    let mut refused = None;
    for _ in 0..5 {
        if let Err(UpstreamError::Launch(error)) = call(&peer, "echo", json!(1)).await {
            refused = Some(error);
            break;
        }
    }
    assert!(
        matches!(&refused, Some(LaunchError::Backoff { reason, .. }) if reason.contains("status 3")),
        "{refused:?}"
    );
    assert!(matches!(house.orchestrator.status()[0].state, State::Failed(_)));
    house.close().await;
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let house = House::new();
    let peer = house.process(json!({"command": "surely-no-such-program"}), Traffic::default());
    let error = call(&peer, "echo", json!(1)).await.unwrap_err();
    assert!(error.to_fault("fixture", None).message.contains("surely-no-such-program"), "{error}");
    let State::Failed(why) = &house.orchestrator.status()[0].state else { panic!("{:?}", house.orchestrator.status()) };
    assert!(why.contains("surely-no-such-program"), "a doctor tells it: {why}");
    assert!(house.log().contains("surely-no-such-program"), "and so does the log");
    house.close().await;
}

#[tokio::test]
async fn restart_waits_for_calls_in_flight() {
    let house = House::new();
    let peer = house.server(&[]);
    let before = call(&peer, "pid", json!({})).await.unwrap();
    let slow = tokio::spawn({
        let peer = peer.clone();
        async move { call(&peer, "slow", json!({"ms": 400})).await }
    });
    eventually("the call is in flight", || peer.in_flight() == 1).await;
    house.orchestrator.restart(&tenant(), &name("fixture"), Duration::from_secs(10)).await;
    assert_eq!(slow.await.unwrap().unwrap()["slow"], true);
    let after = call(&peer, "pid", json!({})).await.unwrap();
    assert_ne!(before, after);

    house.orchestrator.stop(&tenant(), &name("fixture"), Duration::ZERO).await;
    assert_eq!(house.orchestrator.status()[0].state, State::Stopped);
    let error = call(&peer, "pid", json!({})).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Launch(LaunchError::Stopped)), "{error}");
    house.orchestrator.start(&tenant(), &name("fixture"));
    call(&peer, "pid", json!({})).await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn the_caps_hold() {
    let house = House::with(|o| o.max_children = 1);
    let peer = house.server(&[]);
    call(&peer, "echo", json!(1)).await.unwrap();
    assert!(matches!(house.orchestrator.status()[0].state, State::Ready));
    let spec = LaunchSpec::plain(Arc::new(serde_json::from_value(process(&[])).unwrap()));
    let second = house.peer("second", spec, Traffic::default());
    let error = call(&second, "echo", json!(1)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Launch(LaunchError::TooMany { limit: 1 })), "{error}");
    house.close().await;
}
