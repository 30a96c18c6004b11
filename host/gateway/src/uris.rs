//! Resource URIs of several servers in one gateway.
//!
//! A URI stays as its server writes it, and is led back by who lists it, else by a template that matches it, else by there
//! being only one server that has resources. Where that would lead elsewhere (two servers list one URI, templates overlap),
//! the later server's is shown with a label in it: `file:///a` of the server `git` becomes
//! `file://portcullis.git////a`. The scheme stays, since clients go by it (`ui://`), and what stands behind the label is the
//! rest of the URI as it was, so that the way back needs no table. Decision 8.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use crate::{
    catalogue::{Kind, Listing},
    routes::Exposure,
};

/// What the host of a labelled URI begins with.
const HOST: &str = "portcullis.";
/// The scheme of labelled URIs that have none of their own.
const PLAIN: &str = "x-portcullis-plain";

/// The labels of one gateway's assignments.
#[derive(Debug, Default)]
pub struct Labels {
    labels: Vec<String>,
    positions: HashMap<String, usize>,
}

impl Labels {
    /// A label for each name (a prefix, or the server's name), in lower case because hosts have none; a name that is taken
    /// gets a number.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut all = Self::default();
        for name in names {
            let name = name.to_ascii_lowercase();
            let mut label = name.clone();
            let mut number = 2;
            while all.positions.contains_key(&label) {
                label = format!("{name}.{number}");
                number += 1;
            }
            all.positions.insert(label.clone(), all.labels.len());
            all.labels.push(label);
        }
        all
    }

    /// A URI or template of this assignment with its label in it.
    pub fn wrap(&self, at: usize, uri: &str) -> String {
        let label = self.labels.get(at).map_or("", String::as_str);
        match scheme(uri) {
            Some((scheme, rest)) if !scheme.eq_ignore_ascii_case(PLAIN) => format!("{scheme}://{HOST}{label}/{rest}"),
            _ => format!("{PLAIN}://{HOST}{label}/{uri}"),
        }
    }

    /// The assignment and the URI behind a label of ours; none where it has none.
    pub fn unwrap(&self, uri: &str) -> Option<(usize, String)> {
        let (scheme, rest) = scheme(uri)?;
        let rest = rest.strip_prefix("//")?;
        let host = rest.get(..HOST.len()).filter(|h| h.eq_ignore_ascii_case(HOST))?;
        let (label, rest) = rest[host.len()..].split_once('/')?;
        let at = *self.positions.get(&label.to_ascii_lowercase())?;
        let own = if scheme.eq_ignore_ascii_case(PLAIN) { rest.to_owned() } else { format!("{scheme}:{rest}") };
        Some((at, own))
    }
}

/// A URI's scheme (RFC 3986 section 3.1) and what stands behind its colon.
fn scheme(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once(':')?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    valid.then_some((scheme, rest))
}

/// What is known of one assignment's resources.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Its resources.
    pub resources: Option<Arc<Listing>>,
    /// Its templates.
    pub templates: Option<Arc<Listing>>,
    /// Whether it has resources at all; none where that is not known.
    pub offers: Option<bool>,
}

/// All assignments' resources, for somebody.
pub struct Places<'a> {
    /// The gateway's labels.
    pub labels: &'a Labels,
    /// What each assignment shows.
    pub exposures: &'a [Exposure],
    /// What is known of each.
    pub known: Vec<Known>,
}

impl Places<'_> {
    /// Where a URI of a client leads, and what it is called there. None where nobody, or more than one, may be meant.
    pub fn find(&self, uri: &str) -> Option<(usize, String)> {
        let (at, own) = match self.labels.unwrap(uri) {
            Some(labelled) => labelled,
            None => (self.home(uri)?, uri.to_owned()),
        };
        self.exposures.get(at)?.shows(Kind::Resources, &own).then_some((at, own))
    }

    /// Where a URI without a label leads.
    fn home(&self, uri: &str) -> Option<usize> {
        self.lister(uri).or_else(|| self.matching(uri)).or_else(|| self.only())
    }

    /// The first assignment that lists it.
    fn lister(&self, uri: &str) -> Option<usize> {
        self.first(uri, |known| known.resources.as_ref().is_some_and(|l| l.get(uri).is_some()))
    }

    /// The first assignment with a template that it may come from.
    fn matching(&self, uri: &str) -> Option<usize> {
        self.first(uri, |known| known.templates.as_ref().is_some_and(|l| l.matching(uri).is_some()))
    }

    fn first(&self, uri: &str, has: impl Fn(&Known) -> bool) -> Option<usize> {
        let shown = |at: usize| self.exposures.get(at).is_some_and(|e| e.shows(Kind::Resources, uri));
        self.known.iter().enumerate().find(|(at, known)| has(known) && shown(*at)).map(|(at, _)| at)
    }

    /// The only assignment that has resources; while nobody is known to, the only one that may.
    fn only(&self) -> Option<usize> {
        let one = |wanted: Option<bool>| {
            let mut those = self.known.iter().enumerate().filter(|(_, k)| k.offers == wanted).map(|(at, _)| at);
            let first = those.next();
            (first, those.next().is_some())
        };
        match one(Some(true)) {
            (Some(at), false) => Some(at),
            (Some(_), true) => None,
            (None, _) => match one(None) {
                (Some(at), false) => Some(at),
                _ => None,
            },
        }
    }

    /// How a URI that this assignment's server uses is written towards clients. With a label wherever it would not lead back
    /// otherwise.
    pub fn shown<'u>(&self, at: usize, uri: &'u str) -> Cow<'u, str> {
        if self.labels.unwrap(uri).is_none() && (self.known.len() == 1 || self.home(uri) == Some(at)) {
            return Cow::Borrowed(uri);
        }
        Cow::Owned(self.labels.wrap(at, uri))
    }

    /// The same for a resource that is given with its URI: with a label only where the URI would lead to another server.
    pub fn shown_embedded<'u>(&self, at: usize, uri: &'u str) -> Cow<'u, str> {
        let elsewhere = || self.home(uri).is_some_and(|home| home != at);
        if self.labels.unwrap(uri).is_none() && !elsewhere() {
            return Cow::Borrowed(uri);
        }
        Cow::Owned(self.labels.wrap(at, uri))
    }

    /// How a template of this assignment's server is written towards clients: with a label where an earlier server's could
    /// expand to the same URI.
    pub fn shown_template<'t>(&self, at: usize, template: &'t str) -> Cow<'t, str> {
        let mine = crate::template::Template::new(template);
        let clashes =
            self.known.iter().take(at).any(|known| {
                known.templates.iter().flat_map(|l| l.templates()).any(|(item, theirs)| {
                    *item.key == *template || mine.as_ref().is_none_or(|mine| mine.may_meet(theirs))
                })
            });
        if self.labels.unwrap(template).is_none() && !clashes {
            return Cow::Borrowed(template);
        }
        Cow::Owned(self.labels.wrap(at, template))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use portcullis_model::spec::ServerAssignment;

    use super::*;
    use crate::catalogue::{Fetched, Item};

    fn listing(kind: Kind, keys: &[&str]) -> Option<Arc<Listing>> {
        let item = |key: &&str| Item { key: Arc::from(*key), raw: Bytes::from_static(b"{}") };
        let fetched = Fetched { items: keys.iter().map(item).collect(), ..Fetched::default() };
        Some(Arc::new(Listing::new(kind, fetched)))
    }

    fn server(resources: &[&str], templates: &[&str]) -> Known {
        Known {
            resources: listing(Kind::Resources, resources),
            templates: listing(Kind::Templates, templates),
            offers: Some(true),
        }
    }

    fn with<T>(names: &[&str], known: Vec<Known>, check: impl FnOnce(&Places<'_>) -> T) -> T {
        let exposures: Vec<_> = names
            .iter()
            .map(|n| {
                let assignment: ServerAssignment =
                    serde_json::from_value(serde_json::json!({"server": n, "resources": {"exclude": ["*/secret"]}}))
                        .unwrap();
                Exposure::new(&assignment).unwrap()
            })
            .collect();
        let labels = Labels::new(names.iter().copied());
        check(&Places { labels: &labels, exposures: &exposures, known })
    }

    #[test]
    fn labels_lead_back_whatever_the_uri() {
        let labels = Labels::new(["git", "Git", "a_b.c"]);
        for uri in [
            "file:///etc/passwd",
            "https://example.com/a?b#c",
            "ui://weather/card.html",
            "urn:isbn:1",
            "data:,x",
            "no scheme at all",
            "",
            "1x:y",
            "x-portcullis-plain:z",
            "X-Portcullis-Plain://portcullis.git/z",
            "file://portcullis.git////nested",
            "{scheme}://x/{+path}",
        ] {
            for at in 0..3 {
                let shown = labels.wrap(at, uri);
                assert_eq!(labels.unwrap(&shown), Some((at, uri.to_owned())), "{shown}");
            }
        }
        assert_eq!(labels.wrap(0, "ui://w/c"), "ui://portcullis.git///w/c");
        assert_eq!(labels.unwrap("file://PORTCULLIS.GIT////x"), Some((0, "file:///x".into())), "hosts have no case");
        for foreign in ["file:///x", "file://portcullis.svn/x", "portcullis.git/x", "file://portcullis.git"] {
            assert_eq!(labels.unwrap(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn what_is_listed_leads_to_who_lists_it_first() {
        let known = vec![server(&["t://a", "t://both"], &[]), server(&["t://b", "t://both"], &[])];
        with(&["one", "two"], known, |places| {
            assert_eq!(places.find("t://a"), Some((0, "t://a".into())));
            assert_eq!(places.find("t://b"), Some((1, "t://b".into())));
            assert_eq!(places.find("t://both"), Some((0, "t://both".into())));
            assert_eq!(places.shown(0, "t://both"), "t://both");
            let clash = places.shown(1, "t://both");
            assert_eq!(clash, "t://portcullis.two///both");
            assert_eq!(places.find(&clash), Some((1, "t://both".into())));
            assert_eq!(places.find("t://nobody"), None, "two have resources");
            assert_eq!(places.shown(1, "t://nobody"), "t://portcullis.two///nobody");
            assert_eq!(places.shown_embedded(1, "t://nobody"), "t://nobody", "given as it is, and nobody else's");
            assert_eq!(places.shown_embedded(1, "t://a"), "t://portcullis.two///a");
            assert_eq!(places.find("t://portcullis.two///nobody"), Some((1, "t://nobody".into())));
        });
    }

    #[test]
    fn a_server_can_not_take_another_ones_label() {
        let known = vec![server(&["t://a"], &[]), server(&["t://portcullis.one///a"], &[])];
        with(&["one", "two"], known, |places| {
            assert_eq!(places.find("t://portcullis.one///a"), Some((0, "t://a".into())));
            let shown = places.shown(1, "t://portcullis.one///a").into_owned();
            assert_eq!(places.find(&shown), Some((1, "t://portcullis.one///a".into())));
        });
    }

    #[test]
    fn templates_lead_where_lists_do_not() {
        let known = vec![server(&[], &["f:///{+path}"]), server(&["f:///listed"], &["f:///home/{x}", "g:///{x}"])];
        with(&["one", "two"], known, |places| {
            assert_eq!(places.find("f:///any/where"), Some((0, "f:///any/where".into())));
            assert_eq!(places.find("f:///listed"), Some((1, "f:///listed".into())));
            assert_eq!(places.find("g:///7"), Some((1, "g:///7".into())));
            assert_eq!(places.shown_template(0, "f:///{+path}"), "f:///{+path}");
            assert_eq!(places.shown_template(1, "g:///{x}"), "g:///{x}");
            assert_eq!(places.shown_template(1, "f:///home/{x}"), "f://portcullis.two////home/{x}");
            // What a client makes of the labelled template leads back.
            assert_eq!(places.find("f://portcullis.two////home/me"), Some((1, "f:///home/me".into())));
            // A link of the second server that the first one's template would catch.
            assert_eq!(places.shown(1, "f:///home/me"), "f://portcullis.two////home/me");
        });
    }

    #[test]
    fn the_only_one_with_resources_gets_the_rest() {
        let none = || Known { offers: Some(false), ..Known::default() };
        let unknown = Known::default;
        with(&["one", "two"], vec![none(), server(&[], &[])], |p| {
            assert_eq!(p.find("t://x"), Some((1, "t://x".into())));
        });
        with(&["one", "two"], vec![unknown(), none()], |p| assert_eq!(p.find("t://x").map(|f| f.0), Some(0)));
        with(&["one", "two"], vec![unknown(), unknown()], |p| assert_eq!(p.find("t://x"), None));
        with(&["one", "two"], vec![unknown(), server(&[], &[])], |p| assert_eq!(p.find("t://x").map(|f| f.0), Some(1)));
        with(&["one"], vec![none()], |p| assert_eq!(p.shown(0, "t://x"), "t://x", "alone, nothing clashes"));
    }

    #[test]
    fn what_is_not_shown_leads_nowhere() {
        with(&["one"], vec![server(&["t://x/secret", "t://x/open"], &[])], |p| {
            assert_eq!(p.find("t://x/secret"), None);
            assert_eq!(p.find("t://portcullis.one///x/secret"), None);
            assert_eq!(p.find("t://x/open"), Some((0, "t://x/open".into())));
        });
    }
}
