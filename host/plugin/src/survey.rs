//! A look at a component's sections before it is compiled: compilation can't be interrupted, so sizes and counts come first.

use wasmtime::Engine;

use crate::error::LoadError;

/// The most functions of all its core modules.
const MAX_FUNCTIONS: u32 = 50_000;
/// The most imports, of itself and of all its core modules: those of a runtime that is put together of several have thousands.
const MAX_IMPORTS: u32 = 10_000;
/// The most bytes of one function: the compiler's work grows faster than what it works on.
const MAX_FUNCTION: usize = 2 << 20;
/// The most types, of itself, of its inner components and of all core modules.
const MAX_TYPES: u32 = 20_000;
/// The most memories of all core modules, and the most tables.
const MAX_MEMORIES: u32 = 64;
/// The most globals, exports, elements and data segments together: each costs a little.
const MAX_PARTS: u32 = 200_000;
/// The most core modules and inner components.
const MAX_MODULES: u32 = 64;
/// How deep components may lie in components.
const MAX_DEPTH: u32 = 8;

const BROKEN: LoadError = LoadError::NotAComponent("a section is broken");
const CORE: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

#[derive(Default)]
struct Tally {
    functions: u32,
    imports: u32,
    modules: u32,
    types: u32,
    memories: u32,
    tables: u32,
    parts: u32,
}

/// Refuses what is no component, or larger than is compiled: than `max` bytes, or in one of its counts.
pub(crate) fn survey(bytes: &[u8], max: usize) -> Result<(), LoadError> {
    if bytes.len() > max {
        return Err(LoadError::TooLarge { size: bytes.len(), max });
    }
    if Engine::detect_precompiled(bytes).is_some() || bytes.starts_with(b"\x7fELF") {
        return Err(LoadError::Precompiled);
    }
    if bytes.starts_with(&CORE) {
        return Err(LoadError::NotAComponent("it is a core module; build it for wasm32-wasip2"));
    }
    if !bytes.starts_with(&COMPONENT) {
        return Err(LoadError::NotAComponent("it does not begin as one"));
    }
    walk(bytes, &mut Tally::default(), 0)
}

fn walk(bytes: &[u8], tally: &mut Tally, depth: u32) -> Result<(), LoadError> {
    tally.modules += 1;
    if tally.modules > MAX_MODULES || depth > MAX_DEPTH {
        return Err(LoadError::TooMany { what: "modules", max: MAX_MODULES });
    }
    let core = bytes.starts_with(&CORE);
    if !core && !bytes.starts_with(&COMPONENT) {
        return Err(BROKEN);
    }
    let mut rest = &bytes[8..];
    while let Some((&id, after)) = rest.split_first() {
        let (size, after) = leb(after).ok_or(BROKEN)?;
        let size = size as usize;
        if after.len() < size {
            return Err(BROKEN);
        }
        let (section, next) = after.split_at(size);
        match (core, id) {
            (true, 2) | (false, 10) => tally.imports = tally.imports.saturating_add(leb(section).ok_or(BROKEN)?.0),
            (true, 1) | (false, 3 | 7) => count(&mut tally.types, section, "types", MAX_TYPES)?,
            (true, 4) => count(&mut tally.tables, section, "tables", MAX_MEMORIES)?,
            (true, 5) => count(&mut tally.memories, section, "memories", MAX_MEMORIES)?,
            (true, 6 | 7 | 9 | 11) | (false, 2 | 5 | 6 | 8 | 11) => {
                count(&mut tally.parts, section, "parts", MAX_PARTS)?;
            }
            (true, 10) => bodies(section)?,
            (true, 3) => tally.functions = tally.functions.saturating_add(leb(section).ok_or(BROKEN)?.0),
            (false, 1 | 4) => walk(section, tally, depth + 1)?,
            _ => {}
        }
        if tally.functions > MAX_FUNCTIONS {
            return Err(LoadError::TooMany { what: "functions", max: MAX_FUNCTIONS });
        }
        if tally.imports > MAX_IMPORTS {
            return Err(LoadError::TooMany { what: "imports", max: MAX_IMPORTS });
        }
        rest = next;
    }
    Ok(())
}

/// Adds what a section says that it holds.
fn count(sum: &mut u32, section: &[u8], what: &'static str, max: u32) -> Result<(), LoadError> {
    let (more, _) = leb(section).ok_or(BROKEN)?;
    *sum = sum.saturating_add(more);
    if *sum > max { Err(LoadError::TooMany { what, max }) } else { Ok(()) }
}

/// Looks at the size of each function.
fn bodies(section: &[u8]) -> Result<(), LoadError> {
    let (functions, mut rest) = leb(section).ok_or(BROKEN)?;
    for _ in 0..functions {
        let (size, body) = leb(rest).ok_or(BROKEN)?;
        let size = size as usize;
        if size > MAX_FUNCTION {
            return Err(LoadError::TooMany { what: "bytes in one function", max: MAX_FUNCTION as u32 });
        }
        rest = body.get(size..).ok_or(BROKEN)?;
    }
    Ok(())
}

/// An unsigned LEB128 number of 32 bits, and what follows it.
fn leb(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, &bytes[i + 1..]));
        }
    }
    None
}

/// What the custom sections of this name hold, of a component and of the modules and components in it. What is broken ends the search.
pub(crate) fn custom_sections<'a>(bytes: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let mut found = Vec::new();
    search(bytes, name, &mut found, 0);
    found
}

fn search<'a>(bytes: &'a [u8], name: &str, found: &mut Vec<&'a [u8]>, depth: u32) {
    let core = bytes.starts_with(&CORE);
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((&id, after)) = rest.split_first() {
        let Some((size, after)) = leb(after) else { return };
        let Some((section, next)) = after.split_at_checked(size as usize) else { return };
        match (core, id) {
            (_, 0) => {
                let named = leb(section).and_then(|(length, rest)| rest.split_at_checked(length as usize));
                if let Some((_, content)) = named.filter(|(found, _)| *found == name.as_bytes()) {
                    found.push(content);
                }
            }
            (false, 1 | 4) if depth < MAX_DEPTH => search(section, name, found, depth + 1),
            _ => {}
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(bytes: &[u8]) -> Result<(), LoadError> {
        super::survey(bytes, 1 << 20)
    }

    #[test]
    fn refuses_by_kind() {
        assert!(matches!(survey(b"hello"), Err(LoadError::NotAComponent(_))));
        assert!(matches!(survey(b""), Err(LoadError::NotAComponent(_))));
        assert!(matches!(survey(&CORE), Err(LoadError::NotAComponent(why)) if why.contains("core module")));
        assert!(matches!(survey(b"\x7fELF...."), Err(LoadError::Precompiled)));
        assert!(matches!(super::survey(&COMPONENT, 7), Err(LoadError::TooLarge { size: 8, max: 7 })));
        assert!(survey(&COMPONENT).is_ok());
    }

    #[test]
    fn custom_sections_are_found_at_any_depth() {
        let custom = |name: &str, content: &[u8]| {
            let named = [&[name.len() as u8][..], name.as_bytes(), content].concat();
            [&[0, named.len() as u8][..], &named].concat()
        };
        let module = [&CORE[..], &custom("docs", b"inner"), &custom("other", b"x")].concat();
        let bytes = [&COMPONENT[..], &custom("docs", b"outer"), &[1, module.len() as u8], &module].concat();
        assert_eq!(custom_sections(&bytes, "docs"), [&b"outer"[..], b"inner"]);
        assert_eq!(custom_sections(&bytes[..bytes.len() - 3], "docs"), [b"outer"], "up to where it is broken");
        assert!(custom_sections(b"", "docs").is_empty());
    }

    #[test]
    fn refuses_by_count() {
        // A component with a core module whose function section claims a million functions.
        let module = [&CORE[..], &[3, 3, 0xC0, 0x84, 0x3D]].concat();
        let bytes = [&COMPONENT[..], &[1, module.len() as u8], &module].concat();
        assert!(matches!(survey(&bytes), Err(LoadError::TooMany { what: "functions", .. })));
        for (sections, what) in [
            (&[1, 3, 0xC0, 0x84, 0x3D][..], "types"),
            (&[5, 1, 65], "memories"),
            (&[4, 1, 65], "tables"),
            (&[6, 3, 0xC0, 0x84, 0x3D], "parts"),
            (&[10, 5, 1, 0x81, 0x80, 0x80, 0x01], "bytes in one function"),
        ] {
            let module = [&CORE[..], sections].concat();
            let bytes = [&COMPONENT[..], &[1, module.len() as u8], &module].concat();
            assert!(matches!(survey(&bytes), Err(LoadError::TooMany { what: found, .. }) if found == what), "{what}");
        }
        let truncated = &bytes[..bytes.len() - 2];
        assert!(matches!(survey(truncated), Err(LoadError::NotAComponent(_))));
    }
}
