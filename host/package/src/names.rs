//! What a component imports and exports, read from its sections.

/// Names of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What it imports.
    pub imports: Vec<String>,
    /// What it exports.
    pub exports: Vec<String>,
}

/// The most names that are read.
const MAX: usize = 1_000;
const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// Reads a component's sections. None where it is none, or broken.
pub fn names(component: &[u8]) -> Option<Names> {
    let mut rest = component.strip_prefix(&COMPONENT)?;
    let mut names = Names::default();
    while let Some((&id, after)) = rest.split_first() {
        let mut reader = Reader(after);
        let size = reader.number()? as usize;
        let section = reader.take(size)?;
        rest = reader.0;
        let mut section = Reader(section);
        match id {
            10 => {
                for _ in 0..section.number()? {
                    let name = section.name()?;
                    section.described()?;
                    push(&mut names.imports, name)?;
                }
            }
            11 => {
                for _ in 0..section.number()? {
                    let name = section.name()?;
                    section.sort()?;
                    section.number()?;
                    if section.byte()? == 1 {
                        section.described()?;
                    }
                    push(&mut names.exports, name)?;
                }
            }
            _ => {}
        }
    }
    Some(names)
}

fn push(names: &mut Vec<String>, name: String) -> Option<()> {
    (names.len() < MAX).then(|| names.push(name))
}

/// Reads what the component model's binary format holds.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned LEB128 of 32 bits.
    fn number(&mut self) -> Option<u32> {
        let mut value = 0u64;
        for shift in 0..5 {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return u32::try_from(value).ok();
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let size = self.number()? as usize;
        std::str::from_utf8(self.take(size)?).ok().map(str::to_owned)
    }

    /// `importname` and `exportname`: a form, the text, and for one form the rest of a version.
    fn name(&mut self) -> Option<String> {
        let form = self.byte()?;
        let text = self.text()?;
        match form {
            0 | 1 => Some(text),
            2 => {
                let suffix = self.text()?;
                Some(text + &suffix)
            }
            _ => None,
        }
    }

    /// `sort`.
    fn sort(&mut self) -> Option<()> {
        if self.byte()? == 0 {
            self.byte()?;
        }
        Some(())
    }

    /// `externdesc`: what sort of thing, and an index of its type, or what bounds it.
    fn described(&mut self) -> Option<()> {
        match self.byte()? {
            0 => {
                self.byte()?;
                self.number()?;
            }
            1 | 4 | 5 => {
                self.number()?;
            }
            // A value is bounded by another one's index or by a type, a type by another's index or by nothing.
            2 => {
                self.byte()?;
                self.number()?;
            }
            3 => {
                if self.byte()? == 0 {
                    self.number()?;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u8, body: &[u8]) -> Vec<u8> {
        [&[id, u8::try_from(body.len()).unwrap()], body].concat()
    }

    #[test]
    fn imports_and_exports_are_read() {
        let import = [&[1, 0, 3], &b"a:b"[..], &[5, 0]].concat();
        let export = [&[1, 0, 3], &b"c:d"[..], &[5, 0, 0]].concat();
        let bytes = [&COMPONENT[..], &section(10, &import), &section(11, &export), &section(1, &[9])].concat();
        let read = names(&bytes).unwrap();
        assert_eq!((&read.imports[..], &read.exports[..]), (&["a:b".to_owned()][..], &["c:d".to_owned()][..]));
        for cut in 1..bytes.len() {
            // Whatever is cut off, nothing panics.
            let _ = names(&bytes[..cut]);
        }
        assert_eq!(names(b"\0asm\x01\0\0\0"), None);
    }
}
