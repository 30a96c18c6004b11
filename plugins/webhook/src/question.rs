//! What the service is sent.

use std::collections::BTreeMap;

use portcullis_sdk::{Call, Caller, Error, Kind};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use crate::config::Config;

/// The question, but for the request's id.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Question {
    version: u32,
    hook: &'static str,
    gateway: String,
    server: String,
    tool: String,
    caller: Who,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<Box<RawValue>>,
    arguments_size: u64,
}

#[derive(Serialize)]
struct Who {
    tenant: String,
    subject: String,
    kind: &'static str,
    teams: Vec<String>,
    roles: Vec<String>,
    groups: Vec<String>,
    claims: BTreeMap<String, Value>,
}

impl Question {
    pub(crate) fn new(config: &Config, caller: Caller<'_>, call: Call<'_>) -> Result<Self, Error> {
        let arguments = match config.arguments {
            true => Some(RawValue::from_string(
                String::from_utf8(call.arguments()).map_err(|_| "arguments that are no UTF-8")?,
            )?),
            false => None,
        };
        let claims = config.claims.iter().filter_map(|name| Some((name.clone(), caller.claim(name)?.to_json())));
        let headers = config.headers.iter().filter_map(|name| Some((name.clone(), caller.header(name)?)));
        Ok(Self {
            version: 1,
            hook: "tool-call",
            gateway: call.gateway(),
            server: call.server(),
            tool: call.tool(),
            caller: Who {
                tenant: caller.tenant(),
                subject: caller.subject(),
                kind: match caller.kind() {
                    Kind::User => "user",
                    Kind::Team => "team",
                    Kind::Organization => "organization",
                    Kind::Agent => "agent",
                    Kind::External => "external",
                    Kind::Anonymous => "anonymous",
                    _ => "unknown",
                },
                teams: caller.teams(),
                roles: caller.roles(),
                groups: caller.groups(),
                claims: claims.collect(),
            },
            headers: headers.collect(),
            arguments,
            arguments_size: call.arguments_size(),
        })
    }

    /// What tells this question from all others: everything in it, and whom it goes to, since places share what is kept.
    pub(crate) fn key(&self, url: &str) -> Result<String, Error> {
        let bytes = serde_json::to_vec(&(url, self))?;
        Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As it is sent.
    pub(crate) fn to_json(&self, request_id: &str) -> Result<Vec<u8>, Error> {
        let json = serde_json::to_string(self)?;
        let mut out = format!("{{\"requestId\":{},", Value::from(request_id));
        out.push_str(&json[1..]);
        Ok(out.into_bytes())
    }
}
