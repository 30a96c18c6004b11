//! A small MCP server on standard input and output: the one that `quickstart` puts behind its gateway.
//!
//! JSON-RPC messages, one a line, in both eras: `initialize` and sessions up to 2025-11-25, `server/discover` and requests
//! that stand alone in 2026-07-28. It reads and answers in order; nothing it does takes long.

mod time;
mod tools;

use std::io::{self, BufRead, Read as _, Write};

use portcullis_protocol::{Version, rpc};
use serde_json::{Value, json};

use tools::Tools;

/// The longest line that is read.
const MAX_LINE: u64 = 4 << 20;

/// Serves until the input ends.
///
/// # Errors
/// Where reading or writing fails.
pub fn serve(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut tools = Tools::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
            return Err(io::Error::other("a message of more than 4 MiB"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let answer = match serde_json::from_slice::<Value>(&line) {
            Ok(message) => answer(&mut tools, &message),
            Err(_) => Some(error(&Value::Null, rpc::PARSE_ERROR, "not JSON")),
        };
        if let Some(answer) = answer {
            serde_json::to_writer(&mut output, &answer)?;
            output.write_all(b"\n")?;
            output.flush()?;
        }
    }
}

/// The answer to a message; none to a notification or a response.
fn answer(tools: &mut Tools, message: &Value) -> Option<Value> {
    let id = message.get("id")?;
    let Some(method) = message.get("method").and_then(Value::as_str) else {
        // A response to a request that was never made.
        return if message.get("result").or(message.get("error")).is_some() {
            None
        } else {
            Some(error(id, rpc::INVALID_REQUEST, "no method"))
        };
    };
    let params = message.get("params").unwrap_or(&Value::Null);
    let modern = params.pointer("/_meta/io.modelcontextprotocol~1protocolVersion").is_some();
    if modern && let Some(refusal) = unsupported(id, params) {
        return Some(refusal);
    }
    let mut result = match method {
        "initialize" => initialize(params),
        "server/discover" => discover(),
        "ping" => json!({}),
        "tools/list" => {
            let mut list = json!({ "tools": tools::list() });
            if modern {
                list["ttlMs"] = json!(3_600_000);
                list["cacheScope"] = json!("public");
            }
            list
        }
        "tools/call" => {
            let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
            match tools.call(name, params.get("arguments").unwrap_or(&Value::Null)) {
                Some(Ok(structured)) => {
                    json!({ "content": [{ "type": "text", "text": structured.to_string() }], "structuredContent": structured })
                }
                // What a model can correct is a result, not an error of the protocol.
                Some(Err(message)) => json!({ "content": [{ "type": "text", "text": message }], "isError": true }),
                None => return Some(error(id, rpc::INVALID_PARAMS, &format!("unknown tool: {name}"))),
            }
        }
        _ => return Some(error(id, rpc::METHOD_NOT_FOUND, &format!("no method {method}"))),
    };
    if modern {
        result["resultType"] = json!("complete");
    }
    Some(json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn initialize(params: &Value) -> Value {
    let wanted = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
    json!({
        "protocolVersion": Version::negotiate(wanted).as_str(),
        "capabilities": { "tools": {} },
        "serverInfo": info(),
        "instructions": INSTRUCTIONS,
    })
}

fn discover() -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": [Version::V2026_07_28.as_str()],
        "capabilities": { "tools": {} },
        "instructions": INSTRUCTIONS,
        "ttlMs": 3_600_000,
        "cacheScope": "public",
        "_meta": { "io.modelcontextprotocol/serverInfo": info() },
    })
}

const INSTRUCTIONS: &str = "The time anywhere, figures about a text, and notes that last as long as this server runs.";

fn info() -> Value {
    json!({ "name": "portcullis-demo", "title": "Portcullis demo", "version": env!("CARGO_PKG_VERSION") })
}

/// A refusal where a request names a revision that is not spoken here.
fn unsupported(id: &Value, params: &Value) -> Option<Value> {
    let wanted = params.pointer("/_meta/io.modelcontextprotocol~1protocolVersion")?.as_str().unwrap_or_default();
    if wanted == Version::V2026_07_28.as_str() {
        return None;
    }
    let mut refusal = error(id, rpc::UNSUPPORTED_PROTOCOL_VERSION, "this revision is not spoken here");
    refusal["error"]["data"] = json!({ "supported": [Version::V2026_07_28.as_str()], "requested": wanted });
    Some(refusal)
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn talk(lines: &[Value]) -> Vec<Value> {
        let input: String = lines.iter().map(|l| format!("{l}\n")).collect();
        let mut output = Vec::new();
        serve(input.as_bytes(), &mut output).unwrap();
        String::from_utf8(output).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn call(id: u64, name: &str, arguments: Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": name, "arguments": arguments } })
    }

    #[test]
    fn speaks_the_sessions_of_2025() {
        let answers = talk(&[
            json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "protocolVersion": "2025-06-18" } }),
            json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
            json!({ "jsonrpc": "2.0", "id": "two", "method": "tools/list" }),
        ]);
        assert_eq!(answers[0]["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(answers[1]["id"], "two");
        assert_eq!(answers[1]["result"].get("resultType"), None);
        let names: Vec<_> =
            answers[1]["result"]["tools"].as_array().unwrap().iter().map(|t| t["name"].clone()).collect();
        assert_eq!(names, ["time_now", "text_stats", "notes_add", "notes_list"]);
    }

    #[test]
    fn speaks_the_requests_of_2026() {
        let meta = |v: &str| json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": v } });
        let ask =
            |id: u64, method: &str, v: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": meta(v) });
        let answers = talk(&[
            ask(1, "server/discover", "2026-07-28"),
            ask(2, "tools/list", "2026-07-28"),
            ask(3, "tools/list", "2031-01-01"),
        ]);
        assert_eq!(answers[0]["result"]["supportedVersions"], json!(["2026-07-28"]));
        assert_eq!(answers[1]["result"]["resultType"], "complete");
        assert_eq!(answers[1]["result"]["cacheScope"], "public");
        assert_eq!(answers[2]["error"]["code"], rpc::UNSUPPORTED_PROTOCOL_VERSION);
    }

    #[test]
    fn its_tools_do_what_they_say() {
        let answers = talk(&[
            call(1, "text_stats", json!({ "text": "Grüß Gott,\nWelt!" })),
            call(2, "notes_add", json!({ "text": "milk" })),
            call(3, "notes_list", json!({})),
            call(4, "time_now", json!({ "utc_offset": "+05:30" })),
            call(5, "time_now", json!({ "utc_offset": "noon" })),
            call(6, "no_such_tool", json!({})),
        ]);
        let structured = |i: usize| &answers[i]["result"]["structuredContent"];
        assert_eq!(structured(0)["words"], 3);
        assert_eq!(structured(0)["lines"], 2);
        assert_eq!(structured(0)["characters"], 16);
        assert_eq!(structured(0)["bytes"], 18);
        assert_eq!(structured(2)["notes"][0]["text"], "milk");
        assert!(structured(3)["time"].as_str().unwrap().ends_with("+05:30"), "{answers:?}");
        assert_eq!(answers[4]["result"]["isError"], true);
        assert_eq!(answers[5]["error"]["code"], rpc::INVALID_PARAMS);
    }

    #[test]
    fn survives_what_is_no_message() {
        let mut output = Vec::new();
        serve(&b"garbage\n\n[]\n{\"id\":1}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"x\"}\n"[..], &mut output)
            .unwrap();
        let codes: Vec<i64> = String::from_utf8(output)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap()["error"]["code"].as_i64().unwrap())
            .collect();
        assert_eq!(codes, [rpc::PARSE_ERROR, rpc::INVALID_REQUEST, rpc::METHOD_NOT_FOUND]);
    }
}
