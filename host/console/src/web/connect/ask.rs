//! The pages that ask: for whom, then for what the server wants and who may use it.

use maud::{Markup, html};
use portcullis_model::{
    Subject,
    spec::{Field, FieldType},
};

use super::task::{self, Task, Wish};
use crate::web::{
    Visitor, Web,
    form::{self, Fields},
    layout::{self, Page},
    owners::Choice,
    servers::{label, place},
    view,
};

/// The id of the question whose calls may run under it.
pub const OWNER_ONLY: &str = "owner-only";

/// The id of a server's field on the page.
pub fn id(field: &str) -> String {
    format!("f-{field}")
}

/// The page that asks next, with what was given before and what is wrong with it. Secrets are never given back.
pub fn page(
    web: &Web,
    visitor: &Visitor,
    task: &Task,
    owner: Option<&str>,
    given: Option<&Fields>,
    wrong: &[(String, String)],
) -> Page {
    let server = label(&task.server, &task.spec);
    let body = html! {
        @if task.wish == Wish::Call {
            p { "A call needs an account at " strong { (server) } ". Once it is connected, the same call works." }
        }
        @match task.choice(owner) {
            Some(choice) => {
                @if given.is_none() { @if let Some(name) = task.connected(web, visitor, choice) {
                    div class="notice" { p { "An account is connected already: " a href={ "/connections/" (name) } { (name) } ". If a call asked for \
                        this, go back and try it again. What you give here takes the place of what was given." } }
                } }
                (ask(visitor, task, choice, given, wrong))
            }
            None => (for_whom(task)),
        }
    };
    let verb = if task.connection.is_some() { "Connect again: " } else { "Connect " };
    layout::page(&format!("{verb}{server}"), Some(visitor), body)
}

fn for_whom(task: &Task) -> Markup {
    html! {
        h2 { "For whom?" }
        ul class="plain" { @for choice in &task.choices {
            li class="card" {
                @let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("owner", &choice.owner.to_string()).finish();
                a href={ (task.action) "?" (query) } { (choice.label) }
                p class="soft" { (choice.hint) }
            }
        } }
    }
}

fn ask(visitor: &Visitor, task: &Task, choice: &Choice, given: Option<&Fields>, wrong: &[(String, String)]) -> Markup {
    let signs_in = task.spec.oauth().is_some();
    let secrets_again = given.is_some() && task.spec.fields.iter().any(|f| f.sensitive);
    html! {
        (view::summary(wrong))
        @if let Some(was) = &task.moved_from {
            div class="notice warn" {
                p { "This was connected for " code { (was) } ", and the server is at " code { (place(&task.spec)) } " now. "
                    "Connect again only if the new address is right." }
            }
        }
        dl {
            dt { "For" } dd { (choice.label) @if task.choices.len() > 1 { " (" a href=(task.action) { "change" } ")" } }
            dt { "Goes to" } dd { (place(&task.spec)) }
            @if let Some(connection) = &task.connection { dt { "Connection" } dd { (connection) } }
        }
        form class="stack" method="post" action=(task.action) novalidate {
            (form::token(&visitor.csrf))
            input type="hidden" name="owner" value=(choice.owner);
            @if let Some(connection) = &task.connection { input type="hidden" name="connection" value=(connection); }
            @for field in &task.spec.fields { (input(task, field, given, wrong)) }
            (whose_calls(task, choice, given, wrong))
            @if secrets_again { p class="hint" { "Secrets are not shown again: give them once more." } }
            div { button { @if signs_in { "Go on to sign in" } @else { "Connect" } } }
        }
        @if signs_in {
            p class="hint" { "You are sent to the server's own sign-in page. Afterwards you see here which account it is, before anything is kept." }
        } @else {
            p class="hint" { "What you give is sealed here, sent to the server only, and never shown again." }
        }
    }
}

fn input(task: &Task, field: &Field, given: Option<&Fields>, wrong: &[(String, String)]) -> Markup {
    let (id, name) = (id(&field.name), task::name(&field.name));
    let before = given.and_then(|g| g.get(&name)).or(task.values.get(&field.name).map(String::as_str));
    let value = if field.sensitive { None } else { before.or(field.default.as_deref()) }.unwrap_or_default();
    let is_wrong = wrong.iter().any(|(f, _)| *f == id);
    let mut described = Vec::new();
    if field.description.is_some() {
        described.push(format!("{id}-hint"));
    }
    if is_wrong {
        described.push(view::error_id(&id));
    }
    let described = (!described.is_empty()).then(|| described.join(" "));
    let (described, invalid) = (described.as_deref(), is_wrong.then_some("true"));
    let required = field.required.then_some("true");
    let kind = match field.kind {
        _ if field.sensitive => "password",
        FieldType::Url => "url",
        FieldType::Email => "email",
        _ => "text",
    };
    let mode = (field.kind == FieldType::Number).then_some("decimal");
    html! {
        div {
            label for=(id) { (view::title(field.label())) @if !field.required { span class="soft" { " (optional)" } } }
            @if let Some(description) = &field.description { span class="hint" id={ (id) "-hint" } { (view::text(description)) } }
            (view::field_error(&id, wrong))
            @if !field.options.is_empty() || field.kind == FieldType::Boolean {
                select id=(id) name=(name) aria-required=[required] aria-describedby=[described] aria-invalid=[invalid] {
                    @if field.default.is_none() { option value="" { "Choose" } }
                    @if field.kind == FieldType::Boolean {
                        @for (value_of, said) in [("true", "Yes"), ("false", "No")] {
                            option value=(value_of) selected[value == value_of] { (said) }
                        }
                    }
                    @for option in &field.options { option value=(option) selected[value == option] { (view::title(option)) } }
                }
            } @else if field.kind == FieldType::Text {
                textarea id=(id) name=(name) rows="6" spellcheck="false" autocomplete="off" class=[field.sensitive.then_some("masked")]
                    aria-required=[required] aria-describedby=[described] aria-invalid=[invalid] { (value) }
            } @else {
                input id=(id) name=(name) type=(kind) inputmode=[mode] value=(value) spellcheck="false" autocomplete="off" autocapitalize="off"
                    aria-required=[required] aria-describedby=[described] aria-invalid=[invalid];
            }
        }
    }
}

/// Whose calls may run under it: a rule that holds, or a choice of which nothing is made before (security.md 20).
fn whose_calls(task: &Task, choice: &Choice, given: Option<&Fields>, wrong: &[(String, String)]) -> Markup {
    if let Some(rule) = task.rule(&choice.owner) {
        return html! { p class="notice" { (rule.sentence) } };
    }
    let (legend, only, also) = match &choice.owner {
        Subject::Team(_) => (
            "Whose calls may run under this account of the team?",
            ("Only the team's", "Calls of its people, and those that come with a token of the team."),
            (
                "Others' too",
                "Also calls of the team's agents, those that come with a token of the organization, and those of a gateway that an operator assigns it to.",
            ),
        ),
        _ => (
            "Whose calls may run under this account?",
            ("Only mine", "Calls that you make yourself, or that come with a token of yours."),
            (
                "Also those of my teams and of the organization",
                "Calls that come with a token of a team of yours, or of the organization, may act as you where they have no account of their own. You see each such use at this connection.",
            ),
        ),
    };
    let is_wrong = wrong.iter().any(|(f, _)| f == OWNER_ONLY);
    let chosen = given.and_then(|g| g.get("owner_only"));
    let described = is_wrong.then(|| view::error_id(OWNER_ONLY));
    html! {
        fieldset id=(OWNER_ONLY) tabindex="-1" aria-describedby=[described] {
            legend { (legend) }
            (view::field_error(OWNER_ONLY, wrong))
            @for (value, (said, hint)) in [("true", only), ("false", also)] {
                label class="choice" {
                    input type="radio" name="owner_only" value=(value) checked[chosen == Some(value)] required;
                    " " (said)
                    span class="hint" { (hint) }
                }
            }
        }
    }
}
