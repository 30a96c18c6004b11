//! One kind of what a server offers, immutable and shared.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use portcullis_protocol::mirror::{self, Mirrored};

use crate::{search::Doc, template::Template};

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Tools, by name.
    Tools,
    /// Prompts, by name.
    Prompts,
    /// Resources, by URI.
    Resources,
    /// Resource templates, by URI template.
    Templates,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The member of the list's result.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The server capability without which there is nothing to list.
    pub fn capability(self) -> &'static str {
        match self {
            Self::Templates => "resources",
            other => other.member(),
        }
    }

    /// The member of an item that it goes by.
    pub fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

/// One thing as its server describes it.
#[derive(Debug)]
pub struct Item {
    /// What it goes by: its own name, URI or URI template.
    pub key: Arc<str>,
    /// Its definition, byte for byte.
    pub raw: Bytes,
}

/// What a fetch brought.
#[derive(Debug, Default)]
pub struct Fetched {
    /// All pages' items in the server's order.
    pub items: Vec<Item>,
    /// How long the server says that this holds.
    pub ttl: Option<Duration>,
    /// Whether the server says that everybody may see it.
    pub public: bool,
    /// Whether tools with invalid `x-mcp-header` are left out, as a client of this server's transport has to.
    pub strict_headers: bool,
}

/// What one server offers of one kind.
#[derive(Debug)]
pub struct Listing {
    /// In the server's order; the first of two with one key counts.
    pub items: Vec<Item>,
    positions: HashMap<Arc<str>, u32>,
    /// Arguments that travel in headers too, of the tools that have any.
    mirrored: HashMap<u32, Box<[Mirrored]>>,
    /// Templates that can be read, with their positions.
    templates: Vec<(u32, Template)>,
    /// What search goes by, read when somebody searches first.
    docs: OnceLock<Vec<Doc>>,
}

impl Listing {
    /// Keeps what a fetch brought.
    pub fn new(kind: Kind, fetched: Fetched) -> Self {
        let mut listing = Self {
            items: Vec::with_capacity(fetched.items.len()),
            positions: HashMap::with_capacity(fetched.items.len()),
            mirrored: HashMap::new(),
            templates: Vec::new(),
            docs: OnceLock::new(),
        };
        for item in fetched.items {
            let at = u32::try_from(listing.items.len()).unwrap_or(u32::MAX);
            if listing.positions.contains_key(&item.key) {
                continue;
            }
            match kind {
                Kind::Tools => match mirror::of_tool(std::str::from_utf8(&item.raw).unwrap_or_default()) {
                    Ok(mirrored) if mirrored.is_empty() => {}
                    Ok(mirrored) => {
                        listing.mirrored.insert(at, mirrored);
                    }
                    Err(error) if fetched.strict_headers => {
                        tracing::warn!(tool = &*item.key, %error, "left out a tool");
                        continue;
                    }
                    Err(_) => {}
                },
                Kind::Templates => listing.templates.extend(Template::new(&item.key).map(|t| (at, t))),
                Kind::Prompts | Kind::Resources => {}
            }
            listing.positions.insert(Arc::clone(&item.key), at);
            listing.items.push(item);
        }
        listing
    }

    /// The item of this key.
    pub fn get(&self, key: &str) -> Option<&Item> {
        self.positions.get(key).and_then(|at| self.items.get(*at as usize))
    }

    /// The arguments of this tool that travel in headers too.
    pub fn mirrored(&self, tool: &str) -> &[Mirrored] {
        if self.mirrored.is_empty() {
            return &[];
        }
        self.positions.get(tool).and_then(|at| self.mirrored.get(at)).map_or(&[], |m| m)
    }

    /// What search goes by, of the item of this key.
    pub fn doc(&self, key: &str) -> Option<&Doc> {
        let read = |item: &Item| Doc::of(std::str::from_utf8(&item.raw).unwrap_or_default());
        let docs = self.docs.get_or_init(|| self.items.iter().map(read).collect());
        self.positions.get(key).and_then(|at| docs.get(*at as usize))
    }

    /// Templates that can be read, each with its item.
    pub fn templates(&self) -> impl Iterator<Item = (&Item, &Template)> {
        self.templates.iter().filter_map(|(at, template)| Some((self.items.get(*at as usize)?, template)))
    }

    /// The template that says most about this URI, of those that match it.
    pub fn matching(&self, uri: &str) -> Option<(&Item, &Template)> {
        self.templates().filter(|(_, t)| t.matches(uri)).max_by_key(|(_, t)| t.literal().len())
    }
}
