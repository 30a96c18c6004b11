//! Recorded cases: files that say what is asked and what has to be said, compared and written.
//!
//! A file is one case, YAML or JSON. What stands under `expect` is compared field by field; what does not stand there is not. In YAML
//! `expect:` is the last field, so that writing it anew leaves everything above it, comments included, as it was.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_model::spec::Isolation;
use portcullis_plugin::{Component, Host};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    case::{Case, InvalidCase},
    trial::{Told, Trial, TrialError},
};

/// The most bytes of one file, and the most files of one directory.
const MAX_BYTES: u64 = 4 << 20;
const MAX_FILES: usize = 2_000;

/// A case and the file that it stands in.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The file.
    pub path: PathBuf,
    /// The case.
    pub case: Case,
    text: String,
}

/// A file that can't be read or written, or whose case makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// It can't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its case makes no sense.
    #[error("{path}: {source}")]
    Case {
        /// Which.
        path: PathBuf,
        /// Why.
        source: InvalidCase,
    },
    /// Too many, or too large.
    #[error("{path}: {what}")]
    TooMuch {
        /// Where.
        path: PathBuf,
        /// What there is too much of.
        what: String,
    },
    /// `expect` does not stand where it can be written.
    #[error("{path}: `expect:` has to be the last field, so that the rest stays as it is")]
    Expect {
        /// Which.
        path: PathBuf,
    },
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Verdict {
    /// It said what was expected.
    Same,
    /// It said something else.
    Differs {
        /// Each field that differs.
        fields: Vec<Difference>,
    },
    /// Nothing is expected yet.
    Unrecorded,
    /// The plugin was not loaded under it.
    NotLoaded {
        /// Why.
        why: String,
    },
}

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The field.
    pub field: String,
    /// What was expected.
    pub expected: Value,
    /// What was said; null where nothing was.
    pub told: Value,
}

/// Reads the cases of a directory, in the order of their names: `*.yaml`, `*.yml`, `*.json`. None where there is no directory.
///
/// # Errors
/// The first file that can't be read.
pub fn read(directory: &Path) -> Result<Vec<Recorded>, RecordedError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RecordedError::File { path, source }
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(directory)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            paths.push(path);
        }
        if paths.len() > MAX_FILES {
            return Err(RecordedError::TooMuch {
                path: directory.to_owned(),
                what: format!("more than {MAX_FILES} files"),
            });
        }
    }
    paths.sort();
    paths.into_iter().map(|path| read_one(&path)).collect()
}

/// Reads one file.
///
/// # Errors
/// Where it can't be read, or its case makes no sense.
pub fn read_one(path: &Path) -> Result<Recorded, RecordedError> {
    let failed = |source| RecordedError::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(RecordedError::TooMuch { path: path.to_owned(), what: format!("more than {MAX_BYTES} bytes") });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let case = Case::read(&text).map_err(|source| RecordedError::Case { path: path.to_owned(), source })?;
    Ok(Recorded { path: path.to_owned(), case, text })
}

impl Recorded {
    /// Asks the plugin, and compares.
    ///
    /// # Errors
    /// Where the case makes no sense.
    pub async fn replay(&self, host: &Arc<Host>, component: &Arc<Component>) -> Result<(Verdict, Told), RecordedError> {
        let wrong = |source| RecordedError::Case { path: self.path.clone(), source };
        let Some(ask) = &self.case.ask else {
            return Err(wrong(InvalidCase::Form("`ask` is missing: it says what the plugin is asked".to_owned())));
        };
        let trial = match Trial::load(host, component, &self.case, Isolation::Call).await {
            Ok(trial) => trial,
            Err(TrialError::Case(source)) => return Err(wrong(source)),
            // That it is not loaded may be what is expected.
            Err(TrialError::Load(error)) => {
                let told = Map::from_iter([("notLoaded".to_owned(), error.to_string().into())]);
                let expected = self.case.expect.as_ref().is_some_and(|expect| expect.contains_key("notLoaded"));
                return Ok(match expected {
                    true => (self.compare(&told), told),
                    false => (Verdict::NotLoaded { why: error.to_string() }, told),
                });
            }
        };
        let told = trial.ask(ask).await.map_err(wrong)?;
        Ok((self.compare(&told), told))
    }

    fn compare(&self, told: &Told) -> Verdict {
        let Some(expect) = &self.case.expect else { return Verdict::Unrecorded };
        let differs = |(field, expected): (&String, &Value)| {
            let told = told.get(field).cloned().unwrap_or_default();
            (told != *expected).then(|| Difference { field: field.clone(), expected: expected.clone(), told })
        };
        let fields: Vec<_> = expect.iter().filter_map(differs).collect();
        if fields.is_empty() { Verdict::Same } else { Verdict::Differs { fields } }
    }

    /// Writes what was said into the file, as what is expected from now on: the fields that stood there before, or all of them
    /// where none of those were said.
    ///
    /// # Errors
    /// Where the file can't be written, or `expect` does not stand at its end.
    pub fn accept(&self, told: &Told) -> Result<(), RecordedError> {
        let before = self.case.expect.as_ref();
        let mut expect: Told = told.clone();
        if let Some(before) = before {
            expect.retain(|field, _| before.contains_key(field));
        }
        if expect.is_empty() {
            expect = told.clone();
        }
        let text = if self.path.extension().is_some_and(|end| end == "json") {
            let mut whole: Map<String, Value> = serde_json::from_str(&self.text).unwrap_or_default();
            whole.insert("expect".to_owned(), Value::Object(expect));
            serde_json::to_string_pretty(&whole).unwrap_or_default() + "\n"
        } else {
            self.yaml(&expect)?
        };
        fs::write(&self.path, text).map_err(|source| RecordedError::File { path: self.path.clone(), source })
    }

    fn yaml(&self, expect: &Told) -> Result<String, RecordedError> {
        let wrong = || RecordedError::Expect { path: self.path.clone() };
        let at = if self.text.starts_with("expect:") { Some(0) } else { self.text.find("\nexpect:").map(|at| at + 1) };
        let mut out = match at {
            Some(at) => {
                let behind = self.text[at..].lines().skip(1);
                // Another field, or another document, behind it would be lost.
                if behind.into_iter().any(|line| line.starts_with(|c: char| !c.is_whitespace() && c != '#' && c != '}'))
                {
                    return Err(wrong());
                }
                self.text[..at].to_owned()
            }
            None if self.case.expect.is_some() => return Err(wrong()),
            None => self.text.clone(),
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str("expect:\n");
        let fields = serde_saphyr::to_string(expect)
            .map_err(|e| RecordedError::File { path: self.path.clone(), source: io::Error::other(e.to_string()) })?;
        for line in fields.lines().filter(|line| *line != "---") {
            out.push_str("  ");
            out.push_str(line);
            out.push('\n');
        }
        // What is written must be read again as it was meant.
        match Case::read(&out) {
            Ok(case) if case.expect.as_ref() == Some(expect) => Ok(out),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn recorded(text: &str) -> Recorded {
        Recorded { path: "case.yaml".into(), case: Case::read(text).unwrap(), text: text.to_owned() }
    }

    fn told(json: Value) -> Told {
        json.as_object().cloned().unwrap()
    }

    const HEAD: &str = "# Ann may.\nask:\n  toolCall: {tool: read}  # any tool\n";

    #[test]
    fn what_is_above_stays_as_it_was() {
        let deny = told(json!({"deny": {"code": "no", "message": "it's: \"no\"\n# not this"}, "sent": [1]}));
        let first = recorded(HEAD).yaml(&deny).unwrap();
        assert!(first.starts_with(HEAD), "{first}");
        let again = recorded(&first).yaml(&told(json!({"allow": true}))).unwrap();
        assert_eq!(again, format!("{HEAD}expect:\n  allow: true\n"));
    }

    #[test]
    fn nothing_behind_it_is_lost() {
        let text = format!("expect: {{allow: true}}\n{HEAD}");
        assert!(matches!(recorded(&text).yaml(&told(json!({"allow": true}))), Err(RecordedError::Expect { .. })));
    }

    #[test]
    fn fields_that_stand_there_are_compared_and_no_others() {
        let case = recorded(&format!("{HEAD}expect:\n  allow: true\n"));
        assert_eq!(case.compare(&told(json!({"allow": true, "sent": []}))), Verdict::Same);
        let differs = Verdict::Differs {
            fields: vec![Difference { field: "allow".into(), expected: true.into(), told: Value::Null }],
        };
        assert_eq!(case.compare(&told(json!({"deny": {}}))), differs);
        assert_eq!(recorded(HEAD).compare(&Told::new()), Verdict::Unrecorded);
    }
}
