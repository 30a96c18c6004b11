//! The images of `deploy/images`, built by buildah as they stand and run by podman, in a place of the test's own.
//!
//! What they are built on is made by `tests/cluster/bases.sh`, since no registry can be reached: Debian's packages under the names that the
//! files use. The programs are the ones under test, in place of those that `binaries.Dockerfile` would build for minutes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, ensure};

use crate::parts::{Parts, binary, root};

/// A store of images and containers. Dropped, it is gone with all that runs in it.
pub struct Containers {
    home: tempfile::TempDir,
}

impl Containers {
    /// One that holds what the images are built on; none where this machine lacks something, which is said.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn get() -> anyhow::Result<Result<Self, &'static str>> {
        if !rustix::process::getuid().is_root() {
            return Ok(Err("containers need root"));
        }
        let there = |program: &str| ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
        if !["buildah", "podman", "runc", "strip"].into_iter().all(there) {
            return Ok(Err("buildah, podman or runc is not installed"));
        }
        let Some(bases) = &Parts::get().images else { return Ok(Err("there is nothing to build them on")) };
        let containers = Self { home: tempfile::tempdir()? };
        containers.import(&bases.join("distroless.tar"), "gcr.io/distroless/cc-debian12:nonroot")?;
        containers.binaries()?;
        Ok(Ok(containers))
    }

    /// An image of these files alone.
    fn import(&self, files: &Path, name: &str) -> anyhow::Result<()> {
        let container = self.ask("buildah", &["from", "scratch"])?;
        self.ask("buildah", &["add", "--quiet", container.trim(), &files.display().to_string(), "/"])?;
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        self.ask("buildah", &["config", "--env", path, container.trim()])?;
        self.ask("buildah", &["commit", "--quiet", "--rm", container.trim(), name])?;
        Ok(())
    }

    /// What `binaries.Dockerfile` makes.
    fn binaries(&self) -> anyhow::Result<()> {
        let folder = self.home.path().join("binaries");
        fs::create_dir_all(folder.join("data"))?;
        fs::copy(root().join("LICENSE"), folder.join("LICENSE"))?;
        let stripped = |from: &Path, to: &str| -> anyhow::Result<()> {
            let status = Command::new("strip").arg("-o").arg(folder.join(to)).arg(from).status()?;
            ensure!(status.success(), "strip: {status}");
            Ok(())
        };
        stripped(&binary(), "portcullis")?;
        self.import(&folder, "portcullis-binaries")
    }

    /// Loads the image that servers are built on.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn servers(&self) -> anyhow::Result<()> {
        let archive = Parts::get().images.as_ref().context("no images")?.join("servers.tar");
        self.ask("podman", &["load", "--quiet", "-i", &archive.display().to_string()]).map(drop)
    }

    /// Builds a file of `deploy/images`.
    ///
    /// # Errors
    /// Where it does not build, with what was said.
    pub fn build(&self, name: &str, image: &str) -> anyhow::Result<()> {
        let folder = root().join("deploy/images");
        let file = folder.join(format!("{name}.Dockerfile")).display().to_string();
        let folder = folder.display().to_string();
        self.ask("buildah", &["bud", "--format", "docker", "--pull-never", "-f", &file, "-t", image, &folder]).map(drop)
    }

    /// Runs a container in the background, as hardened as the documentation says.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn run(&self, name: &str, more: &[&str]) -> anyhow::Result<()> {
        // No more than this machine's own limits, which podman would raise.
        let limits =
            ["--runtime", "runc", "run", "-d", "--ulimit", "nofile=16384:16384", "--ulimit", "nproc=16384:16384"];
        let hard = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
        self.ask("podman", &[&limits[..], &["--name", name], &hard, more].concat()).map(drop)
    }

    /// What a container wrote.
    ///
    /// # Errors
    /// Where there is none.
    pub fn log(&self, name: &str) -> anyhow::Result<String> {
        self.ask("podman", &["logs", name])
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// Where it can't be run; how it ended is in the output.
    pub fn exec(&self, name: &str, command: &[&str]) -> anyhow::Result<Output> {
        self.command("podman", &[&["--runtime", "runc", "exec", name], command].concat())
    }

    /// Stops a container as an operator does, takes it away, and answers how it ended.
    ///
    /// # Errors
    /// Where it does not go.
    pub fn stop(&self, name: &str) -> anyhow::Result<i32> {
        self.ask("podman", &["--runtime", "runc", "stop", "-t", "30", name])?;
        let code = self.ask("podman", &["inspect", "--format", "{{.State.ExitCode}}", name])?;
        self.ask("podman", &["--runtime", "runc", "rm", "-f", name])?;
        Ok(code.trim().parse()?)
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(program, arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn command(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let place = |name: &str| -> PathBuf { self.home.path().join(name) };
        let mut command = Command::new(program);
        command.arg("--root").arg(place("store")).arg("--runroot").arg(place("run")).args(arguments);
        command.output().with_context(|| program.to_owned())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let _ = self.command("podman", &["--runtime", "runc", "rm", "-fa", "-t", "0"]);
        let _ = self.command("podman", &["volume", "rm", "-fa"]);
        // What is mounted in the store would keep its directory; what is deepest goes first.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut ours: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        ours.retain(|mount| Path::new(mount).starts_with(self.home.path()));
        ours.sort_unstable();
        for mount in ours.into_iter().rev() {
            let _ = Command::new("umount").args(["--lazy", mount]).output();
        }
    }
}
