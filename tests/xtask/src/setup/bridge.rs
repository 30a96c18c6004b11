//! The bridge as it goes into pods: a static program, which runs in any image. Cargo itself knows whether it is up to date.

use std::path::PathBuf;

use crate::shell::{cargo, quietly, stage, target};

/// Builds it, and the server that tests put behind it. Answers the folder of both.
pub(super) fn programs() -> anyhow::Result<PathBuf> {
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    super::add_target(&triple)?;
    stage("the bridge, static", || {
        // Small enough to be copied into each pod; nobody looks into it with a debugger.
        let small = ["--config", "profile.dev.strip=\"symbols\"", "--config", "profile.dev.debug=false"];
        let what = ["build", "--quiet", "--locked", "-p", "portcullis-bridge", "--bins", "--target", &triple];
        quietly(cargo()?.args(what).args(small))
    })?;
    Ok(target()?.join(triple).join("debug"))
}
