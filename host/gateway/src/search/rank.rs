//! Which tools fit a few words best: BM25 (Robertson and Zaragoza, 2009) over names, titles, descriptions and parameters,
//! with a light stemmer and a few words that mean the same.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::{Map, Value};

/// Weights of the fields.
const NAME: f32 = 3.0;
const TITLE: f32 = 2.0;
const DESCRIPTION: f32 = 1.0;
const PARAMETER: f32 = 0.7;
const SERVER: f32 = 1.0;
/// Of the beginning of a word, so that `repo` finds `repository`, and of a word that means the same.
const BEGINNING: f32 = 0.35;
const SYNONYM: f32 = 0.5;
/// Of what a question asks for: something that tells, and changes nothing.
const ASKED: f32 = 0.3;
/// What it adds when all that a tool's name says is in the query.
const COVERED: f32 = 0.6;
/// How many characters a beginning has.
const BEGINNING_CHARS: usize = 4;
/// The usual constants of BM25.
const K1: f32 = 1.2;
const B: f32 = 0.6;
/// The most words of a description and of a query that count.
const MOST_WORDS: usize = 400;
const MOST_QUERY: usize = 32;

/// Words that say nothing about a tool.
const EMPTY: [&str; 33] = [
    "a", "an", "and", "any", "are", "as", "at", "be", "by", "can", "do", "for", "from", "how", "i", "in", "is", "it",
    "me", "my", "of", "on", "or", "please", "that", "the", "then", "this", "to", "tool", "want", "with", "you",
];

/// Words that ask, and what tools that tell are called.
const QUESTIONS: [&str; 5] = ["what", "which", "where", "when", "who"];
const TELLING: [&str; 6] = ["get", "list", "show", "read", "status", "current"];

/// Words that people and tools say for the same.
const SAME: [&[&str]; 20] = [
    &["delete", "remove", "erase", "drop", "forget"],
    &["create", "add", "new", "make", "insert"],
    &["show", "get", "read", "view", "display", "print", "see"],
    &["find", "search", "look", "query", "lookup"],
    &["change", "edit", "update", "modify", "alter", "set"],
    &["list", "enumerate", "all"],
    &["everything", "all", "whole", "every"],
    &["several", "multiple", "many"],
    &["send", "post", "publish", "notify"],
    &["directory", "folder", "dir"],
    &["download", "fetch", "retrieve"],
    &["picture", "image", "photo"],
    &["rename", "move"],
    &["save", "write", "store"],
    &["remember", "store", "memory", "add"],
    &["history", "log"],
    &["switch", "checkout"],
    &["difference", "diff", "compare"],
    &["number", "sum", "add"],
    &["size", "info", "metadata"],
];

type Term = u64;

/// What is known of one tool.
#[derive(Debug, Default)]
pub struct Doc {
    /// Terms and their weights, each term once, sorted.
    terms: Vec<(Term, f32)>,
    length: f32,
    /// The words of its name.
    name: Vec<Term>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    #[serde(default)]
    name: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    input_schema: Option<Map<String, Value>>,
}

impl Doc {
    /// Reads a tool's definition. What is none has no terms, and is never found.
    pub fn of(raw: &str) -> Self {
        let Ok(tool) = serde_json::from_str::<Definition>(raw) else { return Self::default() };
        let mut doc = Self::default();
        doc.add(&tool.name, NAME);
        doc.name = words(&tool.name).map(|word| term(&word)).collect();
        doc.add(tool.title.as_deref().unwrap_or_default(), TITLE);
        doc.add(tool.description.as_deref().unwrap_or_default(), DESCRIPTION);
        let parameters = tool.input_schema.as_ref().and_then(|s| s.get("properties")).and_then(Value::as_object);
        for (name, schema) in parameters.into_iter().flatten() {
            doc.add(name, PARAMETER);
            doc.add(schema.get("description").and_then(Value::as_str).unwrap_or_default(), PARAMETER / 2.0);
        }
        doc.terms.sort_unstable_by_key(|(term, _)| *term);
        doc.terms.dedup_by(|(term, weight), (kept, sum)| {
            let same = term == kept;
            if same {
                *sum += *weight;
            }
            same
        });
        doc.terms.shrink_to_fit();
        doc
    }

    fn add(&mut self, text: &str, weight: f32) {
        for word in words(text).take(MOST_WORDS) {
            self.length += weight;
            if let Some(beginning) = beginning(&word) {
                self.terms.push((beginning, weight));
            }
            self.terms.push((term(&word), weight));
        }
    }

    fn weight(&self, term: Term) -> f32 {
        self.terms.binary_search_by_key(&term, |(t, _)| *t).map_or(0.0, |at| self.terms[at].1)
    }
}

/// What somebody looks for.
#[derive(Debug)]
pub struct Query {
    /// Each word: terms that may stand for it, with how much they count.
    words: Vec<Vec<(Term, f32)>>,
}

impl Query {
    /// Reads a few words. A query of empty words only is taken at its word.
    pub fn new(text: &str) -> Self {
        let mut all: Vec<String> = words(text).take(MOST_QUERY).collect();
        all.dedup();
        let telling: Vec<&String> = all.iter().filter(|w| !EMPTY.contains(&w.as_str())).collect();
        let chosen = if telling.is_empty() { all.iter().collect() } else { telling };
        Self { words: chosen.into_iter().map(|word| Self::terms(word)).collect() }
    }

    /// How much of what a tool's name says, beside its server's, is in the query: 0 to 1.
    fn covers(&self, candidate: &Candidate<'_>) -> f32 {
        let own: Vec<Term> = candidate.doc.name.iter().copied().filter(|t| !candidate.server.contains(t)).collect();
        if own.is_empty() {
            return 0.0;
        }
        let said = |wanted: &Term| {
            let counts = self.words.iter().flatten().filter(|(term, _)| term == wanted).map(|(_, counts)| *counts);
            counts.fold(0.0, f32::max)
        };
        own.iter().map(said).sum::<f32>() / own.len() as f32
    }

    fn terms(word: &str) -> Vec<(Term, f32)> {
        if QUESTIONS.contains(&word) {
            return TELLING.iter().map(|telling| (term(&stem(telling)), ASKED)).collect();
        }
        let mut terms = vec![(term(word), 1.0)];
        for same in SAME.iter().filter(|same| same.iter().any(|s| stem(s) == word)) {
            for other in same.iter().map(|s| stem(s)).filter(|s| s != word) {
                terms.push((term(&other), SYNONYM));
            }
        }
        terms.extend(beginning(word).map(|b| (b, BEGINNING)));
        terms
    }
}

/// One candidate: a tool, and the words of its server's name, which count for all tools of the server.
pub struct Candidate<'d> {
    /// The tool.
    pub doc: &'d Doc,
    /// [`server_terms`] of its server.
    pub server: &'d [u64],
}

/// The words of a server's name.
pub fn server_terms(name: &str) -> Vec<u64> {
    words(name).map(|word| term(&word)).collect()
}

/// The positions of the best candidates, best first; those that share no word with the query are left out.
pub fn best(query: &Query, candidates: &[Candidate<'_>], most: usize) -> Vec<usize> {
    let count = candidates.len().max(1) as f32;
    let average = candidates.iter().map(|c| c.doc.length).sum::<f32>() / count;
    let mut scores = vec![0f32; candidates.len()];
    for word in &query.words {
        let weights: Vec<f32> = candidates
            .iter()
            .map(|candidate| {
                let own = word.iter().map(|(term, counts)| candidate.doc.weight(*term) * counts).fold(0.0, f32::max);
                let server = word.first().is_some_and(|(term, _)| candidate.server.contains(term));
                own + if server { SERVER } else { 0.0 }
            })
            .collect();
        let having = weights.iter().filter(|w| **w > 0.0).count() as f32;
        let rarity = (1.0 + (count - having + 0.5) / (having + 0.5)).ln();
        for ((score, weight), candidate) in scores.iter_mut().zip(weights).zip(candidates) {
            let length = if average > 0.0 { candidate.doc.length / average } else { 1.0 };
            *score += rarity * weight * (K1 + 1.0) / (weight + K1 * (1.0 - B + B * length));
        }
    }
    for (score, candidate) in scores.iter_mut().zip(candidates) {
        *score *= 1.0 + COVERED * query.covers(candidate);
    }
    let mut found: Vec<usize> = (0..candidates.len()).filter(|at| scores[*at] > 0.0).collect();
    found.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    found.truncate(most);
    found
}

/// The words of a text, in lower case and without their endings. `camelCase`, `snake_case` and `a.b` are several.
fn words(text: &str) -> impl Iterator<Item = String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut lower = false;
    for c in text.chars() {
        if (!c.is_alphanumeric() || (c.is_uppercase() && lower)) && !word.is_empty() {
            out.push(stem(&word));
            word.clear();
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        lower = c.is_lowercase() || c.is_ascii_digit();
    }
    if !word.is_empty() {
        out.push(stem(&word));
    }
    out.into_iter()
}

/// A word without the endings that matter least. Not linguistics: both sides are treated alike.
fn stem(word: &str) -> String {
    let cut = |suffix: &str, least: usize| word.strip_suffix(suffix).filter(|stem| stem.len() >= least);
    let undoubled = |stem: &str| {
        let mut chars = stem.chars().rev();
        match (chars.next(), chars.next()) {
            (Some(a), Some(b)) if a == b && !"lsz".contains(a) => stem[..stem.len() - a.len_utf8()].to_owned(),
            _ => stem.to_owned(),
        }
    };
    if let Some(stem) = cut("ies", 2) {
        return format!("{stem}y");
    }
    if let Some(stem) = cut("ing", 3).or_else(|| cut("ed", 3)) {
        return undoubled(stem).trim_end_matches('e').to_owned();
    }
    let plain = match cut("es", 3).filter(|s| s.ends_with(['s', 'x', 'z']) || s.ends_with("ch") || s.ends_with("sh")) {
        Some(stem) => stem,
        None if word.ends_with("ss") => word,
        None => cut("s", 3).unwrap_or(word),
    };
    if plain.len() > 4 { plain.trim_end_matches('e').to_owned() } else { plain.to_owned() }
}

fn term(word: &str) -> Term {
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    hasher.finish()
}

/// The term of how a word begins; none for short words.
fn beginning(word: &str) -> Option<Term> {
    let (end, _) = word.char_indices().nth(BEGINNING_CHARS)?;
    let mut hasher = DefaultHasher::new();
    ("begins", &word[..end]).hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, description: &str) -> Doc {
        Doc::of(&serde_json::json!({"name": name, "description": description}).to_string())
    }

    fn find(query: &str, docs: &[Doc]) -> Vec<usize> {
        let candidates: Vec<_> = docs.iter().map(|doc| Candidate { doc, server: &[] }).collect();
        best(&Query::new(query), &candidates, 5)
    }

    #[test]
    fn words_and_stems() {
        let all = |text| words(text).collect::<Vec<_>>();
        assert_eq!(
            all("getCurrentTime git_diff_staged HTTP2"),
            ["get", "current", "time", "git", "diff", "stag", "http2"]
        );
        assert_eq!(
            all("directories files listing stopped classes boxes"),
            ["directory", "file", "list", "stop", "class", "box"]
        );
        assert_eq!(stem("staged"), stem("stage"));
        assert_eq!(all("«¿Qué?»"), ["qué"]);
        assert_eq!(all(""), Vec::<String>::new());
    }

    #[test]
    fn the_right_one_comes_first() {
        let docs = [
            tool("read_file", "Reads a file from disk."),
            tool("write_file", "Writes a file to disk."),
            tool("remove_directory", "Deletes a folder and what is in it."),
            tool("get_current_time", "The time in a time zone."),
            tool("git_commit", "Records changes to the repository."),
        ];
        for (query, wanted) in [
            ("read a file", 0),
            ("writing files", 1),
            ("delete a folder", 2),
            ("what time is it", 3),
            ("commit to my repo", 4),
        ] {
            assert_eq!(find(query, &docs).first(), Some(&wanted), "{query}");
        }
        assert!(find("quantum chromodynamics", &docs).is_empty());
        assert!(find("", &docs).is_empty());
    }

    #[test]
    fn a_server_counts_for_its_tools() {
        let docs = [tool("log", "Shows the log."), tool("log", "Shows the log.")];
        let (git, audit) = (server_terms("git"), server_terms("audit-trail"));
        let candidates = [Candidate { doc: &docs[0], server: &audit }, Candidate { doc: &docs[1], server: &git }];
        assert_eq!(best(&Query::new("git log"), &candidates, 1), [1]);
        assert_eq!(best(&Query::new("audit log"), &candidates, 1), [0]);
    }

    #[test]
    fn nonsense_is_survived() {
        for raw in ["", "[]", "{}", r#"{"name":7}"#, r#"{"name":"x","inputSchema":{"properties":[]}}"#] {
            Doc::of(raw);
        }
        find(&"word ".repeat(10_000), &[tool(&"x".repeat(100_000), &"y ".repeat(100_000))]);
    }
}
