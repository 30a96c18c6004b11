//! What somebody may do with resources, by `portcullis_identity::may`: which of them an action is about stands here, who may do
//! it stands there.

use portcullis_identity::{Action, Whose};
use portcullis_model::{
    Kind, Name, Resource, ResourceKey, Spec, Subject,
    spec::{self, Grants},
};
use portcullis_store::Fleet;
use serde_json::Value;

use super::{Admin, Who};
use crate::api::ApiError;

/// How a value is called that is read from the machine, or from a provider of secrets, under the gateway's own rights.
pub(super) const SOURCES: [&str; 4] = ["env", "file", "kubernetes", "vault"];
/// What an operator changes of a gateway. Everything else says who is believed.
const OF_OPERATORS: [&str; 6] = ["title", "instructions", "policies", "servers", "exposure", "ratePerPrincipal"];

impl Admin {
    /// Somebody, as `may` wants it; also where they are gone.
    pub(crate) fn whose(&self, tenant: &Name, subject: &Subject) -> Whose {
        let known = self.directories.load().whose(tenant, subject);
        known.unwrap_or_else(|| Whose { subject: subject.clone(), team: None, roles: Vec::new() })
    }

    /// Whether somebody may see a resource.
    pub(super) fn shows(&self, who: &Who, resource: &Resource) -> bool {
        let (tenant, name) = (&resource.metadata.namespace, &resource.metadata.name);
        let whose = match &resource.spec {
            Spec::Connection(connection) => Some(connection.owner.subject()),
            Spec::User(_) => Some(Subject::User(name.clone())),
            Spec::Team(_) => Some(Subject::Team(name.clone())),
            Spec::Agent(_) => Some(Subject::Agent(name.clone())),
            _ => None,
        };
        let whose = whose.map(|subject| self.whose(tenant, &subject));
        who.may(&Action::See(resource.spec.kind(), whose.as_ref()))
    }

    /// A resource as somebody may read it: where its secrets lie is for operators (paths, variables, names in Vault).
    pub(super) fn readable(&self, who: &Who, resource: &Resource) -> Resource {
        let mut resource = resource.clone();
        if !who.may(&Action::Operate) {
            resource.spec.hide_secret_sources();
        }
        resource
    }

    /// Refuses a set of resources that somebody may not make or change so.
    ///
    /// # Errors
    /// `forbidden`, for the first of them; `not-found` for another tenant's.
    pub(super) fn lets_apply(&self, who: &Who, tenant: &Name, resources: &[Resource]) -> Result<(), ApiError> {
        if matches!(who, Who::Local(_)) {
            return Ok(());
        }
        let fleet = self.registry.snapshot();
        for resource in resources {
            if resource.metadata.namespace != *tenant {
                let message = format!("there is no tenant {} for this token", resource.metadata.namespace);
                return Err(ApiError::new(portcullis_model::Side::Caller, "not-found", message));
            }
            self.lets_write(who, &fleet, resource)?;
        }
        Ok(())
    }

    fn lets_write(&self, who: &Who, fleet: &Fleet, resource: &Resource) -> Result<(), ApiError> {
        let key = resource.key();
        let before = fleet.get(&key);
        if before
            .is_some_and(|before| before.spec == resource.spec && before.metadata.labels == resource.metadata.labels)
        {
            return Ok(());
        }
        let changing = format!("change {key}");
        let of_machine = |spec: &Spec| {
            matches!(spec, Spec::McpServer(server) if server.process.is_some()
                || server.component.is_some()
                || server.kubernetes.as_ref().is_some_and(|k| k.of_operators().is_some()))
                || serde_json::to_value(spec).is_ok_and(|value| reads_sources(&value))
        };
        if of_machine(&resource.spec) || before.is_some_and(|before| of_machine(&before.spec)) {
            who.must(
                &Action::Machine,
                &format!("{changing}: it names programs, files or secrets of the gateway's machine, or gives up what keeps servers apart"),
            )?;
        }
        match (&resource.spec, before.map(|b| &b.spec)) {
            (Spec::Gateway(new), old) => {
                who.must(&Action::Administer(Kind::Gateway), &changing)?;
                let old = match old {
                    Some(Spec::Gateway(old)) => serde_json::to_value(old),
                    _ => serde_json::from_str::<spec::Gateway>("{}").and_then(serde_json::to_value),
                };
                if trusted(serde_json::to_value(new).ok()) != trusted(old.ok()) {
                    who.must(&Action::Trust, &format!("{changing}: it says who is believed"))?;
                }
                Ok(())
            }
            (Spec::Plugin(new), old) => {
                let granted = matches!(old, Some(Spec::Plugin(old)) if granted(old)) || granted(new);
                lets_change(who, fleet, &key, granted)
            }
            (Spec::Team(new), Some(Spec::Team(old)))
                if new.groups == old.groups && new.title == old.title && new.members != old.members =>
            {
                let whose = self.whose(&key.tenant, &Subject::Team(key.name.clone()));
                who.must(&Action::ChangeMembers(&whose), &changing)
            }
            (spec, _) => who.must(&Action::Administer(spec.kind()), &changing),
        }
    }

    /// Refuses to say which version of a plugin serves, to whoever may not change the plugin.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn lets_move(&self, who: &Who, key: &ResourceKey, resource: &Resource) -> Result<(), ApiError> {
        let granted = matches!(&resource.spec, Spec::Plugin(plugin) if granted(plugin));
        lets_change(who, &self.registry.snapshot(), key, granted)
    }

    /// Refuses to delete what somebody may not delete. What they may not even see is not there.
    ///
    /// # Errors
    /// `not-found` or `forbidden`.
    pub(super) fn lets_delete(&self, who: &Who, key: &ResourceKey) -> Result<(), ApiError> {
        let Some(resource) = self.registry.get(key).filter(|r| self.shows(who, r)) else {
            return Err(super::reply::not_found(key));
        };
        let what = format!("delete {key}");
        match &resource.spec {
            Spec::Connection(connection) => {
                let whose = self.whose(&key.tenant, &connection.owner.subject());
                who.must(&Action::Disconnect(&whose), &what)
            }
            spec => who.must(&Action::Administer(spec.kind()), &what),
        }
    }
}

fn granted(plugin: &spec::Plugin) -> bool {
    plugin.grants != Grants::default()
}

/// Refuses to change a plugin.
fn lets_change(who: &Who, fleet: &Fleet, key: &ResourceKey, granted: bool) -> Result<(), ApiError> {
    let changing = format!("change {key}");
    who.must(&Action::Administer(Kind::Plugin), &changing)?;
    if granted || believes(fleet, key) {
        who.must(&Action::Trust, &format!("{changing}: it has grants, or says who is calling"))?;
    }
    Ok(())
}

/// What of a gateway says who is believed.
fn trusted(gateway: Option<Value>) -> Option<Value> {
    let mut gateway = gateway?;
    gateway.as_object_mut()?.retain(|member, _| !OF_OPERATORS.contains(&member.as_str()));
    Some(gateway)
}

/// Whether a gateway of the tenant asks this plugin who is calling.
fn believes(fleet: &Fleet, key: &ResourceKey) -> bool {
    fleet.iter().any(|(_, resource)| {
        resource.metadata.namespace == key.tenant
            && matches!(&resource.spec, Spec::Gateway(g) if g.auth.iter().any(|used| used.plugin == key.name.as_str()))
    })
}

/// Whether anything in a spec is read from somewhere under the gateway's own rights: an object of one member by such a name, as
/// every `SecretSource` and the source of a plugin's component are.
fn reads_sources(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            (members.len() == 1 && members.keys().any(|key| SOURCES.contains(&key.as_str())))
                || members.values().any(reads_sources)
        }
        Value::Array(items) => items.iter().any(reads_sources),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use portcullis_model::schema::resource_schema;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_source_is_found_wherever_it_stands() {
        assert!(reads_sources(&json!({"secrets": {"token": {"env": "X"}}})));
        assert!(reads_sources(&json!({"a": [{"from": {"file": "/etc/shadow"}}]})));
        assert!(reads_sources(&json!({"source": {"file": {"path": "x.wasm"}}})));
        assert!(!reads_sources(&json!({"place": [{"field": "token", "env": "TOKEN"}]})));
        assert!(!reads_sources(&json!({"values": {"site": "file"}})));
    }

    /// A provider of secrets that is added has to be named above, or anybody could read with the gateway's rights.
    #[test]
    fn every_source_of_secrets_is_known() {
        let schema = serde_json::to_value(resource_schema()).unwrap();
        let mut found = Vec::new();
        let mut look = vec![&schema];
        while let Some(value) = look.pop() {
            match value {
                Value::Object(members) => {
                    for (name, member) in members {
                        if name == "SecretSource" {
                            let variants = member["oneOf"].as_array().cloned().unwrap_or_default();
                            let keys =
                                |v: &Value| v["properties"].as_object().map(|p| p.keys().cloned().collect::<Vec<_>>());
                            found.extend(variants.iter().filter_map(keys).flatten());
                        }
                        look.push(member);
                    }
                }
                Value::Array(items) => look.extend(items),
                _ => {}
            }
        }
        assert!(found.len() >= 2, "{found:?}");
        for key in found {
            assert!(SOURCES.contains(&key.as_str()), "{key} is a source of secrets that permit.rs does not know");
        }
    }
}
