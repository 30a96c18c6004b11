//! What a message asks for, in both eras: `initialize` and sessions up to 2025-11-25, `server/discover` and requests that stand alone in
//! 2026-07-28.

use portcullis_model::spec::ComponentServer;
use portcullis_plugin::{Tool, ToolAnswer, ToolError, Toolbox};
use portcullis_protocol::{Version, rpc};
use serde_json::{Map, Value, json};

/// The most bytes of a call's arguments: as values of WIT they take some tens of times as much.
const MAX_ARGUMENTS: usize = 1 << 20;
/// How long a list holds: the component does not change while it is served.
const LIST_MS: u64 = 3_600_000;

/// What a message asks for.
pub(crate) enum Asked {
    /// Nothing: a notification, or an answer to what was never asked.
    Nothing,
    /// What is known at once.
    Answered(Value),
    /// A call that runs.
    Call(Call),
    /// The call with this id, as JSON, is not wanted any more.
    GivenUp(String),
}

/// A call of a tool.
pub(crate) struct Call {
    id: Value,
    tool: String,
    arguments: Map<String, Value>,
    modern: bool,
}

pub(crate) fn asked(name: &str, toolbox: &Toolbox, component: &ComponentServer, message: &Value) -> Asked {
    let params = message.get("params").unwrap_or(&Value::Null);
    let method = message.get("method").and_then(Value::as_str);
    let Some(id) = message.get("id") else {
        return match (method, params.get("requestId")) {
            (Some("notifications/cancelled"), Some(id)) => Asked::GivenUp(id.to_string()),
            _ => Asked::Nothing,
        };
    };
    let modern = params.pointer("/_meta/io.modelcontextprotocol~1protocolVersion").is_some();
    let info = json!({"name": name, "version": short(toolbox.digest())});
    let result = match method {
        None => return Asked::Nothing,
        Some("initialize") => {
            let wanted = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
            let version = Version::negotiate(wanted);
            json!({"protocolVersion": version.as_str(), "capabilities": {"tools": {}}, "serverInfo": info})
        }
        Some("server/discover") => json!({
            "supportedVersions": [Version::V2026_07_28.as_str()],
            "capabilities": {"tools": {}},
            "ttlMs": LIST_MS,
            "cacheScope": "public",
            "_meta": {"io.modelcontextprotocol/serverInfo": info},
        }),
        Some("ping") => json!({}),
        Some("tools/list") => {
            let tools: Vec<Value> = toolbox.tools().map(|tool| entry(tool, component)).collect();
            let mut list = json!({"tools": tools});
            if modern {
                list["ttlMs"] = json!(LIST_MS);
                list["cacheScope"] = json!("public");
            }
            list
        }
        Some("tools/call") => {
            let tool = params.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let arguments = match params.get("arguments") {
                Some(arguments) if arguments.to_string().len() > MAX_ARGUMENTS => {
                    let why = format!("the arguments are larger than {MAX_ARGUMENTS} bytes");
                    return Asked::Answered(answered(id, failed(&why), modern));
                }
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(arguments)) => arguments.clone(),
                Some(_) => return Asked::Answered(error(id, rpc::INVALID_PARAMS, "arguments are an object")),
            };
            return Asked::Call(Call { id: id.clone(), tool, arguments, modern });
        }
        Some(other) => return Asked::Answered(error(id, rpc::METHOD_NOT_FOUND, &format!("no method {other}"))),
    };
    Asked::Answered(answered(id, result, modern || method == Some("server/discover")))
}

impl Call {
    /// The request's id.
    pub(crate) fn id(&self) -> &Value {
        &self.id
    }

    /// Runs it. What a model can correct, and what a tool failed at, is a result, not an error of the protocol.
    pub(crate) async fn answer(self, toolbox: &Toolbox, limit: usize) -> Value {
        let result = match toolbox.call(&self.tool, &self.arguments).await {
            Ok(answer) => result(&answer),
            Err(ToolError::Unknown) => {
                return error(&self.id, rpc::INVALID_PARAMS, &format!("unknown tool: {}", self.tool));
            }
            Err(why @ ToolError::Arguments(_)) => failed(&why.to_string()),
            Err(ToolError::Failed(failure)) => failed(&format!("the tool gave no answer: {failure}")),
        };
        let answer = answered(&self.id, result, self.modern);
        if answer.to_string().len() > limit {
            return answered(&self.id, failed("the tool's answer is larger than it may be"), self.modern);
        }
        answer
    }
}

fn result(answer: &ToolAnswer) -> Value {
    let text = match &answer.value {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        // A single text reads better as it is.
        Some(value) => match value
            .get("result")
            .and_then(Value::as_str)
            .filter(|_| value.as_object().is_some_and(|o| o.len() == 1))
        {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        },
    };
    let mut result = json!({"content": [{"type": "text", "text": text}]});
    if answer.is_error {
        result["isError"] = json!(true);
    } else if let Some(value) = &answer.value {
        result["structuredContent"] = value.clone();
    }
    result
}

fn failed(why: &str) -> Value {
    json!({"content": [{"type": "text", "text": why}], "isError": true})
}

fn entry(tool: &Tool, component: &ComponentServer) -> Value {
    let mut entry = json!({"name": tool.name, "inputSchema": tool.input});
    if let Some(description) = component.descriptions.get(&tool.name).or(tool.description.as_ref()) {
        entry["description"] = json!(description);
    }
    if let Some(output) = &tool.output {
        entry["outputSchema"] = output.clone();
    }
    entry
}

fn answered(id: &Value, mut result: Value, modern: bool) -> Value {
    if modern {
        result["resultType"] = json!("complete");
    }
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// A component's version is what it is.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
