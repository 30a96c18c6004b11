//! What images are built on in the tests, where no registry can be reached.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{key, made};
use crate::shell::{find, quietly, root};

/// The folder that `tests/cluster/bases.sh` fills, made where it is not in the cache yet. None where this machine can't, which is said.
pub(super) fn bases(cache: &Path) -> anyhow::Result<Option<PathBuf>> {
    let missing: Vec<_> = ["buildah", "mmdebstrap", "podman"].into_iter().filter(|p| find(p).is_none()).collect();
    let root_user = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !missing.is_empty() || !root_user {
        eprintln!("no images to test with: they need root, buildah, mmdebstrap and podman");
        return Ok(None);
    }
    let script = root().join("tests/cluster/bases.sh");
    let from = [fs::read(&script)?, fs::read(root().join("deploy/images/servers.Dockerfile"))?];
    let home = cache.join(format!("images-{}", key(&[&from[0], &from[1]])));
    // Not every machine lets root make file systems of its own, and the rest can be tested without.
    match made(&home, "images (built once, some minutes)", |aside| quietly(Command::new(&script).arg(aside))) {
        Ok(()) => Ok(Some(home)),
        Err(error) => {
            eprintln!("no images to test with: {error:#}");
            Ok(None)
        }
    }
}
