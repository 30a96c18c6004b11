//! What a process gets to see: its environment, its arguments and a private directory, and nothing else of the gateway.

use std::{
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    os::unix::{
        ffi::OsStringExt,
        fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use portcullis_child::Confinement;
use portcullis_model::Secret;
use portcullis_upstream::{LaunchError, LaunchSpec, launch::expand};

use crate::reach::{self, Lives};

/// Where programs are looked for when the gateway itself has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the names of private directories begin with.
const PRIVATE: &str = "server-";

/// Ready to be started.
pub(crate) struct Prepared {
    /// The program's path.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) cwd: PathBuf,
    /// What it is kept from.
    pub(crate) confinement: Confinement,
    /// Removed when this is dropped.
    pub(crate) dir: PrivateDir,
    /// What must not show in logs.
    pub(crate) secrets: Vec<Secret>,
}

/// A directory, mode 0700, that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct PrivateDir(PathBuf);

impl PrivateDir {
    fn create(parent: &Path) -> std::io::Result<Self> {
        let mut random = [0u8; 12];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let path = parent.join(format!("{PRIVATE}{name}"));
        // Fails where it exists already, so nobody can have prepared it.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.0.display(), %error, "can't remove a server's private directory");
        }
    }
}

/// Makes a private parent for private directories.
pub(crate) fn make_parent(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Removes the private directories that a crash of the whole machine left: nothing runs that needs them.
pub(crate) fn clear_parent(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for left in entries.filter(|e| e.file_name().as_encoded_bytes().starts_with(PRIVATE.as_bytes())) {
        if let Err(error) = fs::remove_dir_all(left.path()) {
            tracing::warn!(dir = %left.path().display(), %error, "can't remove a server's private directory");
        }
    }
}

/// Prepares a start, with a lasting `HOME` where there is one. `hidden` is what the gateway keeps, which it does not get to see.
/// Blocks on the file system.
pub(crate) fn prepare(
    spec: &LaunchSpec,
    parent: &Path,
    home: Option<&Path>,
    hidden: &[PathBuf],
) -> Result<Prepared, LaunchError> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let program = find_program(&spec.process.command, &path)?;
    let io = |e: std::io::Error| LaunchError::Invalid(format!("can't make the server's private directory: {e}"));
    let dir = PrivateDir::create(parent).map_err(io)?;

    let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
    env.insert("PATH".into(), path.clone());
    env.insert("HOME".into(), home.unwrap_or(dir.path()).into());
    // What lies in the common one is others'.
    let temporary = dir.path().join("tmp");
    fs::DirBuilder::new().mode(0o700).create(&temporary).map_err(io)?;
    env.insert("TMPDIR".into(), temporary.into());
    for name in &spec.process.inherit_env {
        if let Some(value) = env::var_os(name) {
            env.insert(name.into(), value);
        }
    }
    for (name, value) in &spec.process.env {
        env.insert(name.into(), expand(value, &spec.values).into());
    }
    let mut secrets = Vec::new();
    for (name, value) in &spec.env {
        env.insert(name.into(), exposed(value));
        secrets.push(value.clone());
    }
    for (n, file) in spec.files.iter().enumerate() {
        let at = dir.path().join(format!("secret-{n}"));
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at).map_err(io)?;
        // An exit of secrets: a mounted file.
        out.write_all(file.content.expose()).map_err(io)?;
        env.insert((&file.env).into(), at.into());
        secrets.push(file.content.clone());
    }
    let mut args: Vec<OsString> = spec.process.args.iter().map(|a| expand(a, &spec.values).into()).collect();
    for argument in &spec.args {
        args.push(exposed(argument));
        secrets.push(argument.clone());
    }
    let nul = |text: &OsStr| text.as_encoded_bytes().contains(&0);
    if args.iter().any(|a| nul(a))
        || env.iter().any(|(k, v)| nul(k) || nul(v) || k.is_empty() || k.as_encoded_bytes().contains(&b'='))
    {
        return Err(LaunchError::Invalid(
            "an argument or a variable of the process holds a NUL, or a name holds '='".to_owned(),
        ));
    }
    let cwd = match &spec.process.cwd {
        Some(cwd) if !Path::new(cwd).is_dir() => {
            return Err(LaunchError::Invalid(format!("the working directory {cwd} does not exist")));
        }
        Some(cwd) => cwd.into(),
        None => {
            let work = dir.path().join("work");
            fs::DirBuilder::new().mode(0o700).create(&work).map_err(io)?;
            work
        }
    };
    if let Some(files) = &spec.process.files
        && let Some(path) = files.read.iter().flatten().chain(&files.write).find(|p| !Path::new(p).is_absolute())
    {
        return Err(LaunchError::Invalid(format!("{path} in the process's files is no absolute path")));
    }
    let lives =
        Lives { home: home.unwrap_or(dir.path()), private: dir.path(), cwd: &cwd, program: &program, path: &path };
    let confinement = reach::confinement(&spec.process, &lives, hidden);
    Ok(Prepared { program, args, env, cwd, confinement, dir, secrets })
}

/// An exit of secrets: a child's environment, or an argument where the registry entry opted in.
fn exposed(secret: &Secret) -> OsString {
    OsString::from_vec(secret.expose().to_vec())
}

fn find_program(command: &str, path: &OsStr) -> Result<PathBuf, LaunchError> {
    let runs = |p: &Path| fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if command.contains('/') {
        // Made absolute, since the process starts in a directory of its own.
        let at = std::path::absolute(command).unwrap_or_else(|_| PathBuf::from(command));
        return if runs(&at) {
            Ok(at)
        } else {
            Err(LaunchError::Spawn(format!("{command} is no program that can be run")))
        };
    }
    env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(command))
        .find(|p| runs(p))
        .ok_or_else(|| LaunchError::Spawn(format!("there is no program \"{command}\" in the gateway's PATH")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_model::spec::Process;
    use portcullis_upstream::SecretFile;

    use super::*;

    fn process(value: &str) -> Arc<Process> {
        Arc::new(serde_json::from_str::<Process>(value).unwrap())
    }

    #[test]
    fn the_environment_holds_what_is_declared_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let spec = LaunchSpec {
            values: [("region".to_owned(), "eu".to_owned())].into(),
            env: vec![("TOKEN".to_owned(), Secret::new("s3cret"))],
            files: vec![SecretFile { env: "KEY_FILE".to_owned(), content: Secret::new("key") }],
            ..LaunchSpec::plain(process(
                r#"{"command":"sh","args":["-r","${field.region}"],"env":{"A":"b"},"inheritEnv":["NOT_THERE"]}"#,
            ))
        };
        let prepared = prepare(&spec, parent.path(), None, &[]).unwrap();
        let names: Vec<&str> = prepared.env.keys().filter_map(|k| k.to_str()).collect();
        assert_eq!(names, ["A", "HOME", "KEY_FILE", "PATH", "TMPDIR", "TOKEN"]);
        assert_eq!(prepared.args, ["-r", "eu"]);
        let file = PathBuf::from(&prepared.env[OsStr::new("KEY_FILE")]);
        assert_eq!(fs::read(&file).unwrap(), b"key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let dir = prepared.dir.path().to_owned();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        drop(prepared);
        assert!(!dir.exists());
    }

    #[test]
    fn says_what_is_missing() {
        let parent = tempfile::tempdir().unwrap();
        for (spec, word) in [
            (r#"{"command":"surely-no-such-program"}"#, "PATH"),
            (r#"{"command":"/nowhere/at/all"}"#, "/nowhere/at/all"),
            (r#"{"command":"sh","cwd":"/nowhere/at/all"}"#, "working directory"),
            (r#"{"command":"sh","files":{"write":["here"]}}"#, "no absolute path"),
        ] {
            let error = prepare(&LaunchSpec::plain(process(spec)), parent.path(), None, &[]).err().unwrap();
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing stays behind");
    }
}
