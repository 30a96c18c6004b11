//! What a process is kept from, tried by a real one under its supervisors.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use portcullis_child::{Confinement, Plan, Started, protections, start};
use tokio::io::AsyncReadExt as _;

const FIXTURE: &str = env!("CARGO_BIN_EXE_child-fixture");

/// What holds, and how each attempt went.
async fn tried(confinement: Option<Confinement>, attempts: &[&str]) -> (Vec<String>, BTreeMap<String, String>) {
    let plan = Plan {
        supervisor: Some(FIXTURE.into()),
        supervisor_args: vec!["supervise".into()],
        grace: Duration::from_millis(300),
        files: 1024,
        memory: None,
        remove: None,
        confinement,
        command: std::iter::once(FIXTURE).chain(attempts.iter().copied()).map(Into::into).collect(),
        env: None,
        cwd: Some("/".into()),
    };
    let Started { mut supervisor, control, report } = start(&plan).unwrap();
    let held = protections(report).await;
    let (mut out, mut err) = (String::new(), String::new());
    supervisor.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    supervisor.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    let status = supervisor.wait().await.unwrap();
    drop(control);
    assert!(status.success(), "{status}: {out} {err}");
    let went = out.lines().filter_map(|l| l.rsplit_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    (held.into_iter().filter(|p| p.missing.is_none()).map(|p| p.name).collect(), went)
}

/// Another process, which goes with the test.
struct Other(std::process::Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the kernel here has to have, or the rest proves nothing.
fn all_hold(held: &[String]) {
    for name in ["no-new-privileges", "limits", "files", "signals", "system-calls", "capabilities"] {
        assert!(held.iter().any(|h| h == name), "{name}: {held:?}");
    }
}

fn paths(root: &Path, names: &[&str]) -> Vec<std::path::PathBuf> {
    names.iter().map(|n| root.join(n)).collect()
}

#[tokio::test]
async fn it_reads_everything_but_what_is_hidden_and_writes_what_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(dir.path()).unwrap();
    for (file, text) in [
        ("state/key", "k"),
        ("state/run/homes/mine/x", "x"),
        ("state/run/homes/other/x", "x"),
        ("open/x", "x"),
        ("data/x", "x"),
    ] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), text).unwrap();
    }
    std::os::unix::fs::symlink(root.join("state/key"), root.join("data/link")).unwrap();
    let confinement = Confinement {
        own: paths(&root, &["state/run/homes/mine"]),
        write: paths(&root, &["data"]),
        read: None,
        hide: paths(&root, &["state"]),
        network: true,
    };
    let at = |what: &str, path: &str| format!("{what}:{}", root.join(path).display());
    let fine = [
        at("read", "open/x"),
        at("list", "open"),
        at("read", "state/run/homes/mine/x"),
        at("write", "state/run/homes/mine/new"),
        at("mkdir", "state/run/homes/mine/folder"),
        at("write", "data/new"),
        at("remove", "data/x"),
        format!("move:{0}/data/new>{0}/state/run/homes/mine/moved", root.display()),
        format!("run:{}", root.join("state/run/homes/mine/program").display()),
        "append:/dev/null".to_owned(),
        "run:/bin/sleep".to_owned(),
        "read:/etc/passwd".to_owned(),
        "read:/proc/self/status".to_owned(),
        "thread".to_owned(),
        "tcp".to_owned(),
        "udp".to_owned(),
        "local".to_owned(),
    ];
    fs::copy("/bin/true", root.join("state/run/homes/mine/program")).unwrap();
    let refused = [
        at("read", "state/key"),
        at("read", "data/link"),
        at("list", "state"),
        at("list", "state/run/homes"),
        at("read", "state/run/homes/other/x"),
        at("write", "state/run/homes/other/new"),
        at("write", "open/new"),
        at("append", "open/x"),
        at("remove", "open/x"),
        at("mkdir", "made"),
        "write:/etc/portcullis-was-here".to_owned(),
        "write:/tmp/portcullis-was-here".to_owned(),
        "list:/dev".to_owned(),
        format!("move:{0}/open/x>{0}/data/taken", root.display()),
    ];
    let attempts: Vec<&str> = fine.iter().chain(&refused).map(String::as_str).collect();
    let (held, went) = tried(Some(confinement.clone()), &attempts).await;
    all_hold(&held);
    for attempt in &fine {
        assert_eq!(went[attempt], "ok", "{attempt}");
    }
    for attempt in &refused {
        assert!(matches!(&*went[attempt], "PermissionDenied" | "CrossesDevices"), "{attempt}: {}", went[attempt]);
    }
    // Where only what is listed may be read, the rest may not.
    let listed =
        Confinement { read: Some(vec!["/usr".into(), "/lib".into(), "/lib64".into(), FIXTURE.into()]), ..confinement };
    let (_, went) = tried(Some(listed), &[&at("read", "open/x"), "read:/etc/passwd", &at("write", "data/new")]).await;
    let said: Vec<&str> = went.values().map(String::as_str).collect();
    assert_eq!(said.iter().filter(|s| **s == "PermissionDenied").count(), 2, "{went:?}");
}

#[tokio::test]
async fn it_reaches_no_other_process_and_nothing_deep_in_the_kernel() {
    let other = Other(Command::new("sleep").arg("1000").spawn().unwrap());
    let of = |what: &str| format!("{what}:{}", other.0.id());
    let refused = [
        of("signal"),
        of("trace"),
        of("trace32"),
        of("environment"),
        "mount".to_owned(),
        "namespace".to_owned(),
        "clone".to_owned(),
        "rings".to_owned(),
        "root".to_owned(),
    ];
    let attempts: Vec<&str> = refused.iter().map(String::as_str).collect();
    let (held, went) = tried(Some(Confinement { network: true, ..Confinement::default() }), &attempts).await;
    all_hold(&held);
    for attempt in &refused {
        assert_eq!(went[attempt], "PermissionDenied", "{attempt}");
    }
    // Without, most of it is possible: the test can fail.
    let (held, went) = tried(None, &[&of("signal"), &of("environment")]).await;
    assert_eq!(held, ["no-new-privileges", "limits"]);
    assert!(went.values().all(|said| said == "ok"), "{went:?}");
}

#[tokio::test]
async fn without_a_network_it_speaks_no_ip() {
    let (held, went) = tried(Some(Confinement::default()), &["tcp", "udp", "local"]).await;
    assert!(held.iter().any(|h| h == "no-network"), "{held:?}");
    assert_eq!((&*went["tcp"], &*went["udp"], &*went["local"]), ("PermissionDenied", "PermissionDenied", "ok"));
}
