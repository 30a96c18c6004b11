//! What commands print: a table for people, JSON or YAML for programs.

use std::{
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::ValueEnum;
use portcullis_console::documents;
use portcullis_model::text::shown;
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// How answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// JSON, one document.
    Json,
    /// YAML, one document or, of a list of resources, several.
    Yaml,
}

/// Prints text as it is. A closed pipe, such as that of `head`, is no failure.
///
/// # Errors
/// Where standard output fails.
pub fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(Failure::from),
    }
}

/// Prints one value: by `table` for people, otherwise as it is.
///
/// # Errors
/// Where standard output fails.
pub fn one<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    match format {
        Format::Table => text(&table(value)),
        Format::Json => text(&json(value)?),
        Format::Yaml => text(&yaml(std::slice::from_ref(value))?),
    }
}

/// Prints a list: JSON wraps it as `{"items": [...]}`, YAML prints a document for each item.
///
/// # Errors
/// Where standard output fails.
pub fn list<T: Serialize>(format: Format, items: &[T], table: impl FnOnce(&[T]) -> String) -> Result<(), Failure> {
    match format {
        Format::Table => text(&table(items)),
        Format::Json => text(&json(&serde_json::json!({ "items": items }))?),
        Format::Yaml => text(&yaml(items)?),
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::new(Exit::Failure, "output", e.to_string()))?;
    Ok(text + "\n")
}

fn yaml<T: Serialize>(items: &[T]) -> Result<String, Failure> {
    documents::write(items).map_err(|e| Failure::new(Exit::Failure, "output", e.to_string()))
}

/// Columns, as wide as their widest cell. Characters that move a terminal's cursor or turn a line round are left out.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let clean = |cell: &str| shown(cell, usize::MAX);
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .chain([head[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &[&str]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        out.push_str(padded.join("  ").trim_end());
        out.push('\n');
    };
    line(head);
    for row in &rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    out
}

/// A time in the past or the future as people say it: `3h ago`, `in 5d`, `never` for none.
pub fn when(ms: Option<u64>) -> String {
    let Some(ms) = ms else { return "never".to_owned() };
    let at = UNIX_EPOCH + Duration::from_millis(ms);
    match SystemTime::now().duration_since(at) {
        Ok(past) => format!("{} ago", span(past)),
        Err(future) => format!("in {}", span(future.duration())),
    }
}

/// A duration in its largest unit, rounded: what was made for 90 days a moment ago ends in 90, not 89.
pub fn span(duration: Duration) -> String {
    let in_units = |unit: u64| duration.as_secs().saturating_add(unit / 2) / unit;
    match duration.saturating_add(Duration::from_millis(500)).as_secs() {
        s if s < 120 => format!("{s}s"),
        s if s < 7200 => format!("{}m", in_units(60)),
        s if s < 172_800 => format!("{}h", in_units(3600)),
        _ => format!("{}d", in_units(86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_hold_no_control_characters() {
        let rows = [vec!["a".to_owned(), "x\u{1b}[2J\u{202e}y".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "B"], &rows), "NAME    B\na       x[2Jy\nlonger\n");
    }

    #[test]
    fn durations_are_rough() {
        assert_eq!(span(Duration::from_secs(119)), "119s");
        assert_eq!(span(Duration::from_millis(59_900)), "60s");
        assert_eq!(span(Duration::from_secs(7199)), "120m");
        assert_eq!(span(Duration::from_secs(86_400 * 90 - 1)), "90d");
        assert_eq!(span(Duration::from_secs(86_400 * 9)), "9d");
    }
}
