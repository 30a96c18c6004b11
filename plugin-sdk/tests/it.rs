//! The SDK as a plugin's author meets it: every hook, natively, through the fakes.

#![allow(clippy::unwrap_used, missing_docs)]

use portcullis_sdk::{
    Call, Caller, Decision, Error, Identity, Level, List, ListFilter, ListKind, Outcome, Part, Prompt, PromptGet,
    Provider, Question, Read, ReadPurpose, Request, Resolution, Resolver, ResourceRead, Secret, ServerRequest, Setup,
    Target, ToolCall, ToolOutcome, ToolResult, Value, config, export, fake, http, log, reveal, secret,
};

struct Everything;

#[derive(serde::Deserialize)]
struct Config {
    word: String,
}

impl ToolCall for Everything {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        let Config { word } = config()?;
        call.annotate("seen-by", &Value::from("everything"));
        if call.argument_as::<String>("/text")?.is_some_and(|text| text.contains(&word)) {
            return Ok(Decision::deny("word", format!("{} may not say that", caller.subject())));
        }
        Ok(Decision::Allow)
    }
}

impl ToolResult for Everything {
    fn review(_: Caller<'_>, _: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error> {
        Ok(if outcome.is_error() { Decision::Allow } else { Decision::Modify(outcome.content()) })
    }
}

impl ListFilter for Everything {
    fn filter(_: Caller<'_>, list: List<'_>) -> Result<Vec<u32>, Error> {
        let kind = list.kind();
        Ok(list.keep(|entry| entry.server == "files" && (kind == ListKind::Tools || entry.name.starts_with("file:"))))
    }
}

impl ResourceRead for Everything {
    fn decide(_: Caller<'_>, read: Read<'_>) -> Result<Decision, Error> {
        read.annotate("read", &Value::from(read.uri().as_str()));
        Ok(match read.purpose() {
            ReadPurpose::Read => Decision::Allow,
            other => Decision::deny("purpose", format!("{other:?} of {}", read.server())),
        })
    }
}

impl PromptGet for Everything {
    fn decide(_: Caller<'_>, prompt: Prompt<'_>) -> Result<Decision, Error> {
        let who = prompt.argument("/who").unwrap_or_default();
        Ok(Decision::deny("told", format!("{:?} {} {who}", prompt.purpose(), prompt.exposed_name())))
    }
}

impl ServerRequest for Everything {
    fn decide(_: Caller<'_>, question: Question<'_>) -> Result<Decision, Error> {
        let link = question.param_as::<String>("/url")?;
        Ok(match (question.method().as_str(), link) {
            ("elicitation/create", Some(url)) if !url.starts_with("https://good.example/") => {
                Decision::deny("phishing", format!("{url} in {:?}", question.tool()))
            }
            _ => Decision::Allow,
        })
    }
}

impl Setup for Everything {
    fn prepare() -> Result<(), Error> {
        config::<Config>().map(drop)
    }
}

impl Resolver for Everything {
    fn resolve(_: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        let key = secret("key")?;
        let encoded = Secret::concat(&[Part::Text("me:"), Part::Secret(&key)]).base64();
        into.header("authorization", &[Part::Text("Basic "), Part::Secret(&encoded)]);
        into.expires(target.setting::<u64>("until")?.unwrap_or(1));
        into.vary("x-region");
        Ok(())
    }
}

impl Provider for Everything {
    fn authenticate(request: Request<'_>, into: Identity<'_>) -> Result<Outcome, Error> {
        log(Level::Info, "asked", &[("path", &request.path())]);
        let Some(bearer) = request.bearer() else {
            return Ok(Outcome::challenge("invalid_request", "say \"who\"\r\nyou are"));
        };
        into.external("https://i.example", &String::from_utf8(reveal(&bearer)?).unwrap());
        into.role("operator");
        Ok(Outcome::Accepted)
    }
}

export!(
    Everything: Setup, ToolCall, ToolResult, ResourceRead, PromptGet, ServerRequest, ListFilter, Resolver, Provider
);

#[test]
fn a_policy_reads_config_and_arguments() {
    let _host = fake::Host::new().config(r#"{"word": "no"}"#).install();
    let ann = fake::Caller::new("user:ann");
    let call = fake::Call::new("chat", "say").with_arguments(r#"{"text": "no way"}"#);
    assert_eq!(
        <Everything as ToolCall>::decide(ann.lend(), call.lend()),
        Ok(Decision::deny("word", "user:ann may not say that"))
    );
    assert_eq!(call.annotation("seen-by"), Some(Value::from("everything")));
    let call = fake::Call::new("chat", "say").with_arguments(r#"{"text": 1}"#);
    assert!(
        matches!(<Everything as ToolCall>::decide(ann.lend(), call.lend()), Err(Error::Other(_))),
        "a wrong type is an error"
    );
}

#[test]
fn a_config_that_does_not_fit_is_named() {
    let _host = fake::Host::new().config(r#"{"wort": "no"}"#).install();
    let decided =
        <Everything as ToolCall>::decide(fake::Caller::new("user:ann").lend(), fake::Call::new("s", "t").lend());
    assert!(matches!(decided, Err(Error::InvalidConfig(what)) if what.contains("word")));
}

#[test]
fn the_host_is_gone_with_its_guard() {
    drop(fake::Host::new().config(r#"{"word": "no"}"#).install());
    assert!(matches!(config::<Config>(), Err(Error::InvalidConfig(_))));
}

#[test]
fn results_and_lists_pass_through() {
    let (ann, call) = (fake::Caller::new("user:ann"), fake::Call::new("s", "t"));
    let fine = fake::ToolOutcome::new(r#"{"content":[]}"#);
    let broken = fake::ToolOutcome::new(r#"{"isError":true}"#);
    assert_eq!(
        Everything::review(ann.lend(), call.lend(), fine.lend()),
        Ok(Decision::Modify(br#"{"content":[]}"#.to_vec()))
    );
    assert_eq!(Everything::review(ann.lend(), call.lend(), broken.lend()), Ok(Decision::Allow));
    let tools = fake::List::new(ListKind::Tools).entry("a", "x").entry("files", "").entry("files", "é");
    assert_eq!(Everything::filter(ann.lend(), tools.lend()), Ok(vec![1, 2]));
    let entries = tools.lend().entries();
    let seen: Vec<_> = entries.iter().map(|e| (e.server, e.server_at, e.name)).collect();
    assert_eq!(seen, [("a", 0, "x"), ("files", 1, ""), ("files", 1, "é")]);
    let resources = fake::List::new(ListKind::Resources).entry("files", "file:///a").entry("files", "db://a");
    assert_eq!(Everything::filter(ann.lend(), resources.lend()), Ok(vec![0]));
}

#[test]
fn what_is_asked_for_beside_tools_is_lent_as_well() {
    let ann = fake::Caller::new("user:ann");
    let read = fake::Read::new("files", "file:///a");
    assert_eq!(<Everything as ResourceRead>::decide(ann.lend(), read.lend()), Ok(Decision::Allow));
    assert_eq!(read.annotation("read"), Some(Value::from("file:///a")));
    let told = <Everything as ResourceRead>::decide(ann.lend(), read.subscribing().lend());
    assert_eq!(told, Ok(Decision::deny("purpose", "Subscribe of files")));
    let prompt = fake::Prompt::new("chat", "greet").with_arguments(r#"{"who": "bob"}"#);
    let told = <Everything as PromptGet>::decide(ann.lend(), prompt.lend());
    assert_eq!(told, Ok(Decision::deny("told", "Get chat__greet \"bob\"")));
}

#[test]
fn a_servers_question_is_judged_by_its_params() {
    let ann = fake::Caller::new("user:ann");
    let ask = |question: fake::Question| <Everything as ServerRequest>::decide(ann.lend(), question.lend());
    assert_eq!(ask(fake::Question::new("chat", "roots/list")), Ok(Decision::Allow));
    let elicit = |url: &str| {
        let params = format!(r#"{{"mode": "url", "url": "{url}"}}"#);
        fake::Question::new("chat", "elicitation/create").with_params(params).during("say")
    };
    assert_eq!(ask(elicit("https://good.example/form")), Ok(Decision::Allow));
    let refused = ask(elicit("https://evil.example/"));
    assert_eq!(refused, Ok(Decision::deny("phishing", "https://evil.example/ in Some(\"say\")")));
}

#[test]
fn setup_refuses_a_config_before_any_call() {
    let _host = fake::Host::new().config(r#"{"wort": "no"}"#).install();
    assert!(matches!(Everything::prepare(), Err(Error::InvalidConfig(_))));
}

#[test]
fn a_resolver_places_secrets_that_it_cannot_read() {
    let _host = fake::Host::new().secret("key", "s3cret?").install();
    let into = fake::Resolution::new();
    let target = fake::Target::new("s").with_setting("until", 7);
    Everything::resolve(fake::Caller::new("user:ann").lend(), target.lend(), into.lend()).unwrap();
    assert_eq!(into.header_value("authorization").as_deref(), Some("Basic bWU6czNjcmV0Pw=="));
    assert_eq!((into.expiry_ms(), into.varies_on()), (Some(7), vec!["x-region".to_owned()]));
}

#[test]
fn a_secret_that_was_not_granted_is_not_found() {
    let answer = Everything::resolve(
        fake::Caller::new("user:ann").lend(),
        fake::Target::new("s").lend(),
        fake::Resolution::new().lend(),
    );
    assert_eq!(answer, Err(Error::NotFound));
}

#[test]
fn a_setting_of_the_wrong_type_is_named() {
    let target = fake::Target::new("s").with_setting("until", "\"soon\"");
    assert!(matches!(target.lend().setting::<u64>("until"), Err(Error::InvalidConfig(what)) if what.contains("until")));
}

#[test]
fn a_provider_names_or_challenges() {
    let host = fake::Host::new().install();
    let into = fake::Identity::new();
    let outcome = Everything::authenticate(fake::Request::new().with_bearer("ann").lend(), into.lend());
    assert_eq!(outcome, Ok(Outcome::Accepted));
    assert_eq!(
        (into.named().as_deref(), into.roles()),
        (Some("external:https://i.example#ann"), vec!["operator".to_owned()])
    );
    assert_eq!(host.logs(), [(Level::Info, "asked path=/mcp/main".to_owned())]);
    let Ok(Outcome::Challenge { parameters, message }) =
        Everything::authenticate(fake::Request::new().lend(), into.lend())
    else {
        panic!("not challenged")
    };
    assert_eq!(
        parameters, "error=\"invalid_request\", error_description=\"say whoyou are\"",
        "what can't stand in a header is left out"
    );
    assert!(message.contains("\"who\""));
}

#[test]
fn form_encoding_is_that_of_forms() {
    let encoded = fake::Secret::new("a b&c=d/é~").hand_over().form_encoded();
    assert_eq!(reveal(&encoded).unwrap(), b"a+b%26c%3Dd%2F%C3%A9%7E");
}

#[test]
fn requests_carry_secrets_and_failures_become_errors() {
    let host = fake::Host::new()
        .answer(
            "POST",
            "https://t.example/token",
            fake::Response::new(200, r#"{"access_token": "t", "expires_in": 60}"#),
        )
        .failure("GET", "https://t.example/down", http::HttpError::Timeout)
        .install();
    let form =
        Secret::concat(&[Part::Text("code="), Part::Secret(&fake::Secret::new("a b").hand_over().form_encoded())]);
    let answer = http::Request::post("https://t.example/token").secret_body(&form).send().unwrap();
    assert_eq!((answer.status(), answer.number("/expires_in")), (200, Some(60.0)));
    assert_eq!(reveal(&answer.take_secret("/access_token").unwrap()).unwrap(), b"t");
    assert!(answer.take_secret("/expires_in").is_none(), "not a text");
    assert_eq!(host.requests()[0].body, b"code=a+b");
    let down = http::Request::get("https://t.example/down").send().map(|_| ()).map_err(Error::from);
    assert_eq!(down, Err(Error::Timeout));
    let elsewhere = http::Request::get("https://elsewhere.example").send().map(|_| ());
    assert!(matches!(elsewhere, Err(http::HttpError::Denied(_))));
}

#[test]
fn values_survive_json() {
    for json in [r#""a""#, "1.5", "true", r#"["a","b"]"#, r#"{"a":[1]}"#, "null", r#"["a",1]"#] {
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(Value::from_json(&json).to_json(), json);
    }
}
