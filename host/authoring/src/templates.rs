//! What a new project holds beside the SDK: a plugin that works, its tests, and what makes it serve.

/// What a new plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// A credential resolver that asks an HTTP service.
    Resolver,
    /// An auth provider that takes the signed tokens of an issuer.
    Provider,
    /// A policy that keeps tools from those who lack a role.
    Policy,
}

macro_rules! file {
    ($path:literal, $from:literal) => {
        ($path, include_str!(concat!("templates/", $from)))
    };
}

type Files = &'static [(&'static str, &'static str)];

/// What every project holds.
const COMMON: Files = &[
    file!("Cargo.toml", "Cargo.toml.txt"),
    file!("Cargo.lock", "Cargo.lock.txt"),
    file!(".cargo/config.toml", "config.toml.txt"),
    file!(".gitignore", "gitignore.txt"),
    file!("README.md", "README.md.txt"),
];
const RESOLVER: Files = &[
    file!("src/lib.rs", "resolver/src/lib.rs.txt"),
    file!("tests/ann.yaml", "resolver/tests/ann.yaml"),
    file!("tests/unknown-user.yaml", "resolver/tests/unknown-user.yaml"),
    file!("tests/service-down.yaml", "resolver/tests/service-down.yaml"),
    file!("plugin.yaml", "resolver/plugin.yaml"),
];
const PROVIDER: Files = &[
    file!("src/lib.rs", "provider/src/lib.rs.txt"),
    file!("tests/ann.yaml", "provider/tests/ann.yaml"),
    file!("tests/another-issuer.yaml", "provider/tests/another-issuer.yaml"),
    file!("tests/expired.yaml", "provider/tests/expired.yaml"),
    file!("plugin.yaml", "provider/plugin.yaml"),
];
const POLICY: Files = &[
    file!("src/lib.rs", "policy/src/lib.rs.txt"),
    file!("tests/without-the-role.yaml", "policy/tests/without-the-role.yaml"),
    file!("tests/with-the-role.yaml", "policy/tests/with-the-role.yaml"),
    file!("tests/list.yaml", "policy/tests/list.yaml"),
    file!("plugin.yaml", "policy/plugin.yaml"),
];

impl Template {
    /// The files, with the project's name put in.
    pub(crate) fn files(self, name: &str) -> Vec<(&'static str, String)> {
        let (own, what) = match self {
            Self::Resolver => (RESOLVER, "Credential resolver: asks a service for each caller's token."),
            Self::Provider => (PROVIDER, "Auth provider: takes signed tokens of one issuer."),
            Self::Policy => (POLICY, "Policy: keeps tools from those who lack a role."),
        };
        let kind: String = name.split('-').map(capital).collect();
        let filled = |text: &str| {
            text.replace("{{name}}", name)
                .replace("{{file}}", &name.replace('-', "_"))
                .replace("{{Type}}", &kind)
                .replace("{{what}}", what)
        };
        COMMON.iter().chain(own).map(|(path, text)| (*path, filled(text))).collect()
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
