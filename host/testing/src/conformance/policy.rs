//! Policies: what each hook of one has to survive, and that it decides nothing it can't know.

use std::collections::BTreeMap;

use portcullis_plugin::Hooks;
use serde_json::{Map, Value, json};

use super::{Asked, Report, Suite, failed, odd};
use crate::case::{Ask, Case, ListFilter, PromptGet, ResourceRead, ServerRequest, ToolCall, ToolResult};

/// The case that brings what a hook is tried with.
pub(super) type Of<'a> = &'a dyn Fn(fn(&Ask) -> bool) -> &'a Case;

pub(super) async fn run(suite: &Suite<'_>, hooks: &Hooks, of: Of<'_>, report: &mut Report) -> Asked<()> {
    if hooks.tool_call {
        let case = of(|ask| matches!(ask, Ask::ToolCall(_)));
        let ask = |tool: &str, arguments| {
            Ask::ToolCall(ToolCall { server: "files".to_owned(), tool: tool.to_owned(), arguments })
        };
        let odd = each(&|arguments| ask("read", arguments), &|tool| ask(tool, Map::new()));
        let usual = usual(case, |ask| matches!(ask, Ask::ToolCall(_)), &odd);
        hook(suite, "policy/tool-call", case, &usual, &odd, report).await?;
    }
    if hooks.tool_result {
        let case = of(|ask| matches!(ask, Ask::ToolResult(_)));
        let ask = |tool: &str, result: Map<String, Value>| {
            Ask::ToolResult(ToolResult {
                server: "files".to_owned(),
                tool: tool.to_owned(),
                arguments: Map::new(),
                result,
            })
        };
        let text = |fields: Map<String, Value>| {
            let text = Value::Object(fields.clone()).to_string();
            let result =
                json!({"content": [{"type": "text", "text": text}], "structuredContent": fields, "isError": false});
            result.as_object().cloned().unwrap_or_default()
        };
        let mut odd = each(&|fields| ask("read", text(fields)), &|tool| ask(tool, text(Map::new())));
        odd.extend(odd::objects().into_iter().map(|fields| ask("read", fields)));
        let usual = usual(case, |ask| matches!(ask, Ask::ToolResult(_)), &odd);
        hook(suite, "policy/tool-result", case, &usual, &odd, report).await?;
    }
    if hooks.resource_read {
        let case = of(|ask| matches!(ask, Ask::ResourceRead(_)));
        let ask = |uri: &str, purpose: &str| {
            Ask::ResourceRead(ResourceRead {
                server: "files".to_owned(),
                uri: uri.to_owned(),
                purpose: Some(purpose.to_owned()),
            })
        };
        let mut odd: Vec<Ask> = ["file:///a", "", "file:///../../x", "x:\u{202e}", "http://[::1]/?a#b"]
            .into_iter()
            .map(|uri| ask(uri, "read"))
            .collect();
        odd.push(ask("file:///a", "subscribe"));
        odd.push(ask("file:///{path}/{+rest}{", "complete"));
        odd.push(ask(&format!("file:///{}", "x".repeat(8000)), "read"));
        let usual = usual(case, |ask| matches!(ask, Ask::ResourceRead(_)), &odd);
        hook(suite, "policy/resource-read", case, &usual, &odd, report).await?;
    }
    if hooks.prompt_get {
        let case = of(|ask| matches!(ask, Ask::PromptGet(_)));
        let ask = |prompt: &str, arguments| {
            Ask::PromptGet(PromptGet {
                server: "files".to_owned(),
                prompt: prompt.to_owned(),
                arguments,
                purpose: None,
            })
        };
        let odd = each(&|arguments| ask("summary", arguments), &|prompt| ask(prompt, Map::new()));
        let usual = usual(case, |ask| matches!(ask, Ask::PromptGet(_)), &odd);
        hook(suite, "policy/prompt-get", case, &usual, &odd, report).await?;
    }
    if hooks.server_request {
        let case = of(|ask| matches!(ask, Ask::ServerRequest(_)));
        let ask = |method: &str, params| {
            Ask::ServerRequest(ServerRequest {
                server: "files".to_owned(),
                method: method.to_owned(),
                params,
                tool: None,
            })
        };
        let mut odd = each(&|params| ask("elicitation/create", params), &|method| ask(method, Map::new()));
        odd.extend(["sampling/createMessage", "roots/list"].map(|method| ask(method, Map::new())));
        let usual = usual(case, |ask| matches!(ask, Ask::ServerRequest(_)), &odd);
        hook(suite, "policy/server-request", case, &usual, &odd, report).await?;
    }
    if hooks.list_filter {
        lists(suite, of(|ask| matches!(ask, Ask::ListFilter(_))), report).await?;
    }
    Ok(())
}

/// Odd objects and odd names.
fn each(with: &dyn Fn(Map<String, Value>) -> Ask, named: &dyn Fn(&str) -> Ask) -> Vec<Ask> {
    let named = odd::names().into_iter().map(|name| named(&name));
    odd::objects().into_iter().map(with).chain(named).collect()
}

/// What is asked on a usual day.
fn usual(case: &Case, fits: fn(&Ask) -> bool, odd: &[Ask]) -> Ask {
    let own = case.ask.as_ref().filter(|ask| fits(ask)).cloned();
    own.unwrap_or_else(|| odd.first().cloned().unwrap_or_else(|| Ask::ToolCall(ToolCall::default())))
}

async fn hook(
    suite: &Suite<'_>,
    of: &'static str,
    case: &Case,
    usual: &Ask,
    odd: &[Ask],
    report: &mut Report,
) -> Asked<()> {
    suite.survives(of, case, usual, odd, report).await?;
    let down = suite.while_down(case, usual).await?;
    if down.is_empty() {
        return Ok(());
    }
    let stumbled = down.iter().find_map(|(how, told)| Some(format!("{how}: {}", failed(told)?)));
    report.note(of, "answers while other services do not", stumbled);
    let before = suite.ask_all(case, std::slice::from_ref(usual)).await?.unwrap_or_default();
    let allows = |told: &crate::Told| told.contains_key("allow") || told.contains_key("modify");
    let refused = before.iter().all(|told| !allows(told));
    let opened = down.iter().find(|(_, told)| allows(told)).map(|(how, _)| format!("it allows while there is {how}"));
    match (refused, opened) {
        (true, Some(why)) => report.note(of, "allows nothing because a service is down", Some(why)),
        (_, opened) => report.advise(of, "allows nothing because a service is down", opened),
    }
    Ok(())
}

async fn lists(suite: &Suite<'_>, case: &Case, report: &mut Report) -> Asked<()> {
    let of = "policy/list-filter";
    let list = |kind: &str, servers: &[&str], names: Vec<String>| {
        let entries: BTreeMap<String, Vec<String>> =
            servers.iter().map(|server| ((*server).to_owned(), names.clone())).collect();
        Ask::ListFilter(ListFilter { kind: Some(kind.to_owned()), entries })
    };
    let uris = || vec!["file:///a".to_owned(), String::new(), "x".repeat(4000), "file:///{a}/{+b}{".to_owned()];
    let odd = [
        list("tools", &["files"], odd::names()),
        list("tools", &[], Vec::new()),
        list("tools", &["files", "github"], (0..200).map(|i| format!("tool_{i}")).collect()),
        list("tools", &["files"], vec!["same".to_owned(); 3]),
        list("resources", &["files"], uris()),
        list("templates", &["files"], uris()),
        list("prompts", &["files"], odd::names()),
    ];
    let usual = usual(case, |ask| matches!(ask, Ask::ListFilter(_)), &odd);
    suite.survives(of, case, &usual, &odd, report).await?;

    // An entry is shown or not for what it is, not for what stands beside it.
    let (Ask::ListFilter(whole), Some(told)) = (&usual, suite.ask_all(case, std::slice::from_ref(&usual)).await?)
    else {
        return Ok(());
    };
    let kept = |told: &crate::Told, server: &str, name: &str| {
        told.get("keep")
            .and_then(|keep| keep.get(server)?.as_array())
            .is_some_and(|names| names.iter().any(|n| n == name))
    };
    let mut differs = None;
    for (server, names) in &whole.entries {
        for name in names.iter().take(20) {
            let alone = Ask::ListFilter(ListFilter {
                kind: whole.kind.clone(),
                entries: BTreeMap::from([(server.clone(), vec![name.clone()])]),
            });
            let alone = suite.ask_all(case, &[alone]).await?.unwrap_or_default();
            let (in_list, by_itself) =
                (told.iter().any(|t| kept(t, server, name)), alone.iter().any(|t| kept(t, server, name)));
            if in_list != by_itself {
                differs.get_or_insert(format!("{name} of {server} is shown in one list and hidden in another"));
            }
        }
    }
    report.advise(of, "judges each entry by itself", differs);
    Ok(())
}
