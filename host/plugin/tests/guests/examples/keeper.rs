//! Remembers, signs, counts, patches and lets in: what came into the contract after its first release.

use std::time::Duration;

use portcullis_sdk::{
    Call, Caller, Decision, Described, Error, Identity, Jwt, Metadata, Outcome, Part, Patch, Prompt, PromptGet,
    Provider, Question, Request, Resolution, Resolver, ServerRequest, Session, SessionOpen, State, StateError,
    SwapError, Target, ToolCall, ToolOutcome, ToolResult, config, export, hmac_sha256, metrics, secret,
};
use portcullis_trial_guests::report;

/// The guest.
pub struct Keeper;

#[derive(serde::Deserialize)]
struct Config {
    #[serde(default)]
    act: String,
    #[serde(default)]
    issuer: String,
}

impl ToolCall for Keeper {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        let state = State::open();
        match config::<Config>()?.act.as_str() {
            "count" => {
                let n = state.update(&caller.subject(), None, |before| {
                    let n = before.and_then(|b| b.first().copied()).unwrap_or(0) + 1;
                    (vec![n], n)
                })?;
                Ok(report(n.to_string()))
            }
            "fill" => {
                // Until it is full, and then in the place of what is there.
                let full = (0..10_000u32).find_map(|i| state.set(&i.to_string(), &[0; 1000], None).err());
                let again = state.set("0", &[1; 1000], Some(Duration::from_secs(1)));
                let large = state.set("large", &vec![0; 100_000], None);
                let stale = state.swap("0", None, b"x", None);
                state.delete("1")?;
                let room = state.set("new", &[0; 900], None);
                Ok(report(format!(
                    "{full:?} {} {large:?} {} {}",
                    again.is_ok(),
                    matches!(stale, Err(SwapError::Stale(Some(there))) if there.value == [1; 1000]),
                    room.is_ok()
                )))
            }
            "flood" => {
                for i in 0..1000 {
                    metrics::count("flood", &[("i", &i.to_string())], 1);
                }
                metrics::observe("seconds", &[], 0.25);
                metrics::count("Not a word", &[], 1);
                Ok(Decision::Allow)
            }
            "patch" => {
                call.patch(&Patch::new().replace("/title", "new").add("/more", [1, 2]))?;
                assert_eq!(call.argument("/title").as_deref(), Some("\"new\""), "the getters show it");
                assert_eq!(call.arguments_size(), call.arguments().len() as u64);
                let fails = call.patch(&Patch::new().remove("/title").test("/more", "other"));
                assert!(fails.is_err() && call.argument("/title").is_some(), "all or none");
                Ok(Decision::Allow)
            }
            "patch-and-deny" => {
                call.patch(&Patch::new().remove("/title"))?;
                Ok(Decision::deny("no", "no"))
            }
            "patch-away" => {
                call.patch(&Patch::new().replace("", [1]))?;
                Ok(Decision::Allow)
            }
            "state-error" => Ok(report(format!("{:?}", state.get("k").err().unwrap_or(StateError::Quota)))),
            _ => Ok(Decision::Allow),
        }
    }
}

impl ToolResult for Keeper {
    fn review(_: Caller<'_>, call: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error> {
        if call.patch(&Patch::new().remove("/title")).is_ok() {
            return Ok(report("the arguments have been sent"));
        }
        if outcome.value_as::<String>("/content/0/text")?.is_some_and(|text| text.contains("secret")) {
            outcome.patch(&Patch::new().replace("/content/0/text", "***"))?;
        }
        Ok(Decision::Allow)
    }
}

impl PromptGet for Keeper {
    fn decide(_: Caller<'_>, prompt: Prompt<'_>) -> Result<Decision, Error> {
        prompt.patch(&Patch::new().replace("/who", "ann"))?;
        Ok(Decision::Allow)
    }
}

impl ServerRequest for Keeper {
    fn decide(_: Caller<'_>, question: Question<'_>) -> Result<Decision, Error> {
        question.patch(&Patch::new().add("/_meta", true))?;
        Ok(Decision::Allow)
    }
}

impl SessionOpen for Keeper {
    fn open(caller: Caller<'_>, session: Session<'_>) -> Result<Decision, Error> {
        let agent =
            if session.client_name().as_deref() == Some("headers") { caller.header("user-agent") } else { None };
        let told = format!(
            "{:?} {} {:?} {:?} {} {agent:?}",
            session.occasion(),
            session.protocol(),
            session.client_name(),
            session.client_version(),
            session.client_capabilities(),
        );
        Ok(if session.client_name().as_deref() == Some("good") { Decision::Allow } else { Decision::deny("who", told) })
    }
}

impl Resolver for Keeper {
    fn resolve(_: Caller<'_>, _: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        let key = secret("key")?;
        if config::<Config>()?.act == "hmac" {
            let code = hmac_sha256(&key, b"message")?;
            into.header("x-signature", &[Part::Text("sha256="), Part::Secret(&code.hex())]);
            return Ok(());
        }
        let token = Jwt::new(&serde_json::json!({"iss": "me"}))?.key_id("k1").sign(&key)?;
        into.header("authorization", &[Part::Text("Bearer "), Part::Secret(&token)]);
        Ok(())
    }
}

impl Provider for Keeper {
    fn authenticate(_: Request<'_>, _: Identity<'_>) -> Result<Outcome, Error> {
        Ok(Outcome::NotMine)
    }
}

impl Described for Keeper {
    fn describe(into: Metadata<'_>) -> Result<(), Error> {
        let issuer = config::<Config>()?.issuer;
        if issuer.is_empty() {
            return Ok(());
        }
        into.authorization_server(&issuer);
        into.scope("tools:read");
        into.documentation("https://docs.example/");
        Ok(())
    }
}

export!(
    Keeper: ToolCall, ToolResult, PromptGet, ServerRequest, SessionOpen, Resolver, Provider, Described
);
