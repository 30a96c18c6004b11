//! The YAML examples of all documents are read as they stand there.

use std::path::{Path, PathBuf};

use portcullis_console::documents;
use portcullis_model::Kind;

use crate::settings::Settings;

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");

/// The YAML examples, each with the line that it begins at.
fn examples(document: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (i, line) in document.lines().enumerate() {
        match (inside, line) {
            (false, "```yaml") => {
                inside = true;
                found.push((i + 2, String::new()));
            }
            (true, "```") => inside = false,
            (true, line) => {
                if let Some((_, text)) = found.last_mut() {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            _ => {}
        }
    }
    found
}

/// All documents, but those of other repositories.
fn documents_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.push(path);
        }
    }
}

/// Whether an example is one of server settings, by its first member.
fn is_settings(example: &str) -> bool {
    let first = example.lines().find(|line| !line.starts_with('#')).and_then(|line| line.split_once(':'));
    first.is_some_and(|(member, _)| {
        ["listen", "adminListen", "kubernetes", "plugins", "vault", "tls", "publicUrl", "secrets"].contains(&member)
    })
}

/// An example as resources, where it is some or the better part of one; none for what is no resource of ours, or too little of one.
fn whole(example: &str) -> Option<String> {
    const VERSION: &str = "apiVersion: portcullis.dev/v1alpha1";
    if example.contains("apiVersion: portcullis.dev/") {
        return Some(example.to_owned());
    }
    if example.starts_with("kind:") {
        let all: Vec<String> = example.split("\n---\n").map(|one| format!("{VERSION}\n{one}")).collect();
        return Some(all.join("\n---\n"));
    }
    if ["policies:", "servers:", "auth:"].iter().any(|member| example.starts_with(member)) {
        let spec: String = example.lines().map(|line| format!("  {line}\n")).collect();
        return Some(format!("{VERSION}\nkind: Gateway\nmetadata: {{name: example}}\nspec:\n{spec}"));
    }
    None
}

#[test]
fn examples_in_all_documents_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = vec![root.join("README.md"), root.join("plugins/README.md")];
    documents_below(&root.join("docs"), &mut all);
    let dir = tempfile::tempdir().unwrap();
    let (mut resources, mut wrong) = (0, Vec::new());
    for document in all {
        let text = std::fs::read_to_string(&document).unwrap();
        for (line, example) in examples(&text) {
            let place = format!("{} from line {line}", document.display());
            if is_settings(&example) {
                let file = dir.path().join("serve.yaml");
                std::fs::write(&file, example).unwrap();
                wrong.extend(Settings::read(&file).err().map(|e| format!("{place}: {e:#}")));
                continue;
            }
            let Some(example) = whole(&example) else { continue };
            match documents::read(&place, example.as_bytes()) {
                Ok(read) => {
                    resources += read.len();
                    for one in read {
                        let problems = one.resource.problems().into_iter();
                        wrong.extend(problems.map(|p| format!("{place}: {}: {p}", one.resource.key())));
                    }
                }
                Err(errors) => wrong.extend(errors.iter().map(ToString::to_string)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(resources > 30, "{resources}");
}

#[test]
fn every_example_is_right() {
    let mut kinds: Vec<Kind> = Vec::new();
    let mut settings = 0;
    let dir = tempfile::tempdir().unwrap();
    for (line, text) in examples(CONFIGURATION) {
        if text.starts_with("apiVersion") {
            let read = documents::read(&format!("docs/configuration.md from line {line}"), text.as_bytes());
            let read = read.unwrap_or_else(|e| panic!("{}", e[0]));
            kinds.extend(read.iter().map(|d| d.resource.spec.kind()));
        } else {
            settings += 1;
            let file = dir.path().join("serve.yaml");
            std::fs::write(&file, text).unwrap();
            Settings::read(&file).unwrap_or_else(|e| panic!("from line {line}: {e:#}"));
        }
    }
    assert_eq!(settings, 1);
    for kind in Kind::ALL {
        assert!(kinds.contains(&kind), "no example of {kind}");
    }
}
