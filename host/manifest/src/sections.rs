//! Finds the two custom sections in a component or in the core modules within it (component-model binary format, and the core
//! specification's section 5.5.3).

use crate::DeclaredError;

/// The custom section of the manifest.
pub const MANIFEST_SECTION: &str = "portcullis:manifest";
/// The custom section of the configuration's schema.
pub const SCHEMA_SECTION: &str = "portcullis:config-schema";

/// The most bytes of either.
const MAX_BYTES: usize = 64 << 10;
/// The most modules and components that are looked into, and how deep they may lie in each other.
const MAX_PARTS: u32 = 256;
const MAX_DEPTH: u32 = 8;

const CORE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) manifest: Option<&'a [u8]>,
    pub(crate) schema: Option<&'a [u8]>,
    parts: u32,
}

pub(crate) fn find(component: &[u8]) -> Result<Found<'_>, DeclaredError> {
    let mut found = Found::default();
    if !component.starts_with(COMPONENT) {
        return Err(DeclaredError::Broken);
    }
    walk(component, &mut found, 0)?;
    Ok(found)
}

fn walk<'a>(bytes: &'a [u8], found: &mut Found<'a>, depth: u32) -> Result<(), DeclaredError> {
    found.parts += 1;
    if depth > MAX_DEPTH || found.parts > MAX_PARTS {
        return Err(DeclaredError::Broken);
    }
    let core = bytes.starts_with(CORE);
    let mut rest = match bytes {
        [_, _, _, _, _, _, _, _, rest @ ..] if core || bytes.starts_with(COMPONENT) => rest,
        _ => return Err(DeclaredError::Broken),
    };
    while let Some((&id, after)) = rest.split_first() {
        let (size, after) = leb(after).ok_or(DeclaredError::Broken)?;
        let (section, next) = after.split_at_checked(size).ok_or(DeclaredError::Broken)?;
        match (core, id) {
            (_, 0) => custom(section, found)?,
            (false, 1 | 4) => walk(section, found, depth + 1)?,
            _ => {}
        }
        rest = next;
    }
    Ok(())
}

fn custom<'a>(section: &'a [u8], found: &mut Found<'a>) -> Result<(), DeclaredError> {
    let (length, rest) = leb(section).ok_or(DeclaredError::Broken)?;
    let (name, content) = rest.split_at_checked(length).ok_or(DeclaredError::Broken)?;
    let (place, section) = if name == MANIFEST_SECTION.as_bytes() {
        (&mut found.manifest, MANIFEST_SECTION)
    } else if name == SCHEMA_SECTION.as_bytes() {
        (&mut found.schema, SCHEMA_SECTION)
    } else {
        return Ok(());
    };
    if content.len() > MAX_BYTES {
        return Err(DeclaredError::TooLarge { section, max: MAX_BYTES });
    }
    if place.is_some_and(|earlier| earlier != content) {
        return Err(DeclaredError::Twice(section));
    }
    *place = Some(content);
    Ok(())
}

/// An unsigned LEB128 number of 32 bits, and what follows it.
fn leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(u32::try_from(value).ok()?).ok()?, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(mut value: usize) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            out.push(if value == 0 { byte } else { byte | 0x80 });
            if value == 0 {
                return out;
            }
        }
    }

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id][..], &number(content.len()), content].concat()
    }

    fn custom(name: &str, content: &[u8]) -> Vec<u8> {
        section(0, &[&number(name.len())[..], name.as_bytes(), content].concat())
    }

    fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        [COMPONENT, &sections.concat()].concat()
    }

    #[test]
    fn they_are_found_outside_and_inside() {
        let module = [CORE, &custom(SCHEMA_SECTION, b"{}"), &custom("name", b"x")].concat();
        let inner = component(&[section(1, &module)]);
        let bytes = component(&[custom(MANIFEST_SECTION, b"one"), section(4, &inner)]);
        let found = find(&bytes).unwrap_or_default();
        assert_eq!((found.manifest, found.schema), (Some(&b"one"[..]), Some(&b"{}"[..])));
        let none = component(&[]);
        assert!(find(&none).is_ok_and(|found| found.manifest.is_none() && found.schema.is_none()));
    }

    #[test]
    fn what_is_broken_contradicts_itself_or_is_too_large_is_refused() {
        let twice = component(&[custom(MANIFEST_SECTION, b"one"), custom(MANIFEST_SECTION, b"two")]);
        assert_eq!(find(&twice).err(), Some(DeclaredError::Twice(MANIFEST_SECTION)));
        let same = component(&[custom(MANIFEST_SECTION, b"one"), custom(MANIFEST_SECTION, b"one")]);
        assert!(find(&same).is_ok());
        let large = component(&[custom(SCHEMA_SECTION, &vec![b' '; MAX_BYTES + 1])]);
        assert!(matches!(find(&large), Err(DeclaredError::TooLarge { .. })));
        let mut deep = component(&[]);
        for _ in 0..=MAX_DEPTH {
            deep = component(&[section(4, &deep)]);
        }
        let cut = [&component(&[])[..], &[0, 200]].concat();
        let named = component(&[section(0, &[200])]);
        for broken in [&b"hello"[..], b"", CORE, &deep, &cut, &named, &COMPONENT[..7]] {
            assert_eq!(find(broken).err(), Some(DeclaredError::Broken), "{broken:?}");
        }
    }
}
