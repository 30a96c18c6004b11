//! From the bytes of a file to typed documents.

use portcullis_model::{API_VERSION, Kind, Metadata, Resource, Spec};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_saphyr::{Error, Options, RenderOptions, SnippetMode, UserMessageFormatter};

use super::{Document, DocumentError, MAX_DOCUMENTS, MAX_ERRORS, MAX_FILE, Positions};

/// Bounds that no honest file reaches. Aliases are counted where they are replayed, so a short text can't grow large.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 400_000,
            max_nodes: 200_000,
            max_depth: 64,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 20_000,
            max_recorded_anchor_bytes: 1 << 20,
            max_merge_keys: 100,
            max_total_scalar_bytes: MAX_FILE,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 16,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw<T> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    metadata: Metadata,
    #[serde(default = "Option::default")]
    spec: Option<T>,
    /// Accepted so that what `get -o yaml` prints can be applied.
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

pub(super) fn file(file: &str, bytes: &[u8]) -> (Vec<Document>, Vec<DocumentError>) {
    let text = match text(file, bytes) {
        Ok(text) => text,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for (count, piece) in pieces(text).enumerate() {
        if count >= MAX_DOCUMENTS {
            let message = format!("more than {MAX_DOCUMENTS} documents in one file");
            errors.push(DocumentError { file: file.to_owned(), line: piece.line, column: 0, message });
            break;
        }
        if errors.len() >= MAX_ERRORS {
            break;
        }
        if piece.is_blank() {
            continue;
        }
        match document(file, &piece) {
            Ok(document) => documents.push(document),
            Err(found) => errors.extend(found),
        }
    }
    (documents, errors)
}

fn text<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, DocumentError> {
    let wrong = |line, message: String| DocumentError { file: file.to_owned(), line, column: 0, message };
    if bytes.len() > MAX_FILE {
        return Err(wrong(0, format!("is {} bytes long; {MAX_FILE} is the most", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        wrong(u32::try_from(line).unwrap_or(u32::MAX), "is not valid UTF-8".to_owned())
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Whether a line begins a document.
fn marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether a line is blank, a comment or a bare marker.
fn says_nothing(line: &str) -> bool {
    let rest = if marker(line) { &line[3..] } else { line };
    let rest = rest.trim();
    rest.is_empty() || rest.starts_with('#') || line.trim_end() == "..."
}

/// One document's text and the line of the file that it begins at.
struct Piece<'a> {
    text: &'a str,
    line: u32,
}

impl Piece<'_> {
    fn is_blank(&self) -> bool {
        self.text.lines().all(says_nothing)
    }
}

/// Cuts a file at its document markers. A line that begins with `---` and a blank is one wherever it stands, even in a
/// literal block (YAML 1.2.2, section 9.1.2), so no parser is needed to find them.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    let mut line = 1u32;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let start = line;
        let mut at = 0;
        for (i, whole) in rest.split_inclusive('\n').enumerate() {
            if i > 0 && marker(whole) {
                let piece = Piece { text: &rest[..at], line: start };
                rest = &rest[at..];
                return Some(piece);
            }
            at += whole.len();
            line = line.saturating_add(1);
        }
        done = true;
        Some(Piece { text: rest, line: start })
    })
}

fn document(file: &str, piece: &Piece<'_>) -> Result<Document, Vec<DocumentError>> {
    let one = |e: &Error| vec![told(file, piece.line, e)];
    let positions = Positions::read(piece.text, options(), piece.line).map_err(|e| one(&e))?;
    let at = |path: &str, message: String| {
        let (line, column) = positions.of(path).unwrap_or((first_line(piece), 0));
        vec![DocumentError { file: file.to_owned(), line, column, message }]
    };
    if !positions.is_map() {
        return Err(at("", "is no resource: a document has apiVersion, kind, metadata and spec".to_owned()));
    }
    match positions.text("apiVersion") {
        Some(API_VERSION) => {}
        Some(other) => return Err(at("apiVersion", format!("apiVersion: must be \"{API_VERSION}\", not \"{other}\""))),
        None => return Err(at("apiVersion", format!("apiVersion: missing; write {API_VERSION}"))),
    }
    let Some(word) = positions.text("kind") else {
        return Err(at("kind", "kind: missing".to_owned()));
    };
    let Some(kind) = Kind::ALL.into_iter().find(|k| k.as_str() == word) else {
        let all: Vec<&str> = Kind::ALL.iter().map(|k| k.as_str()).collect();
        return Err(at("kind", format!("kind: \"{word}\" is none of {}", all.join(", "))));
    };
    let (metadata, spec) = spec(kind, piece.text).map_err(|e| one(&e))?;
    let resource = Resource::new(metadata, spec);
    let document = Document { line: first_line(piece), resource, file: file.to_owned(), positions };
    let problems: Vec<DocumentError> =
        document.resource.problems().iter().map(|p| document.error_at(&p.path, &p.message)).collect();
    if problems.is_empty() { Ok(document) } else { Err(problems) }
}

/// The first line of a piece that says something.
fn first_line(piece: &Piece<'_>) -> u32 {
    let skipped = piece.text.lines().take_while(|l| says_nothing(l));
    piece.line.saturating_add(u32::try_from(skipped.count()).unwrap_or(0))
}

fn spec(kind: Kind, text: &str) -> Result<(Metadata, Spec), Error> {
    fn typed<T: DeserializeOwned>(text: &str, wrap: fn(T) -> Spec) -> Result<(Metadata, Spec), Error> {
        let raw: Raw<T> = serde_saphyr::from_str_with_options(text, options())?;
        let spec = match raw.spec {
            Some(spec) => spec,
            // Left out, it is empty: of a user that is enough.
            None => serde_json::from_value(serde_json::json!({}))
                .map_err(|e| <Error as serde::de::Error>::custom(format!("spec: {e}")))?,
        };
        Ok((raw.metadata, wrap(spec)))
    }
    match kind {
        Kind::McpServer => typed(text, Spec::McpServer),
        Kind::Connection => typed(text, Spec::Connection),
        Kind::Gateway => typed(text, Spec::Gateway),
        Kind::Agent => typed(text, Spec::Agent),
        Kind::Plugin => typed(text, Spec::Plugin),
        Kind::Team => typed(text, Spec::Team),
        Kind::User => typed(text, Spec::User),
        Kind::Role => typed(text, Spec::Role),
        Kind::IdentityProvider => typed(text, Spec::IdentityProvider),
        Kind::OAuthClient => typed(text, Spec::OAuthClient),
    }
}

/// The parser's error without its own way of telling the place.
fn told(file: &str, first_line: u32, error: &Error) -> DocumentError {
    let formatter = Plain;
    let mut render = RenderOptions::new(&formatter);
    render.snippets = SnippetMode::Off;
    let message = error.without_snippet().render_with_options(render).trim().to_owned();
    let (line, column) = error.location().map_or((first_line, 0), |l| {
        let line = u32::try_from(l.line()).unwrap_or(u32::MAX).max(1);
        (line.saturating_add(first_line - 1), u32::try_from(l.column()).unwrap_or(0))
    });
    DocumentError { file: file.to_owned(), line, column, message }
}

/// The library's messages without the place, which [`DocumentError`] tells in its own way.
struct Plain;

impl serde_saphyr::Localizer for Plain {
    fn attach_location<'a>(
        &self,
        base: std::borrow::Cow<'a, str>,
        _: serde_saphyr::Location,
    ) -> std::borrow::Cow<'a, str> {
        base
    }
}

impl serde_saphyr::MessageFormatter for Plain {
    fn localizer(&self) -> &dyn serde_saphyr::Localizer {
        self
    }
    fn format_message<'a>(&self, error: &'a Error) -> std::borrow::Cow<'a, str> {
        UserMessageFormatter.format_message(error)
    }
}
