//! The demo server's tools.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::time;

/// The most notes; the oldest go first.
const MAX_NOTES: usize = 100;
/// The longest note, in bytes.
const MAX_NOTE: usize = 4096;

/// What tools remember: notes, as long as the process runs.
#[derive(Default)]
pub(super) struct Tools {
    notes: VecDeque<(u64, String, String)>,
    next: u64,
}

/// The tools as `tools/list` tells them.
pub(super) fn list() -> Value {
    json!([
        {
            "name": "time_now",
            "title": "What time it is",
            "description": "The current date and time at a UTC offset.",
            "inputSchema": {
                "type": "object",
                "properties": { "utc_offset": {
                    "type": "string", "pattern": "^(Z|[+-][0-9]{2}:[0-9]{2})$", "default": "Z",
                    "description": "Such as Z, +05:30 or -08:00",
                } },
                "additionalProperties": false,
            },
            "outputSchema": {
                "type": "object",
                "properties": { "time": { "type": "string" }, "weekday": { "type": "string" }, "unix": { "type": "integer" } },
                "required": ["time", "weekday", "unix"],
            },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        },
        {
            "name": "text_stats",
            "title": "Figures about a text",
            "description": "How many characters, bytes, words and lines a text has.",
            "inputSchema": {
                "type": "object",
                "properties": { "text": { "type": "string" } },
                "required": ["text"],
                "additionalProperties": false,
            },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        },
        {
            "name": "notes_add",
            "title": "Note something",
            "description": "Keeps a note as long as this server runs; the oldest of more than 100 goes.",
            "inputSchema": {
                "type": "object",
                "properties": { "text": { "type": "string", "maxLength": MAX_NOTE } },
                "required": ["text"],
                "additionalProperties": false,
            },
            "annotations": { "readOnlyHint": false, "destructiveHint": false, "openWorldHint": false },
        },
        {
            "name": "notes_list",
            "title": "Notes",
            "description": "The notes that were added, the oldest first.",
            "inputSchema": { "type": "object", "properties": {}, "additionalProperties": false },
            "annotations": { "readOnlyHint": true, "openWorldHint": false },
        },
    ])
}

impl Tools {
    /// What a tool answers, or says is wrong with its arguments; none where there is no such tool.
    pub(super) fn call(&mut self, name: &str, arguments: &Value) -> Option<Result<Value, String>> {
        match name {
            "time_now" => Some(time_now(arguments)),
            "text_stats" => Some(text(arguments).map(stats)),
            "notes_add" => Some(text(arguments).and_then(|t| self.add(t))),
            "notes_list" => Some(Ok(self.list())),
            _ => None,
        }
    }

    fn add(&mut self, text: &str) -> Result<Value, String> {
        if text.len() > MAX_NOTE {
            return Err(format!("a note has at most {MAX_NOTE} bytes"));
        }
        self.next += 1;
        self.notes.push_back((self.next, time::rfc3339(now(), 0), text.to_owned()));
        if self.notes.len() > MAX_NOTES {
            self.notes.pop_front();
        }
        Ok(json!({ "number": self.next, "notes": self.notes.len() }))
    }

    fn list(&self) -> Value {
        let note = |(number, at, text): &(u64, String, String)| json!({ "number": number, "at": at, "text": text });
        json!({ "notes": self.notes.iter().map(note).collect::<Vec<_>>() })
    }
}

fn time_now(arguments: &Value) -> Result<Value, String> {
    let offset = match arguments.get("utc_offset") {
        None | Some(Value::Null) => 0,
        Some(text) => text
            .as_str()
            .and_then(time::parse_offset)
            .ok_or("utc_offset: write Z, +HH:MM or -HH:MM, such as +05:30".to_owned())?,
    };
    let unix = now();
    Ok(json!({ "time": time::rfc3339(unix, offset), "weekday": time::weekday(unix, offset), "unix": unix }))
}

fn stats(text: &str) -> Value {
    json!({
        "characters": text.chars().count(),
        "bytes": text.len(),
        "words": text.split_whitespace().count(),
        "lines": text.lines().count(),
    })
}

fn text(arguments: &Value) -> Result<&str, String> {
    arguments.get("text").and_then(Value::as_str).ok_or("text: write a text".to_owned())
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
