//! Sends requests: with a secret in a header or in the body, or without; and resolves credentials at a token endpoint.

use portcullis_sdk::{
    Call, Caller, Decision, Error, Part, Resolution, Resolver, Target, ToolCall, config, export, http, secret,
};
use portcullis_trial_guests::report;

/// The guest.
pub struct Courier;

#[derive(serde::Deserialize)]
struct Config {
    url: String,
    #[serde(default)]
    with_secret: bool,
    #[serde(default)]
    timeout_ms: Option<u32>,
}

impl ToolCall for Courier {
    fn decide(_: Caller<'_>, _: Call<'_>) -> Result<Decision, Error> {
        let Config { url, with_secret, timeout_ms } = config()?;
        let key = if with_secret { Some(secret("key")?) } else { None };
        let mut request = http::Request::get(url);
        if let Some(key) = &key {
            request = request.header("authorization", &[Part::Text("Bearer "), Part::Secret(key)]);
        }
        if let Some(millis) = timeout_ms {
            request = request.timeout_ms(millis);
        }
        Ok(match request.send() {
            Ok(answer) => {
                let body = String::from_utf8_lossy(&answer.body()).into_owned();
                let echo = answer.header("x-echo");
                let number = answer.number("/number");
                report(format!("{} body={body} echo={echo:?} number={number:?}", answer.status()))
            }
            Err(error) => report(format!("{error}")),
        })
    }
}

impl Resolver for Courier {
    fn resolve(_: Caller<'_>, _: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        let Config { url, .. } = config()?;
        let key = secret("key")?;
        let form = portcullis_sdk::Secret::concat(&[Part::Text("client_secret="), Part::Secret(&key.form_encoded())]);
        let answer = http::Request::post(url).secret_body(&form).send()?;
        let Some(token) = answer.take_secret("/access_token") else { return Err(Error::Other("no token".into())) };
        into.header("authorization", &[Part::Text("Bearer "), Part::Secret(&token)]);
        into.expires(answer.number("/expires_in").unwrap_or_default() as u64);
        Ok(())
    }
}

export!(Courier: ToolCall, Resolver);
