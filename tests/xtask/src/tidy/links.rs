//! Links between the project's documents lead somewhere.

use std::fs;

use super::{Findings, files};
use crate::shell::root;

pub(super) fn check(found: &mut Findings) -> anyhow::Result<()> {
    let mut pages = Vec::new();
    files::walk(&root(), &mut |p| p.extension().is_some_and(|e| e == "md"), &mut pages)?;
    for page in pages {
        let text = fs::read_to_string(&page)?;
        let shown = page.strip_prefix(root()).unwrap_or(&page).display().to_string();
        for target in targets(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let local = !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:");
            if local && !page.parent().is_some_and(|p| p.join(file).exists()) {
                found.fault(format!("{shown} links to {target}, which is not there"));
            }
        }
    }
    Ok(())
}

/// The targets of `[text](target)`, outside code blocks.
fn targets(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for rest in line.split("](").skip(1) {
            if let Some((target, _)) = rest.split_once(')') {
                found.push(target);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn links_are_found_outside_code() {
        let text = "see [a](a.md) and [b](b.md#part)\n```\n[c](c.md)\n```\n";
        assert_eq!(super::targets(text), ["a.md", "b.md#part"]);
    }
}
