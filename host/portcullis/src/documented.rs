//! The YAML examples of `docs/configuration.md`, the README and `plugins/README.md` are read as they stand there.

use portcullis_console::documents;
use portcullis_model::Kind;

use crate::settings::Settings;

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const OTHERS: [(&str, &str); 2] = [
    ("README.md", include_str!("../../../README.md")),
    ("plugins/README.md", include_str!("../../../plugins/README.md")),
];

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

#[test]
fn resources_in_other_documents_are_right() {
    for (document, text) in OTHERS {
        let found: Vec<_> = examples(text).into_iter().filter(|(_, t)| t.starts_with("apiVersion")).collect();
        assert!(!found.is_empty(), "no example in {document}");
        for (line, text) in found {
            let read = documents::read(&format!("{document} from line {line}"), text.as_bytes());
            read.unwrap_or_else(|e| panic!("{}", e[0]));
        }
    }
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
