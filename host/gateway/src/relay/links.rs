//! Resource links in a server's results: written so that they lead back to that server.

use std::{fmt, sync::Arc};

use portcullis_protocol::links;
use portcullis_upstream::{Message, MessageKind};

use crate::{
    catalogue::{Catalogue, Kind},
    uris::{Known, Places},
    view::View,
};

/// Whose results they stand in.
#[derive(Clone)]
pub struct Links {
    view: Arc<View>,
    catalogue: Arc<Catalogue>,
    at: usize,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Links {
    /// Links of this assignment's server. None where it is the only one, so that every link leads to it.
    pub fn of(view: &Arc<View>, catalogue: &Arc<Catalogue>, at: usize) -> Option<Self> {
        (view.servers.len() > 1).then(|| Self { view: Arc::clone(view), catalogue: Arc::clone(catalogue), at })
    }

    /// The message with links that would lead to another server written otherwise; none where there is none.
    pub fn rewritten(&self, message: &Message) -> Option<Message> {
        if message.kind != MessageKind::Result {
            return None;
        }
        let result = message.payload_text();
        if !links::may_have(result) {
            return None;
        }
        let found = links::of_result(result);
        if found.is_empty() {
            return None;
        }
        let places = self.places();
        let new: Vec<_> = found
            .into_iter()
            .filter_map(|link| {
                // What is there already is not followed: it is only kept from leading to somebody else.
                let shown = match link.embedded {
                    true => places.shown_embedded(self.at, &link.uri),
                    false => places.shown(self.at, &link.uri),
                };
                (*shown != *link.uri).then(|| (link.at, shown.into_owned()))
            })
            .collect();
        if new.is_empty() {
            return None;
        }
        message.with_payload(links::rewrite(result, &new).as_bytes()).ok()
    }

    fn places(&self) -> Places<'_> {
        known(&self.view, &self.catalogue)
    }
}

/// What is known of all servers' resources under whatever account: enough to say where a link would lead. Where it says too
/// little, the link gets its label, which leads back whatever else is known.
fn known<'v>(view: &'v View, catalogue: &Catalogue) -> Places<'v> {
    let known = (0..view.servers.len())
        .map(|at| {
            let Some(entry) = view.any_entry(at, catalogue) else { return Known::default() };
            Known {
                resources: entry.listing(Kind::Resources),
                templates: entry.listing(Kind::Templates),
                offers: entry.facts().map(|f| f.offers(Kind::Resources)),
            }
        })
        .collect();
    Places { labels: &view.labels, exposures: &view.exposures, known }
}
