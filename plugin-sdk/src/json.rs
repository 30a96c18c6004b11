//! JSON that is put together while a plugin is compiled, so that it can stand in its component as a section.

/// A piece of JSON.
#[derive(Clone, Copy, Debug)]
pub enum Piece {
    /// As it stands.
    Raw(&'static str),
    /// A JSON string (RFC 8259 section 7).
    Text(&'static str),
    /// Other pieces, one behind another.
    All(&'static [Piece]),
    /// Other pieces, with commas between them.
    List(&'static [Piece]),
}

/// How many bytes pieces make.
pub const fn length(pieces: &[Piece]) -> usize {
    let mut length = 0;
    let mut at = 0;
    while at < pieces.len() {
        length += match pieces[at] {
            Piece::Raw(text) => text.len(),
            Piece::All(inner) => self::length(inner),
            Piece::List(items) => self::length(items) + items.len().saturating_sub(1),
            Piece::Text(text) => {
                let bytes = text.as_bytes();
                let (mut quoted, mut i) = (2, 0);
                while i < bytes.len() {
                    quoted += match bytes[i] {
                        b'"' | b'\\' => 2,
                        0..=0x1f => 6,
                        _ => 1,
                    };
                    i += 1;
                }
                quoted
            }
        };
        at += 1;
    }
    length
}

/// The bytes that pieces make; `N` is their [`length`].
pub const fn render<const N: usize>(pieces: &[Piece]) -> [u8; N] {
    write(pieces, [0; N], 0).0
}

const fn write<const N: usize>(pieces: &[Piece], mut out: [u8; N], mut end: usize) -> ([u8; N], usize) {
    let mut at = 0;
    while at < pieces.len() {
        match pieces[at] {
            Piece::All(inner) => (out, end) = write(inner, out, end),
            Piece::List(items) => {
                let mut i = 0;
                while i < items.len() {
                    if i > 0 {
                        out[end] = b',';
                        end += 1;
                    }
                    (out, end) = write(&[items[i]], out, end);
                    i += 1;
                }
            }
            Piece::Raw(text) => {
                let (bytes, mut i) = (text.as_bytes(), 0);
                while i < bytes.len() {
                    out[end] = bytes[i];
                    end += 1;
                    i += 1;
                }
            }
            Piece::Text(text) => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (bytes, mut i) = (text.as_bytes(), 0);
                out[end] = b'"';
                end += 1;
                while i < bytes.len() {
                    let byte = bytes[i];
                    match byte {
                        b'"' | b'\\' => {
                            out[end] = b'\\';
                            out[end + 1] = byte;
                            end += 2;
                        }
                        0..=0x1f => {
                            out[end] = b'\\';
                            out[end + 1] = b'u';
                            out[end + 2] = b'0';
                            out[end + 3] = b'0';
                            out[end + 4] = HEX[(byte >> 4) as usize];
                            out[end + 5] = HEX[(byte & 15) as usize];
                            end += 6;
                        }
                        _ => {
                            out[end] = byte;
                            end += 1;
                        }
                    }
                    i += 1;
                }
                out[end] = b'"';
                end += 1;
            }
        }
        at += 1;
    }
    (out, end)
}

/// What made the component, as its manifest says it.
pub const SDK: &str = concat!("rust ", env!("CARGO_PKG_VERSION"));

/// The grants that a plugin can want, as a `Plugin` resource writes them.
const GRANTS: [&str; 11] = [
    "http",
    "secrets",
    "reveal",
    "tokens",
    "issuers",
    "roles",
    "connections",
    "callerToken",
    "passthrough",
    "state",
    "sign",
];

/// The name of a grant, if there is one of that name; otherwise the plugin does not compile.
///
/// # Panics
/// While compiling, where there is no such grant.
pub const fn grant(name: &'static str) -> &'static str {
    let mut at = 0;
    while at < GRANTS.len() {
        if same(name, GRANTS[at]) {
            return name;
        }
        at += 1;
    }
    panic!("`wants` names a grant that does not exist: see `grants` of a Plugin resource")
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_json() {
        const PIECES: &[Piece] = &[
            Piece::Raw("{\"a\":"),
            Piece::Text("quoted \" and \\ and \n é"),
            Piece::All(&[Piece::Raw(",\"b\":"), Piece::Text("")]),
            Piece::Raw(",\"c\":["),
            Piece::List(&[Piece::Text("x"), Piece::All(&[Piece::Raw("1"), Piece::Raw("2")]), Piece::Raw("null")]),
            Piece::Raw("],\"d\":["),
            Piece::List(&[]),
            Piece::Raw("]}"),
        ];
        const BYTES: [u8; length(PIECES)] = render(PIECES);
        let read: serde_json::Value = serde_json::from_slice(&BYTES).unwrap();
        assert_eq!(read, serde_json::json!({"a": "quoted \" and \\ and \n é", "b": "", "c": ["x", 12, null], "d": []}));
    }
}
