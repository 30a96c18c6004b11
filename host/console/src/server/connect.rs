//! Connecting a server: values checked against what the server asks for, secrets sealed, both written in one batch.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use portcullis_credential::SecretsError;
use portcullis_model::{
    Door, Kind, Metadata, Name, Resource, ResourceKey, Secret, Side, Spec, Subject,
    spec::{Connection, McpServer, Owner},
};
use portcullis_store::registry::{Outcome, server_origin};

use super::{
    Admin, Tenant, Who,
    reply::{Answer, Body, complaint, not_found},
};
use crate::api::{ApiError, Complaint, ConnectRequest, Connected};

pub(super) async fn connect(
    State(admin): State<Admin>,
    Tenant(tenant): Tenant,
    who: Who,
    Body(request): Body<ConnectRequest>,
) -> Answer<Connected> {
    let what = format!("McpServer/{} for {}", request.server, request.owner.chars().take(200).collect::<String>());
    let done = make(&admin, &tenant, request).await;
    let outcome = if done.is_ok() { "done" } else { "refused" };
    admin.settle().await;
    admin.record(&who, "connect", &tenant, &what, outcome).await?;
    Ok(Json(done?))
}

async fn make(admin: &Admin, tenant: &Name, mut request: ConnectRequest) -> Result<Connected, ApiError> {
    let key = |kind, name: &Name| ResourceKey { tenant: tenant.clone(), kind, name: name.clone() };
    let server_key = key(Kind::McpServer, &request.server);
    let fleet = admin.registry.snapshot();
    let server = fleet.server(tenant, &request.server).ok_or_else(|| not_found(&server_key))?;
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
    let missing = match &owner {
        Owner::User(n) => fleet.user(tenant, n).is_none().then(|| key(Kind::User, n)),
        Owner::Team(n) => fleet.team(tenant, n).is_none().then(|| key(Kind::Team, n)),
        Owner::Agent(n) => fleet.agent(tenant, n).is_none().then(|| key(Kind::Agent, n)),
        Owner::Organization(_) => None,
    };
    if let Some(missing) = missing {
        return Err(not_found(&missing));
    }
    let name = match request.name.take() {
        Some(name) => name,
        None => default_name(&request.server, &subject)?,
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
    check_fields(server.spec, &request, &elsewhere, &connection_key)?;

    let secrets: BTreeMap<String, Secret> = std::mem::take(&mut request.secrets)
        .into_iter()
        .map(|(field, value)| (field, Secret::new(value.into_bytes())))
        .collect();
    let sealing = admin.secrets.sealing(tenant, &name, &secrets).map_err(of_secrets)?;
    let origin = server_origin(server.spec);

    // A file says what the connection is, and leaves its secrets to be sealed: only those are ours to write.
    if let Some(existing) = existing.filter(|c| matches!(c.metadata.door, Some(Door::File(_)))) {
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

/// Every field that is asked for and no other, each in its place.
fn check_fields(
    server: &McpServer,
    request: &ConnectRequest,
    elsewhere: &[String],
    key: &ResourceKey,
) -> Result<(), ApiError> {
    let mut problems = Vec::new();
    let mut problem = |field: &str, message: String| {
        problems.push(Complaint {
            resource: key.to_string(),
            position: 0,
            path: field.to_owned(),
            message,
            place: None,
        });
    };
    let given = request.values.keys().map(|f| (f, false)).chain(request.secrets.keys().map(|f| (f, true)));
    for (name, secret) in given {
        match server.field(name) {
            None => {
                let known: Vec<&str> = server.fields.iter().map(|f| f.name.as_str()).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                problem(name, format!("the server asks for no such field; it asks for: {known}"));
            }
            Some(field) if field.sensitive && !secret => {
                problem(name, "is a secret: give it at the prompt or on standard input".to_owned());
            }
            Some(field) if !field.sensitive && secret => problem(name, "is no secret: give it as a value".to_owned()),
            Some(_) => {}
        }
    }
    for field in &server.fields {
        let given = request.values.contains_key(&field.name)
            || request.secrets.get(&field.name).is_some_and(|v| !v.is_empty())
            || elsewhere.contains(&field.name);
        let placed = server.credential.iter().flat_map(|c| &c.place).any(|p| p.field == field.name);
        if !given && field.default.is_none() && (field.required || (field.sensitive && placed)) {
            problem(&field.name, "is missing".to_owned());
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let mut error = ApiError::new(Side::Caller, "invalid-request", "what was given is not what the server asks for")
        .next(format!("See its fields with `portcullis describe server {}`.", request.server));
    error.problems = problems;
    Err(error)
}

fn owner(subject: &Subject) -> Result<Owner, ApiError> {
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

/// `github-alice`, `github-team-blue`, `github-organization`: one connection of a server for each owner.
fn default_name(server: &Name, subject: &Subject) -> Result<Name, ApiError> {
    let text = match subject {
        Subject::User(name) => format!("{server}-{name}"),
        other => format!("{server}-{}", other.to_string().replace(':', "-")),
    };
    text.parse().map_err(|_| {
        ApiError::new(Side::Caller, "invalid-name", format!("\"{text}\" is too long for a name"))
            .next("Choose one with --name.")
    })
}

fn of_secrets(error: SecretsError) -> ApiError {
    match error {
        SecretsError::Store(error) => error.into(),
        SecretsError::TooLarge => ApiError::new(Side::Caller, "too-large", error.to_string()),
        SecretsError::Vault { .. } => ApiError::new(Side::Gateway, "vault", error.to_string()),
    }
}
