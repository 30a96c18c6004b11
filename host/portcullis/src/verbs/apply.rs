//! `apply`: resources from files, directories or standard input.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use portcullis_console::{
    ClientError,
    api::{ApplyAnswer, Complaint},
    documents::{self, Document, DocumentError, MAX_FILE},
};

use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// Create or change resources
///
/// Everything is taken or nothing: one mistake, told with its file and line, and nothing is changed. A resource that came
/// by a watched file is changed in that file only.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis apply -f github.yaml              # a file
  portcullis apply -f resources/               # all *.yaml, *.yml and *.json below a directory
  portcullis apply -f - < gateway.yaml         # standard input
  portcullis apply -f resources/ --dry-run     # says what would change")]
pub struct Apply {
    /// A file, a directory, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    files: Vec<PathBuf>,
    /// Check and compare, but change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Apply {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut documents = Vec::new();
        let mut errors = Vec::new();
        for path in expand(&self.files)? {
            match read(&path) {
                Ok(found) => documents.extend(found),
                Err(found) => errors.extend(found),
            }
        }
        errors.extend(documents::duplicates(&documents));
        if !errors.is_empty() {
            return Err(errors.into());
        }
        if documents.is_empty() {
            return Err(Failure::usage("there is no resource in what was given"));
        }
        // A namespace that is written wins; the default one gives way to --tenant.
        for document in &mut documents {
            if document.resource.metadata.namespace.as_str() == portcullis_model::DEFAULT_TENANT {
                document.resource.metadata.namespace = global.tenant.clone();
            }
        }
        let resources = documents.iter().map(|d| d.resource.clone()).collect();
        let mut answer = global.client()?.apply(resources, self.dry_run).await.map_err(|e| placed(e, &documents))?;
        for item in &mut answer.items {
            item.warnings.iter_mut().for_each(|w| place(w, &documents));
        }
        output::one(global.output, &answer, show)
    }
}

fn show(answer: &ApplyAnswer) -> String {
    let mut out = String::new();
    for item in &answer.items {
        let dry = if answer.dry_run { " (dry run)" } else { "" };
        out.push_str(&format!("{} {}{dry}\n", item.resource, item.change));
        for warning in &item.warnings {
            out.push_str(&format!("  warning: {warning}\n"));
        }
    }
    out
}

/// Gives each problem the file and line that it is about.
fn placed(error: ClientError, documents: &[Document]) -> Failure {
    let ClientError::Api(mut error) = error else { return error.into() };
    error.problems.iter_mut().for_each(|p| place(p, documents));
    ClientError::Api(error).into()
}

fn place(complaint: &mut Complaint, documents: &[Document]) {
    if let Some(document) = documents.iter().find(|d| d.resource.key().to_string() == complaint.resource) {
        let at = document.error_at(&complaint.path, "");
        complaint.place = Some(match at.column {
            0 => format!("{}:{}", at.file, at.line),
            column => format!("{}:{}:{column}", at.file, at.line),
        });
    }
}

/// The files that are meant, in order.
fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() != "-" && path.is_dir() {
            let before = files.len();
            walk(path, 0, &mut files)?;
            files[before..].sort();
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn walk(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    const MAX_DEPTH: usize = 8;
    const MAX_FILES: usize = 10_000;
    for entry in fs::read_dir(directory).map_err(|e| unreadable(directory, &e))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, depth + 1, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Failure::usage(format!("there are more than {MAX_FILES} files in {}", directory.display())));
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
    Failure::new(exit, "unreadable", format!("{}: {error}", path.display()))
}

/// The resources of a file, or of standard input.
///
/// # Errors
/// What is wrong with it, by line.
pub fn read(path: &Path) -> Result<Vec<Document>, Vec<DocumentError>> {
    let name = path.to_string_lossy().into_owned();
    let told = |message: String| vec![DocumentError { file: name.clone(), line: 0, column: 0, message }];
    let mut bytes = Vec::new();
    let limit = MAX_FILE as u64 + 1;
    let (done, base) = if path.as_os_str() == "-" {
        (std::io::stdin().lock().take(limit).read_to_end(&mut bytes), Path::new("."))
    } else {
        let read = fs::File::open(path).and_then(|f| f.take(limit).read_to_end(&mut bytes));
        (read, documents::directory_of(path))
    };
    done.map_err(|e| told(format!("can't be read: {e}")))?;
    let mut documents = documents::read(&name, &bytes)?;
    // The gateway runs elsewhere: what is relative here would mean something else there.
    let base = std::path::absolute(base).map_err(|e| told(e.to_string()))?;
    documents.iter_mut().for_each(|d| d.resolve_paths(&base));
    Ok(documents)
}
