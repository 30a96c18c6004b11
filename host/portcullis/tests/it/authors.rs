//! `plugin`: what authors do, without a gateway.

use std::{fs, path::Path};

use crate::support::{Ran, portcullis};

/// Runs a command in a folder.
fn run(folder: &Path, args: &[&str]) -> Ran {
    portcullis(folder).current_dir(folder).args(args).output().unwrap().into()
}

fn built_in(name: &str) -> &'static [u8] {
    portcullis_plugins::built_ins().iter().find(|b| b.name == name).unwrap().wasm
}

#[test]
fn a_component_is_shown_without_being_run() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jwks.wasm"), built_in("jwks")).unwrap();
    fs::write(dir.path().join("none.wasm"), "no component").unwrap();
    let seen = run(dir.path(), &["plugin", "inspect", "jwks.wasm"]);
    assert_eq!(seen.code, 0, "{}", seen.err);
    for line in [
        "portcullis-plugin-jwks 0.1.0",
        "hooks: auth/provider",
        "grants that its imports need: issuers: [..]",
        "\"audience\"",
    ] {
        assert!(seen.out.contains(line), "{line} in {}", seen.out);
    }
    let json = run(dir.path(), &["plugin", "inspect", "jwks.wasm", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["manifest"]["wants"][0]["grant"], "issuers");
    assert_eq!(json["configSchema"]["allOf"][0]["required"][0], "issuers");
    let refused = run(dir.path(), &["plugin", "inspect", "none.wasm"]);
    assert_eq!((refused.code, refused.err.contains("not a WebAssembly component")), (4, true), "{}", refused.err);
    assert_eq!(run(dir.path(), &["plugin", "inspect", "gone.wasm"]).code, 3);
}

#[test]
fn anybodys_component_is_tried_with_ones_own_cases() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tool-access.wasm"), built_in("tool-access")).unwrap();
    fs::create_dir(dir.path().join("cases")).unwrap();
    let case = dir.path().join("cases/one.yaml");
    fs::write(&case, "config: {default: allow}\nask: {toolCall: {tool: x}}\n").unwrap();
    let test = ["plugin", "test", "tool-access.wasm", "--cases", "cases"];
    let first = run(dir.path(), &test);
    assert_eq!(first.code, 0, "{}{}", first.out, first.err);
    assert!(first.out.contains("expects nothing yet"), "{}", first.out);
    let recorded = run(dir.path(), &[&test[..], &["--record"]].concat());
    assert_eq!(recorded.code, 0, "{}{}", recorded.out, recorded.err);
    assert!(fs::read_to_string(&case).unwrap().ends_with("expect:\n  allow: true\n"));
    // It is held to that from now on.
    let changed = fs::read_to_string(&case).unwrap().replace("default: allow", "default: deny");
    fs::write(&case, changed).unwrap();
    let differs = run(dir.path(), &test);
    assert_eq!(differs.code, 1, "{}", differs.out);
    assert!(differs.out.contains("allow: expected true"), "{}", differs.out);
    fs::write(&case, "ask: {toolCal: {}}\n").unwrap();
    let broken = run(dir.path(), &test);
    assert_eq!((broken.code, broken.err.contains("toolCal")), (2, true), "{}", broken.err);
}

#[test]
fn a_project_is_made_once_and_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &["plugin", "new", "mine", "--template", "policy"]).code, 0);
    assert!(dir.path().join("mine/vendor/portcullis-sdk/src/lib.rs").is_file());
    let again = run(dir.path(), &["plugin", "new", "mine"]);
    assert_eq!((again.code, again.err.contains("is there already")), (2, true), "{}", again.err);
    assert_eq!(run(dir.path(), &["plugin", "new", "Not A Name"]).code, 2);
    let nowhere = run(dir.path(), &["plugin", "build"]);
    assert_eq!((nowhere.code, nowhere.err.contains("plugin new")), (3, true), "{}", nowhere.err);
    assert_eq!(run(dir.path(), &["plugin", "vendor", "--path", "mine"]).code, 0);
    assert_eq!(run(dir.path(), &["plugin", "vendor"]).code, 3);
}

#[test]
fn a_rust_that_can_build_no_components_is_told_what_to_add() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &["plugin", "new", "mine"]).code, 0);
    // A stand-in for a rustc without that target: it names a folder that is not there, as a real one does.
    let rustc = dir.path().join("rustc");
    fs::write(&rustc, "#!/bin/sh\necho /nowhere/lib/rustlib/wasm32-wasip2/lib\n").unwrap();
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = portcullis(dir.path());
    command.env("PATH", format!("{}:/usr/bin:/bin", dir.path().display())).current_dir(dir.path().join("mine"));
    let lacks: Ran = command.args(["plugin", "build"]).output().unwrap().into();
    assert_eq!(lacks.code, 1, "{}", lacks.err);
    assert!(lacks.err.contains("rustup target add wasm32-wasip2"), "{}", lacks.err);
}
