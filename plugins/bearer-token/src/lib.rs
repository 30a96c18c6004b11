//! Auth provider `bearer-token`: callers who come with a token that Portcullis issued.
//!
//! No configuration. A request without a bearer token, or with one that is not of our form, is left to the next provider.
//! One of our form that is unknown, expired, revoked or for another gateway is refused here: nobody else can know it.

use portcullis_sdk::{Error, Identity, LookupError, Outcome, Provider, Request, export, lookup};

/// The provider.
pub struct BearerToken;

impl Provider for BearerToken {
    fn authenticate(request: Request<'_>, into: Identity<'_>) -> Result<Outcome, Error> {
        let Some(bearer) = request.bearer() else { return Ok(Outcome::NotMine) };
        let refusal = match lookup(&bearer) {
            Ok(token) => {
                into.adopt(&token);
                if let Some(at) = token.expires_ms() {
                    into.expires(at);
                }
                return Ok(Outcome::Accepted);
            }
            Err(LookupError::NotOurs) => return Ok(Outcome::NotMine),
            Err(LookupError::Unknown) => {
                "this token is not known here: check that it was copied whole, or ask an operator for a new one"
                    .to_owned()
            }
            Err(LookupError::Expired) => "this token has expired: sign in again, or make a new one".to_owned(),
            Err(LookupError::Revoked) => "this token was revoked: sign in again, or make a new one".to_owned(),
            Err(LookupError::WrongGateway) => {
                format!("this token is not for the gateway \"{}\": use one that is", request.gateway())
            }
            Err(LookupError::Unavailable(why)) => return Err(Error::Unavailable(why)),
            Err(LookupError::Other(why)) => return Err(Error::Other(why)),
            Err(_) => return Err(Error::Other("the token could not be looked up".into())),
        };
        Ok(Outcome::challenge("invalid_token", refusal))
    }
}

export!(BearerToken: Provider; wants: {
    tokens: "finds out whose a token of this gateway is",
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use portcullis_sdk::fake;

    use super::*;

    fn authenticate(bearer: Option<&str>) -> (Result<Outcome, Error>, fake::Identity) {
        let _host = fake::Host::new()
            .token("good", "user:ann", Some(5_000))
            .token("forever", "team:blue", None)
            .refused_token("unknown", LookupError::Unknown)
            .refused_token("expired", LookupError::Expired)
            .refused_token("revoked", LookupError::Revoked)
            .refused_token("elsewhere", LookupError::WrongGateway)
            .refused_token("down", LookupError::Unavailable("store".into()))
            .install();
        let request = bearer.map_or_else(fake::Request::new, |token| fake::Request::new().with_bearer(token));
        let into = fake::Identity::new();
        (BearerToken::authenticate(request.lend(), into.lend()), into)
    }

    #[test]
    fn a_valid_token_names_its_owner_until_it_expires() {
        let (outcome, identity) = authenticate(Some("good"));
        assert_eq!(outcome, Ok(Outcome::Accepted));
        assert_eq!((identity.named().as_deref(), identity.expiry_ms()), (Some("user:ann"), Some(5_000)));
        let (outcome, identity) = authenticate(Some("forever"));
        assert_eq!(outcome, Ok(Outcome::Accepted));
        assert_eq!((identity.named().as_deref(), identity.expiry_ms()), (Some("team:blue"), None));
    }

    #[test]
    fn what_is_not_ours_is_left_to_others() {
        for bearer in [None, Some("somebody-elses")] {
            let (outcome, identity) = authenticate(bearer);
            assert_eq!((outcome, identity.named()), (Ok(Outcome::NotMine), None));
        }
    }

    #[test]
    fn a_token_of_ours_that_does_not_hold_is_challenged() {
        for (token, word) in
            [("unknown", "not known"), ("expired", "expired"), ("revoked", "revoked"), ("elsewhere", "\"main\"")]
        {
            let (outcome, identity) = authenticate(Some(token));
            let Ok(Outcome::Challenge { parameters, message }) = outcome else { panic!("{token}: {outcome:?}") };
            assert!(parameters.starts_with("error=\"invalid_token\", error_description=\""), "{parameters}");
            assert_eq!(parameters.matches('"').count(), 4, "quotes inside a quoted string: {parameters}");
            assert!(message.contains(word), "{message}");
            assert_eq!(identity.named(), None);
        }
    }

    #[test]
    fn tokens_that_cannot_be_read_are_a_fault() {
        assert_eq!(authenticate(Some("down")).0, Err(Error::Unavailable("store".into())));
    }
}
