//! Installing a server for somebody: the one way in which pages, admin API and command line make a connection.
//!
//! Values are checked against what the server asks for before anything is stored; secrets are sealed, and come together
//! with the connection or not at all. Whoever asks has to be one who may do it for that owner (`permission`).

use std::collections::BTreeMap;

use portcullis_credential::{Given, SecretsError, misfits};
use portcullis_identity::Action;
use portcullis_model::{
    Door, Kind, Metadata, Name, Resource, ResourceKey, Secret, Side, Spec, Subject,
    spec::{Connection, McpServer, Owner},
};
use portcullis_store::{
    Fleet,
    registry::{Outcome, server_origin},
};

use crate::{
    api::{ApiError, Complaint, ConnectRequest, Connected},
    server::{
        Admin, Who,
        reply::{complaint, not_found},
    },
};

/// How many names are tried for a connection that was not given one.
const NAMES: usize = 10;

/// One at a time in this process: of two owners who come at once, the second finds the name of the first taken.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Connects a server for an owner, and writes down who did it.
///
/// # Errors
/// What is wrong with the request, with a [`Complaint`] for each field (its path is the field's name); what the store, the
/// vault or the audit stream says.
pub(crate) async fn install(
    admin: &Admin,
    who: &Who,
    tenant: &Name,
    request: ConnectRequest,
) -> Result<Connected, ApiError> {
    if let Ok(owner) = request.owner.parse::<Subject>() {
        // Here, so that no door forgets it.
        let whose = admin.whose(tenant, &owner);
        who.must(&Action::Install(&whose), &format!("connect {} for {owner}", request.server))?;
    }
    let what = format!("McpServer/{} for {}", request.server, request.owner.chars().take(200).collect::<String>());
    let attempt = admin.attempt(who, "connect", tenant, what).await?;
    let done = {
        let _turn = TURN.lock().await;
        make(admin, tenant, request).await
    };
    admin.settle().await;
    attempt.end(done.is_ok()).await?;
    done
}

async fn make(admin: &Admin, tenant: &Name, mut request: ConnectRequest) -> Result<Connected, ApiError> {
    let key = |kind, name: &Name| ResourceKey { tenant: tenant.clone(), kind, name: name.clone() };
    let server_key = key(Kind::McpServer, &request.server);
    let fleet = admin.registry.snapshot();
    let server = fleet.server(tenant, &request.server).ok_or_else(|| not_found(&server_key))?;
    if server.spec.oauth().is_some() {
        let message = format!("{server_key} is connected by signing in at its authorization server");
        return Err(ApiError::new(Side::Caller, "needs-sign-in", message)
            .next(format!("Open the link of `portcullis connect {} --owner {}`.", request.server, request.owner)));
    }
    if server.spec.fields.is_empty() {
        let message = format!("{server_key} asks for nothing, so there is nothing to connect: its calls work without");
        return Err(ApiError::new(Side::Caller, "nothing-to-connect", message).next(
            "If calls of it have to carry a credential, name it in the server's `fields` and `credential` \
             (docs/configuration.md), apply that, and connect then.",
        ));
    }
    let subject: Subject = request.owner.parse().map_err(|e: portcullis_model::principal::InvalidSubject| {
        ApiError::new(Side::Caller, "invalid-owner", e.to_string())
    })?;
    let owner = owner(&subject)?;
    exists(&fleet, tenant, &owner)?;
    let name = match request.name.take() {
        Some(name) => name,
        None => default_name(&fleet, tenant, &request.server, &owner)?,
    };
    let connection_key = key(Kind::Connection, &name);
    let existing = fleet.connection(tenant, &name);
    if let Some(existing) = &existing
        && (existing.spec.server != request.server || existing.spec.owner != owner)
    {
        let owner = existing.spec.owner.subject();
        let message = format!("{connection_key} connects {} for {owner} already", existing.spec.server);
        return Err(ApiError::new(Side::Caller, "conflict", message).next("Choose another name with --name."));
    }
    let elsewhere: Vec<String> = existing.iter().flat_map(|c| c.spec.secrets.keys().cloned()).collect();
    // What would be sealed under such a name would never be used.
    let kept: Vec<&str> = elsewhere.iter().filter(|f| request.secrets.contains_key(*f)).map(String::as_str).collect();
    if !kept.is_empty() {
        let message = format!("{connection_key} takes {} from where its resource says, not from here", kept.join(", "));
        return Err(ApiError::new(Side::Caller, "kept-elsewhere", message).next(
            "Exchange it there: it is read again by itself. To have it sealed here, take it out of the resource's \
             `secrets` first. An operator can do both.",
        ));
    }
    check_fields(server.spec, &request, &elsewhere, &connection_key)?;

    let secrets: BTreeMap<String, Secret> = std::mem::take(&mut request.secrets)
        .into_iter()
        .map(|(field, value)| (field, Secret::new(value.into_bytes())))
        .collect();
    let sealing = admin.secrets.sealing(tenant, &name, &secrets).map_err(of_secrets)?;
    let origin = server_origin(server.spec);

    // A file says what the connection is, and leaves its secrets to be sealed: only those are ours to write.
    if let Some(existing) = existing.filter(|c| c.metadata.door.as_ref().is_some_and(Door::reads_again)) {
        if request.values != existing.spec.values && !request.values.is_empty() {
            let door = existing.metadata.door.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = format!("the values of {connection_key} stand in {door}: edit them there");
            return Err(ApiError::new(Side::Caller, "refused", message));
        }
        admin.secrets.put(tenant, &name, &secrets).await.map_err(of_secrets)?;
        let origin = existing.spec.origin.clone().unwrap_or(origin);
        return Ok(Connected { connection: name, change: "updated".to_owned(), origin, warnings: Vec::new() });
    }

    let spec = Connection {
        server: request.server.clone(),
        owner,
        values: std::mem::take(&mut request.values),
        secrets: existing.map(|c| c.spec.secrets.clone()).unwrap_or_default(),
        owner_only: request.owner_only,
        // Whoever connects looks at the server as it is now.
        origin: Some(origin.clone()),
    };
    let mut metadata = Metadata::new(tenant.clone(), name.clone());
    if let Some(existing) = existing {
        metadata.labels = existing.metadata.labels.clone();
        metadata.annotations = existing.metadata.annotations.clone();
        // Taken only as it was looked at.
        metadata.revision = existing.metadata.revision;
    }
    let resource = Resource::new(metadata, Spec::Connection(spec));
    let applied = admin.registry.apply_with(vec![resource], Door::Api, false, vec![sealing]).await?;
    let first = applied.into_iter().find(|a| a.key == connection_key);
    let warnings = first.iter().flat_map(|a| a.warnings.iter().map(|w| complaint(&a.key, 0, w))).collect();
    // New secrets are an update, whatever the resource says.
    let created = first.is_some_and(|a| a.change == Outcome::Created);
    let change = if created { "created" } else { "updated" }.to_owned();
    Ok(Connected { connection: name, change, origin, warnings })
}

/// What is wrong with the values and secrets of a request, by field, in the order in which the server asks. Empty also where
/// there is no such server. Quotes no value.
pub(crate) fn wrong(admin: &Admin, tenant: &Name, request: &ConnectRequest) -> Vec<(String, String)> {
    let fleet = admin.registry.snapshot();
    let Some(server) = fleet.server(tenant, &request.server) else { return Vec::new() };
    let existing = request.name.as_ref().and_then(|name| fleet.connection(tenant, name));
    let elsewhere: Vec<String> = existing.iter().flat_map(|c| c.spec.secrets.keys().cloned()).collect();
    problems(server.spec, request, &elsewhere)
}

/// Whether an owner is there.
///
/// # Errors
/// Where there is none of that name.
pub(crate) fn exists(fleet: &Fleet, tenant: &Name, owner: &Owner) -> Result<(), ApiError> {
    let key = |kind, name: &Name| ResourceKey { tenant: tenant.clone(), kind, name: name.clone() };
    let missing = match owner {
        Owner::User(n) => fleet.user(tenant, n).is_none().then(|| key(Kind::User, n)),
        Owner::Team(n) => fleet.team(tenant, n).is_none().then(|| key(Kind::Team, n)),
        Owner::Agent(n) => fleet.agent(tenant, n).is_none().then(|| key(Kind::Agent, n)),
        Owner::Organization(_) => None,
    };
    missing.map_or(Ok(()), |missing| Err(not_found(&missing)))
}

/// Every field that is asked for and no other, each in its place and as the server wants it.
fn check_fields(
    server: &McpServer,
    request: &ConnectRequest,
    elsewhere: &[String],
    key: &ResourceKey,
) -> Result<(), ApiError> {
    let problems = problems(server, request, elsewhere);
    if problems.is_empty() {
        return Ok(());
    }
    Err(misfit(problems, &request.server, key))
}

/// What was given is not what the server asks for.
pub(crate) fn misfit(problems: Vec<(String, String)>, server: &Name, key: &ResourceKey) -> ApiError {
    let mut error = ApiError::new(Side::Caller, "invalid-request", "what was given is not what the server asks for")
        .next(format!("See its fields with `portcullis describe server {server}`."));
    let complaint = |(path, message)| Complaint { resource: key.to_string(), position: 0, path, message, place: None };
    error.problems = problems.into_iter().map(complaint).collect();
    error
}

fn problems(server: &McpServer, request: &ConnectRequest, elsewhere: &[String]) -> Vec<(String, String)> {
    let given = Given {
        values: &request.values,
        secrets: request.secrets.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect(),
        elsewhere: elsewhere.iter().map(String::as_str).collect(),
    };
    misfits(server, &given)
}

pub(crate) fn owner(subject: &Subject) -> Result<Owner, ApiError> {
    match subject {
        Subject::User(name) => Ok(Owner::User(name.clone())),
        Subject::Team(name) => Ok(Owner::Team(name.clone())),
        Subject::Agent(name) => Ok(Owner::Agent(name.clone())),
        Subject::Organization => Ok(Owner::Organization(true)),
        Subject::External { .. } | Subject::Anonymous => {
            Err(ApiError::new(Side::Caller, "invalid-owner", format!("{subject} can't own a connection"))
                .next("Use user:NAME, team:NAME, agent:NAME or organization."))
        }
    }
}

/// `github-alice`, `github-team-blue`, `github-organization`: one connection of a server for each owner. With a number
/// where that is another connection's name already: the user `team-blue` and the team `blue` may both come.
pub(crate) fn default_name(fleet: &Fleet, tenant: &Name, server: &Name, owner: &Owner) -> Result<Name, ApiError> {
    let text = match owner {
        Owner::User(name) => format!("{server}-{name}"),
        other => format!("{server}-{}", other.subject().to_string().replace(':', "-")),
    };
    let too_long = |_| {
        ApiError::new(Side::Caller, "invalid-name", format!("\"{text}\" is too long for a name"))
            .next("Choose one with --name.")
    };
    let first: Name = text.parse().map_err(too_long)?;
    let ours =
        |name: &Name| fleet.connection(tenant, name).is_none_or(|c| c.spec.server == *server && c.spec.owner == *owner);
    let numbered = (2..=NAMES).filter_map(|n| format!("{text}-{n}").parse().ok());
    Ok(std::iter::once(first.clone()).chain(numbered).find(ours).unwrap_or(first))
}

fn of_secrets(error: SecretsError) -> ApiError {
    match error {
        SecretsError::Store(error) => error.into(),
        SecretsError::TooLarge => ApiError::new(Side::Caller, "too-large", error.to_string()),
        SecretsError::Vault { .. } => ApiError::new(Side::Gateway, "vault", error.to_string()),
    }
}

/// Removes a connection and what was sealed for it, and writes down who did it.
///
/// # Errors
/// Where there is none, or it stands in a file; what the store or the audit stream says.
pub(crate) async fn uninstall(admin: &Admin, who: &Who, tenant: &Name, name: &Name) -> Result<(), ApiError> {
    let key = ResourceKey { tenant: tenant.clone(), kind: Kind::Connection, name: name.clone() };
    let attempt = admin.attempt(who, "delete", tenant, key.to_string()).await?;
    let deleted = admin.registry.delete(&key, &Door::Api).await;
    admin.settle().await;
    attempt.end(deleted.is_ok()).await?;
    deleted?;
    Ok(())
}
