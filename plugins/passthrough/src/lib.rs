//! Credential strategy `passthrough`: the caller's own token goes on to the server, where it was made for that server too.
//!
//! Tokens of an identity provider only, which came with the request and whose audience holds both this gateway (or the caller
//! would not be in) and the server; never one of this gateway's own, never one that is bound to a key; over https only. An
//! operator may let tokens through that were made for this gateway alone, with a reason that is recorded at each use.
//!
//! The host holds every plugin to these rules where the token is placed; this one says beforehand, in words, which rule it is that
//! keeps a token back.

use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_sdk::{Caller, CallerToken, Error, Part, Resolution, Resolver, Target, TokenKind, caller_token, export};
use serde::Deserialize;

/// How long the answer is used where the token does not say when it ends.
const UNSAID_MS: u64 = 60_000;

/// The strategy.
pub struct Passthrough;

/// An operator's exception.
#[derive(Deserialize)]
struct Exception {
    reason: String,
}

impl Resolver for Passthrough {
    fn resolve(_caller: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        let server = target.server();
        let refused = |code: &str, why: &str| {
            Err(Error::denied(code, format!("{server} is called with your own token, and yours can't go there: {why}")))
        };
        let Some(token) = caller_token() else {
            return refused("no-token", "you came without one");
        };
        match token.kind() {
            TokenKind::Jwt => {}
            TokenKind::Ours => {
                return refused(
                    "own-token",
                    "it is a token of this gateway, which is for this gateway alone. Connect with one of the identity provider",
                );
            }
            _ => return refused("not-presented", "it did not come with your request"),
        }
        if token.bound() {
            return refused("bound-token", "it is bound to a key of your own, so nobody else may use it");
        }
        if !target.url().starts_with("https://") {
            return refused("not-https", "the server is not reached over https. Ask your operator");
        }
        if !is_for(&token, target)? {
            let excepted = target.setting::<Exception>("allowAudience")?.is_some_and(|e| !e.reason.trim().is_empty());
            if !excepted {
                return refused(
                    "wrong-audience",
                    "it was not made for that server. Ask your identity provider for a token whose audience holds both",
                );
            }
        }
        let Some(secret) = token.handle() else {
            return refused("no-token", "you came without one");
        };
        into.header("authorization", &[Part::Text("Bearer "), Part::Secret(&secret)]);
        into.expires(token.expires_ms().unwrap_or_else(|| now_ms().saturating_add(UNSAID_MS)));
        Ok(())
    }
}

/// Whether the token was made for the server: one of its names in `aud`, or its URL where the operator wrote none.
fn is_for(token: &CallerToken, target: Target<'_>) -> Result<bool, Error> {
    let audiences = token.audiences();
    let names: Vec<String> = target.setting("audience")?.unwrap_or_default();
    if !names.is_empty() {
        return Ok(names.iter().any(|name| audiences.contains(name)));
    }
    let url = target.url();
    // A URL without a path is written with and without its slash.
    let bare = url.strip_suffix('/').filter(|rest| rest.matches('/').count() == 2);
    Ok(audiences.iter().any(|audience| *audience == url || Some(audience.as_str()) == bare))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

export!(Passthrough: Resolver; wants: {
    callerToken: "looks at the caller's token",
    passthrough: "passes it on to the server",
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use portcullis_sdk::fake;
    use serde_json::json;

    use super::*;

    const URL: &str = "https://github.example/mcp";

    fn token(audiences: &[&str]) -> fake::CallerToken {
        fake::CallerToken::new("SUBJECT", "https://idp.example", audiences).expires_ms(9_000)
    }

    fn resolve(token: Option<fake::CallerToken>, target: &fake::Target) -> (Result<(), Error>, fake::Resolution) {
        let _host = token.into_iter().fold(fake::Host::new(), fake::Host::caller_token).install();
        let into = fake::Resolution::new();
        (Passthrough::resolve(fake::Caller::new("user:ann").lend(), target.lend(), into.lend()), into)
    }

    #[test]
    fn a_token_that_was_made_for_the_server_goes_there() {
        for (audiences, target) in [
            (vec!["gateway", URL], fake::Target::new("github")),
            (vec!["https://github.example"], fake::Target::new("github").at("https://github.example/")),
            (vec!["api://github"], fake::Target::new("github").with_setting("audience", json!(["api://github"]))),
            (vec!["gateway"], fake::Target::new("github").with_setting("allowAudience", json!({"reason": "OPS-12"}))),
        ] {
            let (result, into) = resolve(Some(token(&audiences)), &target);
            assert_eq!(result, Ok(()), "{audiences:?}");
            assert_eq!(into.header_value("authorization").as_deref(), Some("Bearer SUBJECT"));
            assert_eq!(into.expiry_ms(), Some(9_000));
        }
    }

    #[test]
    fn any_other_stays_here() {
        let github = || fake::Target::new("github");
        let excepted = || github().with_setting("allowAudience", json!({"reason": "OPS-12"}));
        for (token, target, word) in [
            (None, excepted(), "without one"),
            (Some(fake::CallerToken::ours()), excepted(), "token of this gateway"),
            (Some(token(&[URL]).of_sign_in()), excepted(), "did not come"),
            (Some(token(&[URL]).bound()), excepted(), "bound to a key"),
            (Some(token(&["http://github.example/mcp"])), excepted().at("http://github.example/mcp"), "https"),
            (Some(token(&["gateway"])), github(), "not made for that server"),
            (Some(token(&["https://github.example"])), github(), "not made for that server"),
            (Some(token(&[URL])), github().with_setting("audience", json!(["api://github"])), "not made"),
            (Some(token(&["gateway"])), github().with_setting("allowAudience", json!({"reason": ""})), "not made"),
        ] {
            let (result, into) = resolve(token, &target);
            let Err(Error::Denied(denial)) = result else { panic!("{word}: {result:?}") };
            assert!(denial.message.contains(word), "{}", denial.message);
            assert_eq!(into.header_value("authorization"), None);
        }
    }
}
