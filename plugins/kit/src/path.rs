//! Places in a JSON value: JSON Pointers (RFC 6901) with wildcards. `*` is any member or item, `**` any number of them.

use std::borrow::Cow;

use portcullis_sdk::Schema;
use serde::Deserialize;

/// The longest, in segments.
const MAX_SEGMENTS: usize = 16;

/// One step from a value to one inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A member of an object.
    Key(Cow<'a, str>),
    /// An item of an array.
    Item(usize),
}

/// Which places are meant, such as `/customer/email`, `/items/*/iban` or `/**/password`.
#[derive(Clone, Debug, Deserialize, Schema)]
#[serde(try_from = "String")]
pub struct JsonPath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Name(String),
    Any,
    Deep,
}

impl TryFrom<String> for JsonPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "\"{text}\" is no path: it begins with a slash, as in /customer/email or /**/password"
            ));
        };
        let segment = |written: &str| {
            Ok(match written {
                "*" => Segment::Any,
                "**" => Segment::Deep,
                name => {
                    let plain = name.replace("~0", "").replace("~1", "");
                    if plain.contains('~') {
                        return Err(format!("\"{text}\" holds a ~ that is neither ~0 (a tilde) nor ~1 (a slash)"));
                    }
                    Segment::Name(name.replace("~1", "/").replace("~0", "~"))
                }
            })
        };
        let segments: Vec<Segment> = rest.split('/').map(segment).collect::<Result<_, _>>()?;
        if segments.len() > MAX_SEGMENTS {
            return Err(format!("\"{text}\" is too long: {MAX_SEGMENTS} segments are the most"));
        }
        if segments.last() == Some(&Segment::Deep) {
            return Err(format!("\"{text}\" ends in **: say what is meant behind it, or * for everything"));
        }
        Ok(Self(segments))
    }
}

impl JsonPath {
    /// Whether this is one of the places. Takes at most the product of both lengths.
    pub fn fits(&self, place: &[Step<'_>]) -> bool {
        // Which of the first segments can be used up by the steps so far.
        let mut reach = [false; MAX_SEGMENTS + 1];
        reach[0] = true;
        spread(&mut reach, &self.0);
        for step in place {
            let mut next = [false; MAX_SEGMENTS + 1];
            for (at, segment) in self.0.iter().enumerate().filter(|(at, _)| reach[*at]) {
                match segment {
                    Segment::Deep => next[at] = true,
                    Segment::Any => next[at + 1] = true,
                    Segment::Name(name) if step.is(name) => next[at + 1] = true,
                    Segment::Name(_) => {}
                }
            }
            spread(&mut next, &self.0);
            reach = next;
        }
        reach[self.0.len()]
    }
}

/// `**` may be nothing at all.
fn spread(reach: &mut [bool; MAX_SEGMENTS + 1], segments: &[Segment]) {
    for (at, segment) in segments.iter().enumerate() {
        if reach[at] && *segment == Segment::Deep {
            reach[at + 1] = true;
        }
    }
}

impl Step<'_> {
    fn is(&self, name: &str) -> bool {
        match self {
            Self::Key(key) => key == name,
            Self::Item(at) => name.parse() == Ok(*at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{JsonPath, Step};

    fn place(text: &str) -> Vec<Step<'_>> {
        let step = |part: &'_ str| part.parse().map_or_else(|_| Step::Key(part.to_owned().into()), Step::Item);
        text.split('.').filter(|part| !part.is_empty()).map(step).collect()
    }

    #[test]
    fn paths_fit_places() {
        for (path, place_, fits) in [
            ("/a", "a", true),
            ("/a", "a.b", false),
            ("/a", "", false),
            ("/a/0", "a.0", true),
            ("/a/*", "a.0", true),
            ("/a/*", "a", false),
            ("/a/*/c", "a.b.c", true),
            ("/**/c", "c", true),
            ("/**/c", "a.0.b.c", true),
            ("/**/c", "c.d", false),
            ("/a/**/c", "a.c", true),
            ("/a/**/c", "b.a.c", false),
            ("/**/a/**/b", "x.a.y.z.b", true),
            ("/a~1b/~0", "a/b.~", true),
        ] {
            let read = JsonPath::try_from(path.to_owned()).unwrap();
            assert_eq!(read.fits(&place(place_)), fits, "{path} {place_}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", "a", "$.a", "/a/**", "/~2", &"/a".repeat(17)] {
            assert!(JsonPath::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
