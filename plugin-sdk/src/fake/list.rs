//! A fake of a list that a client is about to see.

use crate::ListKind;

/// A list of `kind`, which begins empty.
#[derive(Clone, Debug)]
pub struct List {
    kind: ListKind,
    entries: Vec<(String, String)>,
}

impl List {
    /// A list without entries.
    pub fn new(kind: ListKind) -> Self {
        Self { kind, entries: Vec::new() }
    }

    /// With one more entry: a server, and the entry's own name (or URI).
    #[must_use]
    pub fn entry(mut self, server: &str, name: &str) -> Self {
        self.entries.push((server.into(), name.into()));
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::List<'_> {
        crate::List(self)
    }

    pub(crate) fn kind(&self) -> String {
        self.kind.as_str().to_owned()
    }

    pub(crate) fn count(&self) -> u32 {
        self.entries.len() as u32
    }

    pub(crate) fn gateway(&self) -> String {
        "main".into()
    }

    pub(crate) fn request_id(&self) -> String {
        "fake-request".into()
    }

    pub(crate) fn servers(&self) -> Vec<String> {
        let mut servers: Vec<String> = Vec::new();
        for (server, _) in &self.entries {
            if !servers.contains(server) {
                servers.push(server.clone());
            }
        }
        servers
    }

    pub(crate) fn server_of(&self) -> Vec<u32> {
        let servers = self.servers();
        let position = |server: &String| servers.iter().position(|one| one == server).unwrap_or_default() as u32;
        self.entries.iter().map(|(server, _)| position(server)).collect()
    }

    pub(crate) fn names(&self) -> (String, Vec<u32>) {
        let mut text = String::new();
        let mut ends = Vec::new();
        for (_, name) in &self.entries {
            text.push_str(name);
            ends.push(text.len() as u32);
        }
        (text, ends)
    }
}
