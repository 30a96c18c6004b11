//! The trial guests of the plugin host, built as components the way anybody builds one.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use crate::parts::root;

/// The file of a guest of `host/plugin/tests/guests`, by name. Builds nothing where nothing changed; several test processes take
/// turns by cargo's own lock.
pub fn guest(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(build).join(format!("{name}.wasm"))
}

fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // {target}/{profile}/deps/{test}
    let target = test.ancestors().nth(3).map(|target| target.join("guests")).unwrap_or_default();
    let mut cargo = Command::new("cargo");
    // What the outer build says about itself and its target is not meant for a guest.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let outer = text.starts_with("CARGO") && !matches!(&*text, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        let flags = ["RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "LLVM_PROFILE_FILE"];
        if outer || flags.contains(&&*text) {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(root()).args(["build", "--package", "portcullis-trial-guests", "--examples"]);
    cargo.args(["--target", "wasm32-wasip2", "--profile", "guest", "--target-dir"]).arg(&target);
    match cargo.output() {
        Ok(output) if output.status.success() => target.join("wasm32-wasip2/guest/examples"),
        Ok(output) => panic!("the guests do not build:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("cargo does not start: {error}"),
    }
}
