//! The contract with plugins: documented, and compatible with what was released under the same version.
//!
//! `tests/fixtures/wit/` holds each package as it was released last. Where the version in `wit/` is compatible by semver, a
//! component built against the released package has to load still. That is asked of the component model's own type checker:
//! a world that imports all that plugins may ask for, and each world that they export, must be a supertype of the released
//! one. A new version that breaks on purpose gets a new minor number (0.x) and a new snapshot beside it.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, bail};
use wit_parser::{Docs, PackageId, Resolve, Type, TypeDefKind, WorldItem};

use super::Findings;
use crate::shell::root;

/// Packages in the order in which they use each other.
const PACKAGES: [&str; 5] = ["types", "host", "auth", "credential", "policy"];
/// Marks the released packages, since one resolution can't hold a package twice. Versions don't count in the comparison.
const RELEASED: &str = "-released";

pub(super) fn check(found: &mut Findings) -> anyhow::Result<()> {
    let now = read(&root().join("wit"), |folder, name| folder.join(name).join(format!("{name}.wit")))?;
    let released = read(&root().join("tests/fixtures/wit"), |folder, name| folder.join(format!("{name}.wit")))?;
    for fault in undocumented(&now)?.into_iter().chain(breaks(&now, &released)?) {
        found.fault(fault);
    }
    Ok(())
}

struct Package {
    name: &'static str,
    text: String,
}

fn read(folder: &Path, path: impl Fn(&Path, &str) -> std::path::PathBuf) -> anyhow::Result<Vec<Package>> {
    PACKAGES
        .into_iter()
        .map(|name| {
            let file = path(folder, name);
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            Ok(Package { name, text })
        })
        .collect()
}

/// Each package, interface, world, type, case, field and function says what it is for.
fn undocumented(packages: &[Package]) -> anyhow::Result<Vec<String>> {
    let mut resolve = Resolve::new();
    let ids = push(&mut resolve, packages, "")?;
    let mut faults = Vec::new();
    for (package, id) in packages.iter().zip(ids) {
        let mut said = |docs: &Docs, what: String| {
            if docs.contents.as_deref().is_none_or(|text| text.trim().is_empty()) {
                faults.push(format!("wit/{}: {what} has no documentation", package.name));
            }
        };
        let found = &resolve.packages[id];
        said(&found.docs, "the package".to_owned());
        for (name, world) in &found.worlds {
            said(&resolve.worlds[*world].docs, format!("world {name}"));
        }
        for (name, interface) in &found.interfaces {
            let interface = &resolve.interfaces[*interface];
            said(&interface.docs, format!("interface {name}"));
            for (function, found) in &interface.functions {
                said(&found.docs, format!("{name}/{function}"));
            }
            for (own, ty) in &interface.types {
                let ty = &resolve.types[*ty];
                // What is used from elsewhere is documented there.
                if matches!(ty.kind, TypeDefKind::Type(Type::Id(_))) {
                    continue;
                }
                said(&ty.docs, format!("{name}/{own}"));
                let parts: Vec<(&str, &Docs)> = match &ty.kind {
                    TypeDefKind::Record(record) => record.fields.iter().map(|f| (f.name.as_str(), &f.docs)).collect(),
                    TypeDefKind::Variant(variant) => variant.cases.iter().map(|c| (c.name.as_str(), &c.docs)).collect(),
                    TypeDefKind::Enum(all) => all.cases.iter().map(|c| (c.name.as_str(), &c.docs)).collect(),
                    TypeDefKind::Flags(flags) => flags.flags.iter().map(|f| (f.name.as_str(), &f.docs)).collect(),
                    _ => Vec::new(),
                };
                for (part, docs) in parts {
                    said(docs, format!("{name}/{own}.{part}"));
                }
            }
        }
    }
    Ok(faults)
}

/// What a component built against `released` would trip over in `now`.
fn breaks(now: &[Package], released: &[Package]) -> anyhow::Result<Vec<String>> {
    let mut resolve = Resolve::new();
    let new = push(&mut resolve, now, "")?;
    let old = push(&mut resolve, released, RELEASED)?;
    let mut faults = Vec::new();
    for ((package, new), old) in now.iter().zip(new).zip(old) {
        if track(&resolve, new) != track(&resolve, old) {
            continue;
        }
        let imports = |id: PackageId| -> BTreeSet<String> {
            let hooks: BTreeSet<_> = exported(&resolve, id);
            resolve.packages[id].interfaces.keys().filter(|i| !hooks.contains(*i)).cloned().collect()
        };
        let before = imports(old);
        for gone in before.difference(&imports(new)) {
            faults.push(format!("wit/{}: interface {gone} was released and is gone", package.name));
        }
        for (name, old_world) in &resolve.packages[old].worlds {
            let Some(new_world) = resolve.packages[new].worlds.get(name) else {
                faults.push(format!("wit/{}: world {name} was released and is gone", package.name));
                continue;
            };
            if let Err(error) = wit_component::semver_check(resolve.clone(), *old_world, *new_world) {
                faults.push(format!("wit/{}: world {name} breaks released plugins: {error:#}", package.name));
            }
        }
        // What no world imports by itself, such as the interfaces that need a grant.
        let mut both = resolve.clone();
        let mut all = |id: PackageId, mark: &str| -> anyhow::Result<_> {
            let name = &resolve.packages[id].name;
            let version = name.version.as_ref().map(|v| format!("@{v}")).unwrap_or_default();
            let lines: Vec<String> = before
                .iter()
                .filter(|i| resolve.packages[id].interfaces.contains_key(*i))
                .map(|i| format!("import {}:{}/{i}{version};", name.namespace, name.name))
                .collect();
            let text = format!("package portcullis:gate@0.0.1{mark};\nworld all {{ {} }}", lines.join("\n"));
            let gate = both.push_source("gate.wit", &text)?;
            both.packages[gate].worlds.get("all").copied().context("world all")
        };
        let (new_world, old_world) = (all(new, "")?, all(old, RELEASED)?);
        if let Err(error) = wit_component::semver_check(both, old_world, new_world) {
            faults.push(format!("wit/{}: an interface breaks released plugins: {error:#}", package.name));
        }
    }
    Ok(faults)
}

fn push(resolve: &mut Resolve, packages: &[Package], mark: &str) -> anyhow::Result<Vec<PackageId>> {
    packages.iter().map(|p| resolve.push_source(p.name, &marked(&p.text, mark)?)).collect()
}

/// The text with `mark` behind every version.
fn marked(text: &str, mark: &str) -> anyhow::Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut pieces = text.split('@');
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let end = piece.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(piece.len());
        let (number, rest) = piece.split_at(end);
        // `pkg/interface@1.2.3.{names}` has a dot behind the version.
        let (number, dot) = number.strip_suffix('.').map_or((number, ""), |n| (n, "."));
        if number.split('.').count() != 3 {
            bail!("no version behind @ in \"{}\"", piece.chars().take(30).collect::<String>());
        }
        out.push_str(&format!("@{number}{mark}{dot}{rest}"));
    }
    Ok(out)
}

/// The part of a version within which nothing may break.
fn track(resolve: &Resolve, id: PackageId) -> Option<(u64, u64)> {
    let version = resolve.packages[id].name.version.as_ref()?;
    Some(if version.major == 0 { (0, version.minor) } else { (version.major, 0) })
}

/// Interfaces that the worlds of a package export: the hooks.
fn exported(resolve: &Resolve, id: PackageId) -> BTreeSet<String> {
    let worlds = resolve.packages[id].worlds.values();
    worlds
        .flat_map(|w| resolve.worlds[*w].exports.values())
        .filter_map(|item| match item {
            WorldItem::Interface { id, .. } => resolve.interfaces[*id].name.clone(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn package(change: impl Fn(String) -> String) -> Vec<Package> {
        let text = "package a:types@0.1.0;\ninterface lent { resource caller { name: func() -> string; } variant value { text(string), other(string) } }\n\
                    interface hook { use lent.{caller, value}; decide: func(who: borrow<caller>) -> value; }\nworld hook-it { export hook; }\n";
        vec![Package { name: "types", text: change(text.to_owned()) }]
    }

    #[test]
    fn what_breaks_a_released_plugin_is_found_and_what_does_not_is_not() {
        let released = package(|t| t);
        let faults = |change: &dyn Fn(String) -> String| breaks(&package(change), &released).unwrap();
        assert_eq!(faults(&|t| t), Vec::<String>::new());
        let getter = |t: String| t.replace("name: func() -> string;", "name: func() -> string; age: func() -> u32;");
        assert_eq!(faults(&getter), Vec::<String>::new(), "a getter may be added");
        assert!(!faults(&|t| t.replace("text(string)", "text(string), number(f64)")).is_empty(), "a case may not");
        assert!(!faults(&|t| t.replace("name: func() -> string;", "name: func() -> u32;")).is_empty());
        assert!(!faults(&|t| t.replace("name: func() -> string;", "")).is_empty());
        assert!(!faults(&|t| t.replace("who: borrow<caller>", "who: borrow<caller>, more: u32")).is_empty());
        assert!(!faults(&|t| t.replace("world hook-it { export hook; }", "")).is_empty());
        assert_eq!(undocumented(&package(|t| t)).unwrap().len(), 10);
        let minor = |t: String| t.replace("@0.1.0", "@0.2.0").replace("text(string)", "text(string), number(f64)");
        assert_eq!(faults(&minor), Vec::<String>::new(), "a new version may break");
    }
}
