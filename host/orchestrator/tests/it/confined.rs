//! What a server's process is kept from, as its definition has it.

use std::{fs, path::Path};

use portcullis_model::spec::Traffic;
use portcullis_upstream::Peer;
use serde_json::{Value, json};

use crate::kit::{FIXTURE, House, call};

async fn went(peer: &Peer, what: &str, path: &Path) -> String {
    let said = call(peer, "try", json!({"what": what, "path": path})).await.unwrap();
    said["went"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_server_reaches_what_is_its_own_and_what_its_definition_names() {
    let (kept, named, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&kept, &named, &other] {
        fs::write(dir.path().join("x"), "x").unwrap();
    }
    let house = House::with(|options| options.hidden = vec![kept.path().to_owned()]);
    let homes = house.dir.path().join("run/homes/default_other");
    fs::create_dir_all(&homes).unwrap();
    fs::write(homes.join("x"), "x").unwrap();
    let process = json!({"command": FIXTURE, "args": ["server", named.path()]});
    let peer = house.process(process, Traffic::default());
    let env: Value = call(&peer, "env", json!({})).await.unwrap()["env"].clone();
    let own = |name: &str| Path::new(env[name].as_str().unwrap()).join("made");
    for (what, path) in [
        ("write", own("HOME")),
        ("write", own("TMPDIR")),
        ("read", named.path().join("x")),
        ("write", named.path().join("made")),
        ("read", other.path().join("x")),
        ("bind", "".into()),
    ] {
        assert_eq!(went(&peer, what, &path).await, "ok", "{what} {}", path.display());
    }
    for (what, path) in [
        ("read", kept.path().join("x")),
        ("read", homes.join("x")),
        ("write", homes.join("made")),
        ("write", other.path().join("made")),
        ("write", "/tmp/portcullis-was-here".into()),
        ("signal", "1".into()),
    ] {
        assert_eq!(went(&peer, what, &path).await, "PermissionDenied", "{what} {}", path.display());
    }
    let status = house.orchestrator.status();
    let held: Vec<&str> = status[0].protections.iter().filter(|p| p.missing.is_none()).map(|p| &*p.name).collect();
    assert_eq!(held, ["no-new-privileges", "limits", "files", "signals", "capabilities", "system-calls"]);
    house.close().await;
}

#[tokio::test]
async fn what_is_declared_is_all_that_it_reaches() {
    let (read, write, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&read, &write, &other] {
        fs::write(dir.path().join("x"), "x").unwrap();
    }
    let house = House::new();
    let process = json!({
        "command": FIXTURE, "args": ["server", other.path()], "network": false,
        "files": {"read": [read.path()], "write": [write.path()]},
    });
    let peer = house.process(process, Traffic::default());
    for (what, dir, expected) in [
        ("read", &read, "ok"),
        ("write", &read, "PermissionDenied"),
        ("read", &write, "ok"),
        ("write", &write, "ok"),
        ("read", &other, "PermissionDenied"),
        ("write", &other, "PermissionDenied"),
        ("bind", &other, "PermissionDenied"),
    ] {
        let path = dir.path().join("x");
        assert_eq!(went(&peer, what, &path).await, expected, "{what} {}", path.display());
    }
    let status = house.orchestrator.status();
    assert!(status[0].protections.iter().any(|p| p.name == "no-network" && p.missing.is_none()), "{status:?}");
    house.close().await;
}
