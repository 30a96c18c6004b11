//! What a server says outside any call, and who wants to hear it.

pub(crate) mod hub;

use crate::target::TargetKey;

/// A list of a server that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose list it is.
    pub key: TargetKey,
    /// Which list.
    pub what: Changed,
}

/// Which list changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// The tools.
    Tools,
    /// The resources or resource templates.
    Resources,
    /// The prompts.
    Prompts,
}

impl Changed {
    /// What a notification of this method tells of.
    pub fn of(method: &str) -> Option<Self> {
        match method {
            "notifications/tools/list_changed" => Some(Self::Tools),
            "notifications/resources/list_changed" => Some(Self::Resources),
            "notifications/prompts/list_changed" => Some(Self::Prompts),
            _ => None,
        }
    }
}

/// What to hear.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listen<'a> {
    /// `notifications/tools/list_changed`.
    pub tools: bool,
    /// `notifications/prompts/list_changed`.
    pub prompts: bool,
    /// `notifications/resources/list_changed`.
    pub resources: bool,
    /// `notifications/resources/updated` of these, as the server knows them, and of what lies below them.
    pub uris: &'a [&'a str],
}
