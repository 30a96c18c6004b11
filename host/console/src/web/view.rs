//! Small parts that several pages show: times, states, pagers, and errors tied to their fields.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use maud::{Markup, html};
use portcullis_model::{
    Fault, Side,
    text::{deceives, shown},
};

use super::{Visitor, layout};
use crate::api::ApiError;

/// The most characters of a title or name that somebody else wrote.
const MAX_TITLE: usize = 120;
/// The most characters of a description.
const MAX_TEXT: usize = 2000;

/// What somebody wrote as a title, on one line and without what deceives.
pub fn title(text: &str) -> String {
    shown(text, MAX_TITLE)
}

/// What somebody wrote as a longer text. Line breaks become spaces.
pub fn text(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { ' ' } else { c }).filter(|c| !deceives(*c)).take(MAX_TEXT).collect()
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A moment (milliseconds since 1970) as people say it, with the exact time behind it.
pub fn moment(at_ms: u64) -> Markup {
    let exact = portcullis_telemetry::rfc3339(Duration::from_secs(at_ms / 1000));
    html! { time datetime=(exact) title=(exact) { (relative(at_ms, now_ms())) } }
}

/// `5 minutes ago`, `in 3 days`.
fn relative(at_ms: u64, now_ms: u64) -> String {
    let seconds = at_ms.abs_diff(now_ms) / 1000;
    let (number, unit) = match seconds {
        0..60 => return if at_ms > now_ms { "in less than a minute" } else { "just now" }.to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    if at_ms > now_ms { format!("in {number} {unit}{plural}") } else { format!("{number} {unit}{plural} ago") }
}

/// A form's errors, in front of it: each leads to its field. `wrong` are the fields' ids and what is wrong with them.
pub fn summary(wrong: &[(String, String)]) -> Markup {
    html! {
        @if !wrong.is_empty() {
            div class="notice error" role="alert" aria-labelledby="summary-title" tabindex="-1" id="summary" {
                h2 id="summary-title" { "There is a problem" }
                ul { @for (id, what) in wrong { li { a href={ "#" (id) } { (what) } } } }
            }
        }
    }
}

/// The error of one field, to be named by the field's `aria-describedby` as [`error_id`].
pub fn field_error(id: &str, wrong: &[(String, String)]) -> Markup {
    html! {
        @for (_, what) in wrong.iter().filter(|(field, _)| field == id) {
            span class="wrong" id=(error_id(id)) { span class="unseen" { "Error: " } (what) }
        }
    }
}

/// The id of a field's error.
pub fn error_id(id: &str) -> String {
    format!("{id}-wrong")
}

/// What the admin API would say, as a page says it.
pub fn fault(error: &ApiError) -> Fault {
    let side = match &*error.side {
        "caller" => Side::Caller,
        "policy" => Side::Policy,
        "server" => Side::Server,
        _ => Side::Gateway,
    };
    let code = match &*error.code {
        "not-found" => "not-found",
        "conflict" => "conflict",
        "refused" => "refused",
        "too-large" => "too-large",
        "store-full" => "store-full",
        "store-unavailable" => "store-unavailable",
        "audit-failed" => "audit-failed",
        _ => "refused",
    };
    let words = |text: &str| text.trim_end_matches('.').to_owned();
    let mut message = words(&error.message);
    for problem in &error.problems {
        message.push_str(&format!("; {}", words(&problem.message)));
    }
    Fault::new(side, code, message)
}

/// The answer for what is not there, or is nobody's business: the two can't be told apart.
pub fn not_found(visitor: &Visitor, what: &str) -> Response {
    let fault = Fault::new(Side::Caller, "not-found", format!("There is no such {what}, or it is not yours to see"));
    (StatusCode::NOT_FOUND, layout::fault(Some(visitor), &fault)).into_response()
}

/// The answer to whoever may not do something.
pub fn forbidden(visitor: &Visitor, message: impl Into<String>, next: impl Into<String>) -> Response {
    let fault = Fault::new(Side::Policy, "not-allowed", message.into()).next(next.into());
    (StatusCode::FORBIDDEN, layout::fault(Some(visitor), &fault)).into_response()
}

/// An error of a service behind the page.
pub fn failed(visitor: &Visitor, error: &ApiError) -> Response {
    let fault = fault(error);
    let status = match fault.code {
        "not-found" => StatusCode::NOT_FOUND,
        "conflict" => StatusCode::CONFLICT,
        _ if fault.side == Side::Gateway => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    (status, layout::fault(Some(visitor), &fault)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_said_as_people_say_them() {
        let now = 1_000_000_000_000;
        for (at, said) in [
            (now, "just now"),
            (now - 59_999, "just now"),
            (now - 60_000, "1 minute ago"),
            (now - 7_200_000, "2 hours ago"),
            (now + 86_400_000, "in 1 day"),
            (now + 30_000, "in less than a minute"),
        ] {
            assert_eq!(relative(at, now), said);
        }
    }

    #[test]
    fn what_others_wrote_is_shown_as_text() {
        let evil = "<script>alert(1)</script>\u{202e}";
        let shown = html! { p { (title(evil)) } }.into_string();
        assert_eq!(shown, "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>");
        assert_eq!(text("one\ntwo\u{1b}"), "one two");
    }
}
