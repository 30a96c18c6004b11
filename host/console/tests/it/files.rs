//! Watched files: taken, refused, moved, gone.

use std::{fs, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use portcullis_console::files::{FileDoor, FileOptions};
use portcullis_model::{Door, Kind, Name};
use portcullis_store::Registry;
use portcullis_telemetry::{Audit, Metrics, audit::AuditOptions};

use crate::support::{eventually, registry};

fn team(name: &str, title: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: Team\nmetadata: {{name: {name}}}\nspec: {{title: {title}}}\n")
}

fn title(registry: &Registry, name: &str) -> Option<String> {
    let name: Name = name.parse().unwrap();
    registry.snapshot().team(&Name::default_tenant(), &name).and_then(|t| t.spec.title.clone())
}

async fn open(registry: &Arc<Registry>, dir: &Path, rescan: Duration) -> FileDoor {
    let options = FileOptions { settle: Duration::from_millis(20), rescan, ..FileOptions::new(vec![dir.to_owned()]) };
    FileDoor::open(Arc::clone(registry), Metrics::new(), Audit::discard(), options).await
}

/// Outcome, method, revision before and after, and by which file.
type Line = (String, String, Option<u64>, Option<u64>, String);

/// What the audit stream says of a resource.
fn recorded(dir: &Path, resource: &str) -> Vec<Line> {
    let lines = fs::read_to_string(dir.join("audit.jsonl")).unwrap_or_default();
    let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].take());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    events
        .filter(|e| e["kind"] == "administration" && e["tool"] == resource)
        .map(|e| {
            assert_eq!(e["caller"], e["door"]);
            let revisions = (e["fromRevision"].as_u64(), e["toRevision"].as_u64());
            (text(&e["outcome"]), text(&e["method"]), revisions.0, revisions.1, text(&e["caller"]))
        })
        .collect()
}

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_bad_file_is_refused_and_what_was_serving_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.yaml"), team("a", "one")).unwrap();
    fs::write(files.join("b.yaml"), "kind: [").unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let door = open(&registry, &files, NEVER).await;
    assert_eq!(title(&registry, "a").as_deref(), Some("one"));
    let status = door.status();
    assert_eq!((status[0].resources, status[0].errors.len()), (1, 0));
    let told = status[1].errors[0].to_string();
    assert!(told.starts_with(&format!("{}:1:", files.join("b.yaml").display())), "{told}");

    fs::write(files.join("a.yaml"), team("a", "two").replace("Team", "Teem")).unwrap();
    eventually("the refusal shows", || !door.status()[0].errors.is_empty()).await;
    assert_eq!(title(&registry, "a").as_deref(), Some("one"), "what was serving goes on");

    fs::write(files.join("a.yaml"), team("a", "three")).unwrap();
    fs::write(files.join("b.yaml"), team("b", "b")).unwrap();
    eventually("both are taken", || {
        title(&registry, "a").as_deref() == Some("three") && title(&registry, "b").is_some()
    })
    .await;
    eventually("no error is left", || door.status().iter().all(|f| f.errors.is_empty())).await;
}

#[tokio::test]
async fn a_file_that_disappears_takes_its_resources_along() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.yaml"), team("a", "a")).unwrap();
    fs::write(files.join("b.yaml"), team("b", "b")).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let door = open(&registry, &files, NEVER).await;
    fs::remove_file(files.join("b.yaml")).unwrap();
    eventually("b is gone", || title(&registry, "b").is_none()).await;
    assert!(title(&registry, "a").is_some());

    // A resource may move from one file to another.
    fs::rename(files.join("a.yaml"), files.join("c.yaml")).unwrap();
    eventually("a belongs to the other file", || {
        let all = registry.list(None, Some(Kind::Team));
        all.len() == 1 && all[0].metadata.door == Some(Door::File(files.join("c.yaml").to_string_lossy().into_owned()))
    })
    .await;

    // A directory that is gone may be an unmounted volume.
    fs::rename(&files, dir.path().join("elsewhere")).unwrap();
    door.look();
    eventually("the directory is missed", || door.status().iter().any(|f| !f.errors.is_empty())).await;
    assert!(title(&registry, "a").is_some(), "an unmounted volume is no wish to delete");
}

#[tokio::test]
async fn a_swapped_config_map_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("mount");
    fs::create_dir_all(mount.join("..1")).unwrap();
    fs::write(mount.join("..1/a.yaml"), team("a", "one")).unwrap();
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/a.yaml", mount.join("a.yaml")).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let _door = open(&registry, &mount, NEVER).await;
    assert_eq!(title(&registry, "a").as_deref(), Some("one"));

    fs::create_dir(mount.join("..2")).unwrap();
    fs::write(mount.join("..2/a.yaml"), team("a", "two")).unwrap();
    symlink("..2", mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    eventually("the new one is taken", || title(&registry, "a").as_deref() == Some("two")).await;
}

#[tokio::test]
async fn the_clock_finds_what_nobody_told() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("files"));
    fs::create_dir_all(&real).unwrap();
    fs::create_dir_all(&link).unwrap();
    fs::write(real.join("x"), team("a", "one")).unwrap();
    symlink(real.join("x"), link.join("a.yaml")).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    // What the link points to stands in a directory that is not watched, as on a file system that tells nothing.
    let _door = open(&registry, &link, Duration::from_millis(50)).await;
    fs::write(real.join("x"), team("a", "two")).unwrap();
    eventually("the change is found", || title(&registry, "a").as_deref() == Some("two")).await;
}

#[tokio::test]
async fn one_name_in_two_files_is_refused_with_both_places() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.yaml"), team("a", "first")).unwrap();
    fs::write(files.join("b.yaml"), format!("{}---\n{}", team("b", "b"), team("a", "second"))).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let door = open(&registry, &files, NEVER).await;
    let told = door.status()[1].errors[0].to_string();
    let (a, b) = (files.join("a.yaml"), files.join("b.yaml"));
    assert_eq!(told, format!("{}:8:12: metadata.name: Team/a is already defined at {}:1", b.display(), a.display()));
    assert_eq!(title(&registry, "a").as_deref(), Some("first"));
    assert_eq!(title(&registry, "b"), None, "a file is taken whole or not at all");
}

#[tokio::test]
async fn a_refusal_of_the_registry_sets_one_file_aside() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let mine: portcullis_model::Resource =
        portcullis_console::documents::read("-", team("mine", "mine").as_bytes()).unwrap().remove(0).resource;
    registry.apply(vec![mine], Door::Api, false).await.unwrap();
    fs::write(files.join("a.yaml"), team("a", "a")).unwrap();
    fs::write(files.join("b.yaml"), format!("# a comment\n{}", team("mine", "theirs"))).unwrap();
    let door = open(&registry, &files, NEVER).await;
    assert!(title(&registry, "a").is_some());
    assert_eq!(title(&registry, "mine").as_deref(), Some("mine"));
    let told = door.status()[1].errors[0].to_string();
    assert!(
        told.contains("b.yaml:4:1: metadata.door: Team/mine came by `portcullis apply` or a page: edit it there"),
        "{told}"
    );
}

#[tokio::test]
async fn files_that_resources_name_are_watched_too() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    let other = dir.path().join("plugins");
    fs::create_dir(&files).unwrap();
    fs::create_dir(&other).unwrap();
    fs::write(other.join("p.wasm"), b"one").unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let door = open(&registry, &files, NEVER).await;
    let mut rounds = door.rounds();
    let mut referred = door.referred();
    rounds.mark_unchanged();
    door.also_watch([other.join("p.wasm")].into());
    tokio::time::timeout(crate::support::PATIENCE, rounds.changed()).await.unwrap().unwrap();
    fs::write(other.join("p.wasm"), b"two, longer").unwrap();
    tokio::time::timeout(crate::support::PATIENCE, referred.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_file_changes_is_on_record_once() {
    let dir = tempfile::tempdir().unwrap();
    let (files, kept) = (dir.path().join("files"), dir.path().join("audit"));
    fs::create_dir(&files).unwrap();
    let file = files.join("a.yaml");
    fs::write(&file, team("a", "one") + "---\n" + &team("b", "same")).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let audit = Audit::open(AuditOptions::new(&kept), Metrics::new()).unwrap();
    let options = FileOptions { settle: Duration::from_millis(20), ..FileOptions::new(vec![files.clone()]) };
    let door = FileDoor::open(Arc::clone(&registry), Metrics::new(), Arc::clone(&audit), options).await;
    let revision = |name: &str| {
        let name: Name = name.parse().unwrap();
        registry.snapshot().team(&Name::default_tenant(), &name).and_then(|t| t.resource.metadata.revision)
    };
    let by = format!("file:{}", file.display());
    let first = revision("a");
    let created = |outcome: &str, to| (outcome.to_owned(), "apply".to_owned(), None, to, by.clone());
    assert_eq!(recorded(&kept, "Team/a"), [created("begun", None), created("done", first)]);
    // Another text that means the same, and looking again, change nothing.
    fs::write(&file, team("a", "one") + "# as it was\n---\n" + &team("b", "same")).unwrap();
    let before = *door.rounds().borrow();
    door.look();
    eventually("it is read again", || *door.rounds().borrow() > before + 1).await;
    assert_eq!(recorded(&kept, "Team/a").len(), 2);
    fs::write(&file, team("a", "two") + "---\n" + &team("b", "same")).unwrap();
    eventually("it is taken", || title(&registry, "a").as_deref() == Some("two")).await;
    let second = revision("a");
    fs::remove_file(&file).unwrap();
    eventually("it is gone", || title(&registry, "a").is_none()).await;
    eventually("that is on record", || recorded(&kept, "Team/a").len() == 6).await;
    let changed = |outcome: &str, method: &str, from, to| -> Line {
        (outcome.to_owned(), method.to_owned(), from, to, by.clone())
    };
    assert_eq!(
        recorded(&kept, "Team/a")[2..],
        [
            changed("begun", "apply", first, None),
            changed("done", "apply", first, second),
            changed("begun", "delete", second, None),
            changed("done", "delete", second, None),
        ]
    );
    assert_eq!(recorded(&kept, "Team/b").len(), 4, "what stayed as it was is on record for coming and going only");
}

#[tokio::test]
async fn what_can_not_be_recorded_is_not_taken_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    let registry = registry(&dir.path().join("store")).await;
    let audit = Audit::open(AuditOptions::new(dir.path().join("audit")), Metrics::new()).unwrap();
    let options = FileOptions { settle: Duration::from_millis(20), ..FileOptions::new(vec![files.clone()]) };
    let door = FileDoor::open(Arc::clone(&registry), Metrics::new(), Arc::clone(&audit), options).await;
    audit.close();
    fs::write(files.join("a.yaml"), team("a", "one")).unwrap();
    eventually("it says why", || {
        door.status().iter().flat_map(|f| &f.errors).any(|e| e.to_string().contains("could not be recorded"))
    })
    .await;
    assert_eq!(title(&registry, "a"), None);
}
