//! Policy `webhook`: an HTTP service decides. `docs/plugins/webhook.md` is its reference, and says what the service is sent and what it
//! may answer.

mod config;
mod kept;
mod question;

use std::time::{SystemTime, UNIX_EPOCH};

use config::Config;
use kept::Verdict;
use portcullis_sdk::{
    Call, Caller, ConfigCell, Decision, Error, Level, Part, Setup, ToolCall, export, hmac_sha256,
    http::{HttpError, Request, Response},
    log, secret,
};
use question::Question;

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// The longest message of a service that callers read.
const MAX_MESSAGE: usize = 500;
/// The longest that a verdict is kept, in seconds: so long a withdrawn right may still count.
const MAX_KEPT: f64 = 60.0;

/// The policy.
pub struct Webhook;

impl Setup for Webhook {
    fn prepare() -> Result<(), Error> {
        CONFIG.read(|_| Ok(()))
    }
}

impl ToolCall for Webhook {
    fn decide(caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
        decide_at(caller, call, now_seconds())
    }
}

fn decide_at(caller: Caller<'_>, call: Call<'_>, now: u64) -> Result<Decision, Error> {
    CONFIG.read(|config| {
        if !config.covers.call(call) {
            return Ok(Decision::Allow);
        }
        let question = Question::new(config, caller, call)?;
        let key = question.key(&config.url)?;
        if let Some(verdict) = kept::get(&key) {
            return Ok(verdict.decision());
        }
        let answer = ask(config, &question.to_json(&call.request_id())?, now)?;
        let (verdict, keep) = read(&answer)?;
        if let (Answer::Verdict(verdict), Some(seconds)) = (&verdict, keep) {
            kept::set(&key, verdict, seconds);
        }
        Ok(match verdict {
            Answer::Verdict(verdict) => verdict.decision(),
            Answer::Changed(arguments) => Decision::Modify(arguments),
        })
    })
}

/// Sends the question, signed: the service can tell that it comes from here, is whole, and is not an old one.
fn ask(config: &Config, body: &[u8], now: u64) -> Result<Response, Error> {
    let key = secret(&config.signing_secret)?;
    let time = now.to_string();
    let signed = [time.as_bytes(), b".", body].concat();
    let signature = hmac_sha256(&key, &signed)?.hex();
    let sent = Request::post(config.url.as_str())
        .header("content-type", &[Part::Text("application/json")])
        .header("portcullis-timestamp", &[Part::Text(&time)])
        .header("portcullis-signature", &[Part::Text("v1="), Part::Secret(&signature)])
        .body(body)
        .timeout_ms(config.timeout_ms)
        .send();
    sent.map_err(|error| {
        log(Level::Warn, "the webhook gives no answer", &[("why", &error.to_string())]);
        match error {
            HttpError::Denied(why) => Error::InvalidConfig(why),
            other => other.into(),
        }
    })
}

/// What an answer means.
enum Answer {
    Verdict(Verdict),
    /// Allowed with these arguments.
    Changed(Vec<u8>),
}

/// The body of an answer, where it has one that may be read.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    allow: Option<bool>,
    message: Option<String>,
    arguments: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What the service said, and for how many seconds that may be kept. Whatever is not said clearly is no verdict.
fn read(answer: &Response) -> Result<(Answer, Option<u64>), Error> {
    let status = answer.status();
    let none = |why: &str| Error::Upstream { status: Some(status), message: why.to_owned() };
    let keep = kept_for(answer.number("/cacheSeconds"));
    let bytes = answer.body();
    let body = || serde_json::from_slice::<Body>(&bytes);
    match status {
        204 => Ok((Answer::Verdict(Verdict::Allow), None)),
        200 if bytes.is_empty() => Err(none(
            "the webhook answers 200, whose body can't be read without the grant reveal; 204 allows without one",
        )),
        200 => {
            let body = body().map_err(|_| none("the webhook's answer is no verdict"))?;
            match (body.allow, body.arguments) {
                (Some(true), Some(arguments)) => Ok((Answer::Changed(serde_json::to_vec(&arguments)?), None)),
                (Some(true), None) => Ok((Answer::Verdict(Verdict::Allow), keep)),
                (Some(false), _) => Ok((denied(body.message), keep)),
                (None, _) => Err(none("the webhook's answer does not say whether it allows the call")),
            }
        }
        // Refused, whatever the body is.
        403 => Ok((denied(body().unwrap_or_default().message), keep)),
        _ => Err(none("the webhook gives no verdict")),
    }
}

/// For how many seconds a verdict may be kept that the service lets be kept for so many.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 60")]
fn kept_for(seconds: Option<f64>) -> Option<u64> {
    seconds.filter(|seconds| *seconds >= 1.0).map(|seconds| seconds.min(MAX_KEPT) as u64)
}

fn denied(message: Option<String>) -> Answer {
    let message = message.unwrap_or_else(|| "the policy service does not allow this".to_owned());
    Answer::Verdict(Verdict::Deny(message.chars().take(MAX_MESSAGE).collect()))
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

export!(Webhook: Setup, ToolCall; config: Config; wants: {
    http: "asks the service",
    secrets: "the key that questions are signed with",
    sign: "signs questions",
    state: "keeps verdicts for as long as the service says",
    reveal: "reads messages and changed arguments in the service's answers",
});

#[cfg(test)]
mod tests;
