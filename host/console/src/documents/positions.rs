//! Where in a document each value stands.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// The positions of a document's keys and items.
#[derive(Clone, Debug, Default)]
pub(super) struct Positions {
    root: Node,
    first_line: u32,
}

#[derive(Clone, Debug, Default)]
enum Node {
    Map(Vec<Entry>),
    Seq(Vec<(Place, Node)>),
    Text(String),
    #[default]
    Other,
}

type Place = (u32, u32);

#[derive(Clone, Debug)]
struct Entry {
    key: String,
    place: Place,
    value: Node,
}

impl Positions {
    /// Reads a document whose first line is the file's line `first_line`.
    pub(super) fn read(
        text: &str,
        options: serde_saphyr::Options,
        first_line: u32,
    ) -> Result<Self, serde_saphyr::Error> {
        Ok(Self { root: serde_saphyr::from_str_with_options(text, options)?, first_line })
    }

    /// Line and column of a path such as `spec.servers[1].prefix`, or of its nearest parent.
    pub(super) fn of(&self, path: &str) -> Option<Place> {
        let (line, column) = find(&self.root, path, None)?;
        Some((line + self.first_line - 1, column))
    }

    /// The text at a top-level key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let Node::Map(entries) = &self.root else { return None };
        entries.iter().find(|e| e.key == key).and_then(|e| if let Node::Text(t) = &e.value { Some(&**t) } else { None })
    }

    /// Whether there is anything in the document.
    pub(super) fn is_map(&self) -> bool {
        matches!(self.root, Node::Map(_))
    }
}

/// Keys may hold dots and brackets, so the longest key that the path begins with wins.
fn find(node: &Node, path: &str, best: Option<Place>) -> Option<Place> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if path.is_empty() {
        return best;
    }
    match node {
        Node::Map(entries) => {
            let fits = |key: &str| {
                path.strip_prefix(key).filter(|rest| rest.is_empty() || rest.starts_with('.') || rest.starts_with('['))
            };
            let entry = entries.iter().filter(|e| fits(&e.key).is_some()).max_by_key(|e| e.key.len());
            match entry.and_then(|e| Some((e, fits(&e.key)?))) {
                Some((entry, rest)) => find(&entry.value, rest, Some(entry.place)),
                None => best,
            }
        }
        Node::Seq(items) => {
            let index = path.strip_prefix('[').and_then(|p| p.split_once(']'));
            let item = index.and_then(|(i, rest)| Some((items.get(i.parse::<usize>().ok()?)?, rest)));
            match item {
                Some(((place, value), rest)) => find(value, rest, Some(*place)),
                None => best,
            }
        }
        Node::Text(_) | Node::Other => best,
    }
}

fn place(location: serde_saphyr::Location) -> Place {
    (u32::try_from(location.line()).unwrap_or(u32::MAX), u32::try_from(location.column()).unwrap_or(u32::MAX))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk;
        impl<'de> Visitor<'de> for Walk {
            type Value = Node;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let value = map.next_value::<Node>()?;
                    entries.push(Entry { place: place(key.referenced), key: key.value, value });
                }
                Ok(Node::Map(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Spanned<Node>>()? {
                    items.push((place(item.referenced), item.value));
                }
                Ok(Node::Seq(items))
            }
            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
                Ok(Node::Other)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }
        }
        deserializer.deserialize_any(Walk)
    }
}
