//! The hook that decides what a client sees of a list.

use crate::{Caller, Error, raw};

/// Which list a client is about to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListKind {
    /// Tools.
    Tools,
    /// Resources; names are URIs.
    Resources,
    /// Resource templates; names are URI templates.
    Templates,
    /// Prompts.
    Prompts,
    /// A list that this SDK does not know.
    Unknown,
}

impl ListKind {
    fn parse(text: &str) -> Self {
        match text {
            "tools" => Self::Tools,
            "resources" => Self::Resources,
            "templates" => Self::Templates,
            "prompts" => Self::Prompts,
            _ => Self::Unknown,
        }
    }

    /// As the contract calls it; empty for one that this SDK does not know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "templates",
            Self::Prompts => "prompts",
            Self::Unknown => "",
        }
    }
}

/// A list that a client is about to see. Lent for one hook.
#[derive(Clone, Copy)]
pub struct List<'a>(pub(crate) &'a raw::List);

impl List<'_> {
    /// Which list it is.
    pub fn kind(self) -> ListKind {
        ListKind::parse(&self.0.kind())
    }

    /// How many entries it has.
    pub fn count(self) -> u32 {
        self.0.count()
    }

    /// The gateway that the client spoke to.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// The request's id in logs, traces and errors.
    pub fn request_id(self) -> String {
        self.0.request_id()
    }

    /// The entries, fetched from the host as a whole.
    pub fn entries(self) -> Entries {
        let (text, ends) = raw::texts(self.0.names());
        Entries { servers: self.0.servers(), server_of: self.0.server_of(), text, ends }
    }

    /// The positions of the entries that `stays` says yes to, as [`ListFilter::filter`] returns them.
    pub fn keep(self, mut stays: impl FnMut(Entry<'_>) -> bool) -> Vec<u32> {
        let entries = self.entries();
        (0..).zip(entries.iter()).filter(|(_, entry)| stays(*entry)).map(|(at, _)| at).collect()
    }
}

/// The entries of a [`List`], with few allocations however many they are.
#[derive(Clone, Debug)]
pub struct Entries {
    servers: Vec<String>,
    server_of: Vec<u32>,
    text: String,
    ends: Vec<u32>,
}

/// One entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The `McpServer` resource's name.
    pub server: &'a str,
    /// The position of that name in [`Entries::servers`].
    pub server_at: usize,
    /// The tool's or prompt's name as its server knows it, a resource's URI, a template's URI template.
    pub name: &'a str,
}

impl Entries {
    /// The servers that the entries are of, each once.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// The entries, in the list's order.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).zip(&self.server_of).map(|((start, &end), &server_at)| Entry {
            server: self.servers.get(server_at as usize).map(String::as_str).unwrap_or_default(),
            server_at: server_at as usize,
            name: self.text.get(start as usize..end as usize).unwrap_or_default(),
        })
    }
}

/// Asked once for a whole list.
pub trait ListFilter {
    /// The positions of the entries that stay, ascending; [`List::keep`] makes them.
    ///
    /// # Errors
    /// Any error empties the list.
    fn filter(caller: Caller<'_>, list: List<'_>) -> Result<Vec<u32>, Error>;
}
