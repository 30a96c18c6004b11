//! Guests of the SDK, built as components the way anybody builds one, and the built-in plugins.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

/// A guest of `tests/guests`, by name.
pub(crate) fn guest(name: &str) -> Arc<[u8]> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let path = DIR.get_or_init(build).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

/// The component of a built-in plugin, by name.
pub(crate) fn built_in(name: &str) -> Arc<[u8]> {
    let all = portcullis_plugins::built_ins();
    all.iter().find(|b| b.name == name).expect("a built-in plugin").wasm.into()
}

/// Where the components are. Builds nothing where nothing changed; several test processes take turns by cargo's own lock.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let test = std::env::current_exe().expect("a path of this test");
    // {target}/{profile}/deps/{test}
    let target = test.ancestors().nth(3).expect("a target directory").join("guests");
    let mut cargo = Command::new("cargo");
    // What the outer build says about itself and its target is not meant for a guest.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let outer = text.starts_with("CARGO") && !matches!(&*text, "CARGO_HOME" | "CARGO_NET_OFFLINE");
        if outer
            || matches!(
                &*text,
                "RUSTFLAGS" | "RUSTC" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "LLVM_PROFILE_FILE"
            )
        {
            cargo.env_remove(&name);
        }
    }
    cargo.current_dir(root).args(["build", "--package", "portcullis-trial-guests", "--examples"]);
    cargo.args(["--target", "wasm32-wasip2", "--profile", "guest", "--target-dir"]).arg(&target);
    let output = cargo.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("wasm32-wasip2/guest/examples")
}
