//! What is to be connected, and what of it this person may do.

use std::collections::BTreeMap;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use portcullis_credential::ConnectLink;
use portcullis_identity::{
    Whose,
    permission::{Action, may},
};
use portcullis_model::{
    Fault, Name, Side, Subject,
    spec::{FieldType, McpServer},
};

use crate::web::{
    Visitor, Web,
    form::Fields,
    layout,
    owners::{self, Choice},
    servers::is_connectable,
    state::State,
    view,
};

/// What a form calls the fields of the server.
const PREFIX: &str = "f.";

/// What brought somebody here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// They looked at the server's page.
    Page,
    /// A call of theirs, or of their team's program, found no account.
    Call,
}

/// A connection to be made or mended.
pub struct Task {
    /// Why.
    pub wish: Wish,
    /// Where the form goes.
    pub action: String,
    /// The server.
    pub server: Name,
    /// What it is.
    pub spec: McpServer,
    /// For whom it can be connected here.
    pub choices: Vec<Choice>,
    /// The connection that is mended; none where a new one is made.
    pub connection: Option<Name>,
    /// The values that it has, which are no secrets.
    pub values: BTreeMap<String, String>,
    /// The origin that it was made for, where the server is elsewhere now.
    pub moved_from: Option<String>,
}

/// Whom a connection serves, where that is nobody's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether it serves its owner only.
    pub owner_only: bool,
    /// What people read.
    pub sentence: &'static str,
}

impl Task {
    /// From the server's page.
    ///
    /// # Errors
    /// The page that says why not.
    pub fn of_server(web: &Web, visitor: &Visitor, name: &str, connection: Option<&str>) -> Result<Self, Response> {
        let fleet = web.registry.snapshot();
        let tenant = &visitor.principal.tenant;
        let found = name.parse::<Name>().ok().and_then(|name| Some((fleet.server(tenant, &name)?.spec.clone(), name)));
        let Some((spec, server)) = found else { return Err(view::not_found(visitor, "server")) };
        let action = format!("/servers/{server}/connect");
        let choices = owners::choices(web, &visitor.principal);
        let task = Self::new(Wish::Page, action, server, spec, choices);
        match connection {
            None => task.checked(visitor),
            Some(connection) => {
                let mended = connection.parse().ok().and_then(|name| task.mending(web, visitor, &name));
                mended.ok_or_else(|| view::not_found(visitor, "connection"))?.checked(visitor)
            }
        }
    }

    /// From the link that a call was answered with.
    ///
    /// # Errors
    /// The page that says why not. Somebody for whom the link is not learns whom it is for, and nothing else.
    pub fn of_link(web: &Web, visitor: &Visitor, text: &str) -> Result<Self, Response> {
        let link = ConnectLink::open(&web.sealer, text, view::now_ms()).map_err(|error| {
            web.metrics.sealed_rejected("connect-link", error.as_str());
            let fault = Fault::new(Side::Caller, "invalid-link", "this link is unknown or expired")
                .next("Go back to your client and call again: the answer has a new link");
            (StatusCode::NOT_FOUND, layout::fault(Some(visitor), &fault)).into_response()
        })?;
        let principal = &visitor.principal;
        // An external person has no resource, and is told by issuer and subject alone.
        let whose = owners::whose(web, &principal.tenant, &link.wanted);
        let opens = |whose: &Whose| may(principal, &Action::OpenLink(whose));
        if link.tenant != principal.tenant || !whose.as_ref().is_some_and(opens) {
            return Err(foreign(visitor, &link));
        }
        let fleet = web.registry.snapshot();
        let Some(found) = fleet.server(&link.tenant, &link.server) else {
            return Err(view::not_found(visitor, "server"));
        };
        let choices = owners::serving(web, principal, &link.wanted);
        let task = Self::new(Wish::Call, format!("/connect/{text}"), link.server, found.spec.clone(), choices);
        // One that somebody else has to mend leaves the choice of connecting another.
        let mended = link.connection.and_then(|name| task.mending(web, visitor, &name));
        mended.unwrap_or(task).checked(visitor)
    }

    fn new(wish: Wish, action: String, server: Name, spec: McpServer, choices: Vec<Choice>) -> Self {
        let (connection, values, moved_from) = (None, BTreeMap::new(), None);
        Self { wish, action, server, spec, choices, connection, values, moved_from }
    }

    /// The same for a connection that exists, if this person may give it new secrets.
    fn mending(&self, web: &Web, visitor: &Visitor, name: &Name) -> Option<Self> {
        let fleet = web.registry.snapshot();
        let connection = fleet.connection(&visitor.principal.tenant, name)?;
        let owner = connection.spec.owner.subject();
        if connection.spec.server != self.server || !owners::may_install(web, &visitor.principal, &owner) {
            return None;
        }
        let origin = portcullis_store::registry::server_origin(&self.spec);
        Some(Self {
            wish: self.wish,
            action: self.action.clone(),
            server: self.server.clone(),
            spec: self.spec.clone(),
            choices: vec![Choice::of(&visitor.principal, &owner)],
            connection: Some(name.clone()),
            values: connection.spec.values.clone(),
            moved_from: connection.spec.origin.clone().filter(|was| *was != origin),
        })
    }

    /// There is something to connect, and somebody to connect it for.
    fn checked(self, visitor: &Visitor) -> Result<Self, Response> {
        if !is_connectable(&self.spec) {
            let message = format!("{} asks for nothing, so there is nothing to connect", self.server);
            return Err(view::forbidden(visitor, message, "Its tools work without an account"));
        }
        if self.choices.is_empty() {
            let message = format!("you may not connect {} for anybody", self.server);
            let next = "Ask somebody who administers your team, or your operator, to connect it";
            return Err(view::forbidden(visitor, message, next));
        }
        Ok(self)
    }

    /// The owner that was chosen, or the only one there is.
    pub fn choice(&self, asked: Option<&str>) -> Option<&Choice> {
        match (asked, &self.choices[..]) {
            (Some(asked), choices) => choices.iter().find(|c| c.owner.to_string() == asked),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// The connection that this owner has already and that works, where none is mended.
    pub fn connected(&self, web: &Web, visitor: &Visitor, choice: &Choice) -> Option<Name> {
        if self.connection.is_some() {
            return None;
        }
        let tenant = &visitor.principal.tenant;
        let fleet = web.registry.snapshot();
        let mut connections = fleet.connections_of(tenant, &self.server);
        let found = connections.find(|c| c.spec.owner.subject() == choice.owner)?;
        (State::of(web, tenant, &found.metadata.name, &self.server) == State::Ok).then(|| found.metadata.name.clone())
    }

    /// Whom a connection of this owner serves, where that is nobody's choice.
    pub fn rule(&self, owner: &Subject) -> Option<Rule> {
        let rule = |owner_only, sentence| Some(Rule { owner_only, sentence });
        match owner {
            Subject::Organization => rule(false, "An account of the organization serves everybody in it."),
            Subject::Agent(_) => rule(true, "An account of an agent serves that agent only."),
            _ if self.spec.credential.as_ref().is_some_and(|need| need.owner_only) => {
                rule(true, "A rule of this server holds: an account serves its owner only, and nobody else's calls.")
            }
            _ => None,
        }
    }

    /// The values and secrets of a form. What was left empty was not given.
    pub fn given(&self, fields: &Fields) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let (mut values, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in fields.iter() {
            let Some(name) = name.strip_prefix(PREFIX) else { continue };
            let field = self.spec.field(name);
            // Browsers send line breaks as two characters; what is copied often has a blank at its end.
            let value = match field.map(|f| f.kind) {
                Some(FieldType::Text) => value.replace("\r\n", "\n"),
                _ => value.trim().to_owned(),
            };
            if value.is_empty() {
                continue;
            }
            let into = if field.is_some_and(|f| f.sensitive) { &mut secrets } else { &mut values };
            into.insert(name.to_owned(), value);
        }
        (values, secrets)
    }
}

/// The name of a server's field in the form.
pub fn name(field: &str) -> String {
    format!("{PREFIX}{field}")
}

/// The page for somebody whom the link is not for.
fn foreign(visitor: &Visitor, link: &ConnectLink) -> Response {
    let fault = if link.tenant == visitor.principal.tenant {
        let whom = match &link.wanted {
            Subject::User(name) => format!("the user {name}"),
            Subject::Team(name) => format!("the team {name}"),
            Subject::Agent(name) => format!("the agent {name}, by somebody who administers its team"),
            Subject::Organization => "the organization, by one of its administrators".to_owned(),
            Subject::External { .. } | Subject::Anonymous => "another person".to_owned(),
        };
        let you = view::title(layout::name(visitor));
        Fault::new(Side::Caller, "not-your-link", format!("this link is for {whom}, and you are signed in as {you}"))
            .next("Sign in as who it is for, or send it to them")
    } else {
        Fault::new(Side::Caller, "not-your-link", "this link is not for you")
    };
    (StatusCode::FORBIDDEN, layout::fault(Some(visitor), &fault)).into_response()
}
