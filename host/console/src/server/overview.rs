//! The gateway as a whole: status, and what a doctor finds.

use axum::{Json, extract::State};
use portcullis_model::{Door, Resource};

use super::{Admin, Tenant, describe, reply::Answer};
use crate::api::{Finding, GatewayStatus, Grade, Page};

pub(super) async fn status(State(admin): State<Admin>) -> Answer<GatewayStatus> {
    let fleet = admin.registry.snapshot();
    let mut status = admin.view.status();
    status.revision = fleet.revision.0;
    for (key, _) in fleet.iter() {
        *status.resources.entry(key.kind.as_str().to_owned()).or_default() += 1;
    }
    status.files = admin.files.as_ref().map(|f| f.status()).unwrap_or_default();
    Ok(Json(status))
}

pub(super) async fn doctor(State(admin): State<Admin>, Tenant(tenant): Tenant) -> Answer<Page<Finding>> {
    let mut items = admin.view.findings();
    let status = admin.view.status();
    items.push(if status.missing.is_empty() {
        Finding { subject: "gateway".to_owned(), grade: Grade::Ok, message: "is ready".to_owned(), next: None }
    } else {
        let message = format!("is not ready: {}", status.missing.join("; "));
        Finding { subject: "gateway".to_owned(), grade: Grade::Error, message, next: None }
    });
    for file in admin.files.iter().flat_map(|f| f.status()) {
        let found =
            file.errors.iter().map(|e| (Grade::Error, e)).chain(file.warnings.iter().map(|w| (Grade::Warning, w)));
        for (grade, error) in found {
            let next = (grade == Grade::Error).then(|| "Correct the file; it is read again at once.".to_owned());
            items.push(Finding { subject: file.file.clone(), grade, message: error.to_string(), next });
        }
    }
    let fleet = admin.registry.snapshot();
    for (key, resource) in fleet.iter().filter(|(key, _)| key.tenant == tenant) {
        for condition in describe::status(&admin, &fleet, key, resource).conditions {
            if !condition.status {
                let message = format!("{}: {} {}", condition.kind, condition.reason, condition.message);
                items.push(Finding { subject: key.to_string(), grade: Grade::Error, message, next: None });
            }
        }
    }
    items.extend(dangling(&admin).await);
    if admin.tokens.list(&tenant, None).is_empty() {
        items.push(Finding {
            subject: "tokens".to_owned(),
            grade: Grade::Warning,
            message: "there is no token, so only other auth providers let anybody in".to_owned(),
            next: Some("Make one with `portcullis token create --owner user:NAME`.".to_owned()),
        });
    }
    items.sort_by_key(|f| std::cmp::Reverse(f.grade));
    Ok(Json(Page { items, next: None }))
}

/// Names of things that do not exist, in resources that no file holds: those of files are told with their lines.
async fn dangling(admin: &Admin) -> Vec<Finding> {
    let resources = admin.registry.list(None, None);
    let by_hand = resources.iter().filter(|r| !matches!(r.metadata.door, Some(Door::File(_))));
    let set = by_hand
        .map(|r| {
            let mut resource = Resource::clone(r);
            resource.metadata.revision = None;
            (resource.metadata.door.clone().unwrap_or(Door::Api), resource)
        })
        .collect();
    let scope = |door: &Door| !matches!(door, Door::File(_));
    let Ok(applied) = admin.registry.sync_door(&scope, set, true).await else { return Vec::new() };
    let warnings = applied.iter().flat_map(|a| a.warnings.iter().map(|w| (&a.key, w)));
    warnings
        .map(|(key, w)| Finding { subject: key.to_string(), grade: Grade::Warning, message: w.to_string(), next: None })
        .collect()
}
