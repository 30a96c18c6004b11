//! Rules applied to the arguments of a call or to its result.

use std::collections::BTreeSet;

use portcullis_plugin_kit::{Broken, Change, Editor, Step, edit};
use portcullis_sdk::Error;

use crate::config::{Action, Config, Rule, Side};

/// Why there is no redacted text.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A rule that denies found something.
    Denied(String),
    Broken(Broken),
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Denied(rule) => Self::denied("redacted", rule),
            Stop::Broken(broken) => broken.into(),
        }
    }
}

/// What came of it.
pub(crate) struct Redacted {
    /// The new text; none where nothing was found.
    pub(crate) text: Option<String>,
    /// The rules that found something.
    pub(crate) by: BTreeSet<String>,
}

/// The text with what the rules find taken out.
///
/// # Errors
/// Where a rule denies, or the text is no JSON.
pub(crate) fn redact(config: &Config, rules: &[&Rule], side: Side, json: &str) -> Result<Redacted, Stop> {
    let mut pass = Pass {
        config,
        rules,
        root: if side == Side::Results { Root::Result } else { Root::Data },
        by: BTreeSet::new(),
    };
    let text = edit(json, &mut pass)?;
    Ok(Redacted { text, by: pass.by })
}

/// What lies at the root of the text that is edited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    /// What paths are about: arguments, or a result's data.
    Data,
    /// A result object (2025-06-18 server/tools "Tool Result"), whose data lie in `structuredContent` and in texts that are JSON.
    Result,
}

struct Pass<'a> {
    config: &'a Config,
    rules: &'a [&'a Rule],
    root: Root,
    by: BTreeSet<String>,
}

impl Pass<'_> {
    /// The place in the data; none where this is not data.
    fn in_data<'p, 's>(&self, place: &'p [Step<'s>]) -> Option<&'p [Step<'s>]> {
        match (self.root, place) {
            (Root::Data, place) => Some(place),
            (Root::Result, [Step::Key(first), rest @ ..]) if first == "structuredContent" => Some(rest),
            (Root::Result, _) => None,
        }
    }

    /// Whether this is the text of a content block or of a resource in one, which often is JSON itself.
    fn may_be_json(&self, place: &[Step<'_>]) -> bool {
        self.root == Root::Result
            && match place {
                [Step::Key(content), Step::Item(_), Step::Key(text)] => content == "content" && text == "text",
                [Step::Key(content), Step::Item(_), Step::Key(resource), Step::Key(text)] => {
                    content == "content" && resource == "resource" && text == "text"
                }
                _ => false,
            }
    }

    /// Whether this is base64 of an image, a sound or a file: what fits there fits by chance.
    fn is_binary(&self, place: &[Step<'_>]) -> bool {
        self.root == Root::Result
            && match place {
                [Step::Key(content), Step::Item(_), Step::Key(data)] => content == "content" && data == "data",
                [Step::Key(content), Step::Item(_), Step::Key(resource), Step::Key(blob)] => {
                    content == "content" && resource == "resource" && blob == "blob"
                }
                _ => false,
            }
    }

    /// What stands for a piece that a rule found.
    fn stand_in(&mut self, rule: &Rule, piece: &str) -> Result<String, Stop> {
        self.by.insert(rule.name.clone());
        match (rule.action, &self.config.salt) {
            (Action::Replace, _) => Ok(rule.with.clone()),
            (Action::Hash, Some(salt)) => Ok(format!("[{}:{}]", rule.name, salt.hash(piece))),
            (Action::Deny, _) | (Action::Hash, None) => Err(Stop::Denied(rule.name.clone())),
        }
    }

    /// A text with what the rules that look here find in it taken out.
    fn pieces(&mut self, place: &[Step<'_>], text: &str) -> Result<Change, Stop> {
        let data = self.in_data(place);
        let mut changed: Option<String> = None;
        for rule in self.rules {
            let here = rule.paths.is_empty()
                || data.is_some_and(|data| {
                    (0..=data.len()).any(|upto| rule.paths.iter().any(|path| path.fits(&data[..upto])))
                });
            if !here {
                continue;
            }
            for finder in &rule.finders {
                let now = changed.as_deref().unwrap_or(text);
                let Some(mut found) = finder.find(now, 0) else { continue };
                let (mut out, mut copied) = (String::with_capacity(now.len()), 0);
                loop {
                    out.push_str(&now[copied..found.start]);
                    out.push_str(&self.stand_in(rule, &now[found.clone()])?);
                    copied = found.end;
                    match finder.find(now, copied) {
                        Some(next) => found = next,
                        None => break,
                    }
                }
                out.push_str(&now[copied..]);
                changed = Some(out);
            }
        }
        Ok(changed)
    }
}

impl Editor for Pass<'_> {
    type Error = Stop;

    fn value(&mut self, place: &[Step<'_>]) -> Result<Change, Stop> {
        let Some(data) = self.in_data(place).filter(|data| !data.is_empty()) else { return Ok(None) };
        let rule = self.rules.iter().find(|rule| {
            // A hash of a whole value is one of its text, so that is left to `text` and `number`.
            rule.finders.is_empty() && rule.paths.iter().any(|path| path.fits(data))
        });
        match rule {
            Some(rule) if rule.action == Action::Hash => Ok(None),
            Some(rule) => self.stand_in(rule, "").map(Some),
            None => Ok(None),
        }
    }

    fn text(&mut self, place: &[Step<'_>], text: &str) -> Result<Change, Stop> {
        if self.is_binary(place) {
            return Ok(None);
        }
        if let Some(change) = self.hashed(place, text)? {
            return Ok(Some(change));
        }
        let inner =
            if self.may_be_json(place) && text.trim_start().starts_with(['{', '[']) { self.inner(text)? } else { None };
        let outer = self.pieces(place, inner.as_deref().unwrap_or(text))?;
        Ok(outer.or(inner))
    }

    fn number(&mut self, place: &[Step<'_>], digits: &str) -> Result<Change, Stop> {
        match self.hashed(place, digits)? {
            Some(change) => Ok(Some(change)),
            None => self.pieces(place, digits),
        }
    }

    fn key(&mut self, place: &[Step<'_>], key: &str) -> Result<Change, Stop> {
        // Names that the protocol gives are no data.
        if self.in_data(place).is_some_and(|data| !data.is_empty()) { self.pieces(place, key) } else { Ok(None) }
    }
}

impl Pass<'_> {
    /// The hash of a whole text or number, where a rule wants that at this place or around it.
    fn hashed(&mut self, place: &[Step<'_>], text: &str) -> Result<Change, Stop> {
        let Some(data) = self.in_data(place) else { return Ok(None) };
        let wanted = |rule: &&&Rule| {
            rule.action == Action::Hash
                && rule.finders.is_empty()
                && (1..=data.len()).any(|upto| rule.paths.iter().any(|path| path.fits(&data[..upto])))
        };
        match self.rules.iter().find(wanted) {
            Some(rule) => self.stand_in(rule, text).map(Some),
            None => Ok(None),
        }
    }

    /// A text that is JSON, redacted as data of its own; none where it is no JSON, or nothing is found.
    fn inner(&mut self, text: &str) -> Result<Change, Stop> {
        let mut pass = Pass { config: self.config, rules: self.rules, root: Root::Data, by: BTreeSet::new() };
        match edit(text, &mut pass) {
            Ok(change) => {
                self.by.append(&mut pass.by);
                Ok(change)
            }
            Err(Stop::Broken(_)) => Ok(None),
            Err(denied) => Err(denied),
        }
    }
}
