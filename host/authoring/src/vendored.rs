//! The SDK's source as it is written into a project's `vendor` folder.

include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// The manifests, which don't lean on this workspace as those in the checkout do.
pub(crate) const MANIFESTS: [(&str, &str); 2] = [
    ("portcullis-sdk/Cargo.toml", include_str!("../vendored/sdk.toml")),
    ("portcullis-sdk-macros/Cargo.toml", include_str!("../vendored/macros.toml")),
];

/// Everything that `vendor` holds: paths below it, and texts.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    SOURCES.iter().chain(&MANIFESTS).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(manifest: &toml::Table, table: &str) -> Vec<(String, String)> {
        let found = manifest.get(table).and_then(|t| t.as_table()).cloned().unwrap_or_default();
        let version = |value: &toml::Value| {
            let own = value.as_str().or_else(|| value.get("version")?.as_str());
            own.map(str::to_owned)
        };
        found.iter().filter_map(|(name, value)| Some((name.clone(), version(value)?))).collect()
    }

    #[test]
    fn what_is_vendored_is_what_the_checkout_has() {
        let workspace: toml::Table = include_str!("../../../Cargo.toml").parse().unwrap();
        let workspace = workspace["workspace"].as_table().unwrap();
        let known = versions(workspace, "dependencies");
        let version = workspace["package"]["version"].as_str().unwrap();
        let checkout =
            [include_str!("../../../plugin-sdk/Cargo.toml"), include_str!("../../../plugin-sdk/macros/Cargo.toml")];
        for ((path, text), original) in MANIFESTS.iter().zip(checkout) {
            let manifest: toml::Table = text.parse().unwrap();
            assert_eq!(manifest["package"]["version"].as_str(), Some(version), "{path}");
            let wasm = manifest.get("target").map(|t| t["cfg(target_arch = \"wasm32\")"].as_table().unwrap().clone());
            let mut named = versions(&manifest, "dependencies");
            named.extend(wasm.iter().flat_map(|wasm| versions(wasm, "dependencies")));
            for (name, version) in &named {
                assert!(
                    known.contains(&(name.clone(), version.clone())),
                    "{path}: {name} {version} is not the workspace's"
                );
            }
            // Nothing that the SDK needs is left out.
            for line in original.lines().filter_map(|line| line.split_once(".workspace = true")) {
                let package = ["version", "edition", "rust-version", "license", "publish"].contains(&line.0);
                assert!(package || text.contains(&format!("\n{} = ", line.0)), "{path} lacks {}", line.0);
            }
        }
        assert!(SOURCES.iter().any(|(path, _)| *path == "portcullis-sdk/wit/types/types.wit"));
        assert!(SOURCES.iter().all(|(path, _)| !path.contains("..")));
    }
}
