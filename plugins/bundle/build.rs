//! Builds the built-in plugins from their source, as anybody would build a plugin, and leaves the components in `OUT_DIR`.
//! They are never committed as binaries.

#![allow(clippy::print_stdout, reason = "a build script talks to cargo on standard output")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// The folders under `plugins/`; the crate of each is `portcullis-plugin-{folder}`.
const GUESTS: [&str; 14] = [
    "static",
    "call-time",
    "idp-exchange",
    "passthrough",
    "bearer-token",
    "jwks",
    "client-certificate",
    "tool-access",
    "redact",
    "size-cap",
    "arguments",
    "header-map",
    "rate",
    "webhook",
];
/// What `cargo build` makes a component for straight away.
const TARGET: &str = "wasm32-wasip2";
const PROFILE: &str = "guest";
/// Small memories are cheap to give back after each call: a stack of 128 KiB in place of a mebibyte, and room for 200 KiB of heap
/// before the first growth.
const MEMORY: &str = "-Clink-arg=-zstack-size=131072 -Clink-arg=--initial-memory=393216";

fn main() {
    if let Err(problem) = build() {
        // On standard error: cargo shows it whole when a build script fails.
        eprint(&problem);
        exit(1);
    }
}

#[allow(clippy::print_stderr, reason = "the one place where a failed build is explained")]
fn eprint(problem: &str) {
    eprintln!("{problem}");
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?).join("../..");
    let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
    let out = PathBuf::from(var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    for path in [
        "wit",
        "plugins/kit/src",
        "plugins/kit/Cargo.toml",
        "plugin-sdk/src",
        "plugin-sdk/Cargo.toml",
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    for guest in GUESTS {
        for path in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", root.join("plugins").join(guest).join(path).display());
        }
    }
    ensure_target(&root)?;
    let target_dir = guests_dir(&out)?;
    compile(&root, &target_dir)?;
    for guest in GUESTS {
        let file = format!("portcullis_plugin_{}.wasm", guest.replace('-', "_"));
        let from = target_dir.join(TARGET).join(PROFILE).join(&file);
        let to = out.join(format!("{guest}.wasm"));
        fs::copy(&from, &to).map_err(|e| format!("{} -> {}: {e}", from.display(), to.display()))?;
    }
    Ok(())
}

/// `{target}/guests`, beside the profiles: shared by `check`, `clippy`, debug and release, which all want the same guests.
/// A folder of its own, since the outer cargo holds the lock of the one that it builds in.
fn guests_dir(out: &Path) -> Result<PathBuf, String> {
    // OUT_DIR is {target}/{profile}/build/{crate}-{hash}/out, with the triple behind {target} when one was asked for.
    let target = out.ancestors().nth(4).ok_or_else(|| format!("OUT_DIR {} is too short", out.display()))?;
    Ok(target.join("guests"))
}

/// Adds the standard library for components, unless it is there.
fn ensure_target(root: &Path) -> Result<(), String> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let present = || {
        let printed = clean(Command::new(&rustc).current_dir(root))
            .args(["--print", "target-libdir", "--target", TARGET])
            .output();
        printed.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
    };
    if present() {
        return Ok(());
    }
    let added = clean(Command::new("rustup").current_dir(root)).args(["target", "add", TARGET]).output();
    if present() {
        return Ok(());
    }
    let why = match added {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("rustup: {error}"),
    };
    Err(format!(
        "The built-in plugins are WebAssembly components, and this Rust lacks the target {TARGET}.\n\
         Adding it failed: {why}\n\
         Run `rustup target add {TARGET}` in {} and build again. Without rustup, install your distribution's\n\
         standard library for {TARGET}.",
        root.display()
    ))
}

fn compile(root: &Path, target_dir: &Path) -> Result<(), String> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    clean(command.current_dir(root));
    // Not `--locked`: the outer cargo has just brought the lock file up to date, or refused.
    command.args(["build", "--lib", "--target", TARGET, "--profile", PROFILE, "--target-dir"]).arg(target_dir);
    for guest in GUESTS {
        command.args(["--package", &format!("portcullis-plugin-{guest}")]);
    }
    command.env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", MEMORY);
    let output = command.output().map_err(|e| format!("cargo did not start: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("The built-in plugins do not build:\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// Takes away what the outer build set for itself: flags and wrappers meant for the host's target (clippy's driver,
/// coverage, nextest) break or needlessly rebuild a guest.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let meant_for_the_outer_build = matches!(
            name,
            "RUSTFLAGS"
                | "CARGO_ENCODED_RUSTFLAGS"
                | "CARGO_ENCODED_RUSTDOCFLAGS"
                | "RUSTDOCFLAGS"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "CLIPPY_ARGS"
                | "CLIPPY_CONF_DIR"
                | "CARGO_MAKEFLAGS"
                | "CARGO_TARGET_DIR"
                | "CARGO_BUILD_TARGET"
                | "CARGO_BUILD_TARGET_DIR"
                | "CARGO_BUILD_BUILD_DIR"
                | "CARGO_BUILD_RUSTFLAGS"
                | "CARGO_BUILD_RUSTC_WRAPPER"
                | "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER"
                | "RUSTC"
                | "RUSTDOC"
                | "TARGET"
                | "HOST"
                | "PROFILE"
                | "OPT_LEVEL"
                | "DEBUG"
                | "OUT_DIR"
                | "NUM_JOBS"
                // A guest holds what it asks for, whatever else is built beside it.
                | "CARGO_RESOLVER_FEATURE_UNIFICATION"
                | "LLVM_PROFILE_FILE"
        ) || name.starts_with("CARGO_CFG_")
            || name.starts_with("CARGO_FEATURE_")
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_");
        if meant_for_the_outer_build {
            command.env_remove(name);
        }
    }
    command
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
