//! The built-in plugins: components built from their source by this crate's build script, and embedded.
//!
//! They are ordinary guests of the SDK and get no door that a stranger's plugin has not. What each does and how it is
//! configured stands in `plugins/README.md`.

/// A plugin that comes with Portcullis.
#[derive(Clone, Copy)]
pub struct BuiltIn {
    /// The name by which a `Plugin` resource or a gateway asks for it.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
    /// Whether it is granted `tokens` (looking up tokens of ours) where no `Plugin` resource says what it is granted.
    pub tokens: bool,
    /// Whether it is granted `connections` (listing those that a caller may run under), likewise.
    pub connections: bool,
}

macro_rules! component {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm"))
    };
}

const ALL: &[BuiltIn] = &[
    BuiltIn { name: "static", wasm: component!("static"), tokens: false, connections: true },
    BuiltIn { name: "call-time", wasm: component!("call-time"), tokens: false, connections: true },
    // Where callers' tokens may go is an operator's decision, so a `Plugin` resource has to grant it.
    BuiltIn { name: "idp-exchange", wasm: component!("idp-exchange"), tokens: false, connections: false },
    BuiltIn { name: "passthrough", wasm: component!("passthrough"), tokens: false, connections: false },
    BuiltIn { name: "bearer-token", wasm: component!("bearer-token"), tokens: true, connections: false },
    // Which issuers it may speak for is an operator's decision, so a `Plugin` resource has to grant them.
    BuiltIn { name: "jwks", wasm: component!("jwks"), tokens: false, connections: false },
    // As with jwks: an authority's certificates mean who the operator says.
    BuiltIn { name: "client-certificate", wasm: component!("client-certificate"), tokens: false, connections: false },
    BuiltIn { name: "tool-access", wasm: component!("tool-access"), tokens: false, connections: false },
    BuiltIn { name: "redact", wasm: component!("redact"), tokens: false, connections: false },
    BuiltIn { name: "size-cap", wasm: component!("size-cap"), tokens: false, connections: false },
    BuiltIn { name: "header-map", wasm: component!("header-map"), tokens: false, connections: true },
    BuiltIn { name: "arguments", wasm: component!("arguments"), tokens: false, connections: false },
    // How much it may remember is an operator's decision.
    BuiltIn { name: "rate", wasm: component!("rate"), tokens: false, connections: false },
    // Whom it asks, and with which key, is an operator's decision.
    BuiltIn { name: "webhook", wasm: component!("webhook"), tokens: false, connections: false },
];

/// All of them.
pub fn built_ins() -> &'static [BuiltIn] {
    ALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_component_of_modest_size() {
        for built_in in built_ins() {
            // The component model's preamble: magic, version 13, layer 1.
            assert!(built_in.wasm.starts_with(b"\0asm\x0d\0\x01\0"), "{} is no component", built_in.name);
            // Regular expressions and a language come with their tables.
            let most = if ["redact", "arguments"].contains(&built_in.name) { 2_048 } else { 400 };
            assert!(built_in.wasm.len() < most * 1024, "{} has {} bytes", built_in.name, built_in.wasm.len());
        }
    }

    #[test]
    fn each_exports_its_hook() {
        let hooks = |name: &str| -> &[&str] {
            match name {
                "static" | "call-time" | "passthrough" | "header-map" => &["portcullis:credential/resolver@0.1.0"],
                "redact" | "size-cap" => &[
                    "portcullis:policy/tool-call@0.1.0",
                    "portcullis:policy/tool-result@0.1.0",
                    "portcullis:types/setup@0.1.0",
                ],
                "arguments" | "rate" | "webhook" => {
                    &["portcullis:policy/tool-call@0.1.0", "portcullis:types/setup@0.1.0"]
                }
                "idp-exchange" => &[
                    "portcullis:credential/resolver@0.1.0",
                    "portcullis:credential/refresher@0.1.0",
                    "portcullis:credential/on-rejected@0.1.0",
                ],
                "bearer-token" | "jwks" | "client-certificate" => &["portcullis:auth/provider@0.1.0"],
                _ => &[
                    "portcullis:policy/tool-call@0.1.0",
                    "portcullis:policy/resource-read@0.1.0",
                    "portcullis:policy/prompt-get@0.1.0",
                    "portcullis:policy/server-request@0.1.0",
                    "portcullis:policy/list-filter@0.1.0",
                    "portcullis:types/setup@0.1.0",
                ],
            }
        };
        for built_in in built_ins() {
            for hook in hooks(built_in.name) {
                let found = built_in.wasm.windows(hook.len()).any(|window| window == hook.as_bytes());
                assert!(found, "{} does not export {hook}", built_in.name);
            }
        }
    }
}
