//! Comments of a component's WIT, from the custom section `package-docs` (as `wit-parser` writes it): a byte of version, then JSON.

use std::collections::BTreeMap;

use serde_json::Value;

/// The most bytes of the section, and of one description.
const MAX_SECTION: usize = 256 << 10;
const MAX_TEXT: usize = 4 << 10;

/// What is said of each function, by name; nothing where the component does not carry it.
pub(crate) fn read(wasm: &[u8]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for section in crate::survey::custom_sections(wasm, "package-docs") {
        if let Some((_, json)) = section.split_first()
            && json.len() <= MAX_SECTION
            && let Ok(docs) = serde_json::from_slice::<Value>(json)
        {
            collect(&docs, &mut found);
        }
    }
    found
}

/// Functions are listed under `funcs` of an interface and under `func_exports` of a world.
fn collect(docs: &Value, found: &mut BTreeMap<String, String>) {
    let Some(members) = docs.as_object() else { return };
    for (name, value) in members {
        if !matches!(name.as_str(), "funcs" | "func_exports") {
            collect(value, found);
            continue;
        }
        for (function, said) in value.as_object().into_iter().flatten() {
            let text = said.as_str().or_else(|| said.get("docs").and_then(Value::as_str));
            if let Some(text) = text.filter(|text| text.len() <= MAX_TEXT) {
                found.entry(function.clone()).or_insert_with(|| text.trim().to_owned());
            }
        }
    }
}
