//! The hook that says who is calling, and what it may ask: tokens of ours, signed tokens of others.

use std::fmt;

use crate::{Error, Kind, Secret, Value, raw};

/// Says who is calling.
pub trait Provider {
    /// Looks at a request; where the answer is [`Outcome::Accepted`], `into` has been filled.
    ///
    /// # Errors
    /// Any error refuses the request; no other provider is asked.
    fn authenticate(request: Request<'_>, into: Identity<'_>) -> Result<Outcome, Error>;
}

/// What an auth provider says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The identity says who.
    Accepted,
    /// Nobody in particular, and that is fine here.
    Anonymous,
    /// The next provider is asked.
    NotMine,
    /// Refused; nobody else is asked.
    Challenge {
        /// The value of `WWW-Authenticate` behind the scheme, such as `error="invalid_token"` (RFC 6750 section 3).
        parameters: String,
        /// A sentence for people.
        message: String,
    },
    /// Refused, with a reason.
    Refused(String),
}

impl Outcome {
    /// A challenge with an error code and a description (RFC 6750 section 3). Characters that the header can't carry are
    /// left out of the description; the message keeps them.
    pub fn challenge(error: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let description: String =
            message.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect();
        Self::Challenge { parameters: format!("error=\"{error}\", error_description=\"{description}\""), message }
    }
}

/// The request to authenticate. What can carry a credential is a handle.
#[derive(Clone, Copy)]
pub struct Request<'a>(pub(crate) &'a raw::Request);

impl Request<'_> {
    /// The tenant whose gateway was called.
    pub fn tenant(self) -> String {
        self.0.tenant()
    }

    /// The gateway that was called.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// The HTTP method.
    pub fn method(self) -> String {
        self.0.method()
    }

    /// The path of the URL.
    pub fn path(self) -> String {
        self.0.path()
    }

    /// The client's address, without the port.
    pub fn peer(self) -> String {
        self.0.peer()
    }

    /// A header by lower-case name; none of those that can carry a credential.
    pub fn header(self, name: &str) -> Option<String> {
        self.0.header(name)
    }

    /// The token of `Authorization: Bearer`, if there is one.
    pub fn bearer(self) -> Option<Secret> {
        self.0.bearer().map(Secret)
    }

    /// The certificate that the client proved in the TLS handshake, if there is one.
    pub fn certificate(self) -> Option<Certificate> {
        self.0.certificate().map(Certificate)
    }
}

/// A client certificate (RFC 5280) that the TLS handshake has verified: signed by an authority that the operator trusts, in force
/// now, and the client has its key.
pub struct Certificate(raw::Certificate);

impl Certificate {
    /// SHA-256 of the certificate, in lower-case hex.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint()
    }

    /// Values of an attribute of the subject's name, by its short name (RFC 4514 section 3: `CN`, `O`, `OU`) or dotted OID.
    pub fn subject(&self, attribute: &str) -> Vec<String> {
        self.0.subject(attribute)
    }

    /// Values of an attribute of the issuer's name.
    pub fn issuer(&self, attribute: &str) -> Vec<String> {
        self.0.issuer(attribute)
    }

    /// Subject alternative names (RFC 5280 section 4.2.1.6) that are URIs, such as SPIFFE IDs.
    pub fn uris(&self) -> Vec<String> {
        self.0.uris()
    }

    /// Subject alternative names that are DNS names.
    pub fn dns_names(&self) -> Vec<String> {
        self.0.dns_names()
    }

    /// Subject alternative names that are e-mail addresses.
    pub fn emails(&self) -> Vec<String> {
        self.0.emails()
    }

    /// When it ends, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn expires_ms(&self) -> u64 {
        self.0.expires_ms()
    }
}

/// Why a token of ours is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookupError {
    /// Not of the form of our tokens: somebody else's.
    NotOurs,
    /// Of our form, and never issued or long gone.
    Unknown,
    /// Its time is over.
    Expired,
    /// Somebody took it back.
    Revoked,
    /// Valid, but not for this gateway.
    WrongGateway,
    /// The tokens can't be read right now.
    Unavailable(String),
    /// Anything else.
    Other(String),
}

/// A token of ours that is valid now, at this gateway.
pub struct Token(raw::Token);

impl Token {
    /// Whose it is, as [`Caller::subject`](crate::Caller::subject) writes it.
    pub fn subject(&self) -> String {
        self.0.subject()
    }

    /// What sort of principal owns it.
    pub fn kind(&self) -> Kind {
        Kind::parse(&self.0.kind())
    }

    /// In milliseconds since 1970-01-01T00:00:00Z; none where it does not expire.
    pub fn expires_ms(&self) -> Option<u64> {
        self.0.expires_ms()
    }
}

/// Looks a token of ours up.
///
/// # Errors
/// Says why it is not accepted.
pub fn lookup(secret: &Secret) -> Result<Token, LookupError> {
    raw::lookup(&secret.0).map(Token)
}

/// What must hold of a signed token (RFC 7519).
pub struct Rules(raw::Rules);

impl Rules {
    /// Signed by this issuer, with keys from its metadata.
    pub fn issuer(issuer: &str) -> Self {
        Self(raw::Rules::new(issuer))
    }

    /// The keys lie here, rather than where the issuer's metadata says.
    #[must_use]
    pub fn jwks_url(self, url: &str) -> Self {
        self.0.jwks_url(url);
        self
    }

    /// One of these must be in `aud`. Without any, verification fails.
    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        self.0.audience(audience);
        self
    }

    /// An allowed algorithm (RFC 7518); RS256, ES256 and EdDSA where none are named.
    #[must_use]
    pub fn algorithm(self, name: &str) -> Self {
        self.0.algorithm(name);
        self
    }

    /// Clock skew allowed, in seconds; 30 where not said, 300 at most.
    #[must_use]
    pub fn leeway(self, seconds: u32) -> Self {
        self.0.leeway(seconds);
        self
    }

    /// The required `typ` header, such as `at+jwt` (RFC 9068).
    #[must_use]
    pub fn token_type(self, name: &str) -> Self {
        self.0.token_type(name);
        self
    }

    /// Checks a token's signature and these rules.
    ///
    /// # Errors
    /// Says which rule does not hold.
    pub fn verify(&self, token: &Secret) -> Result<Verified, JwtError> {
        raw::verify(&token.0, &self.0).map(Verified)
    }
}

/// The `iss` claim before anything was checked, to choose rules by; none where the token is no JWT.
pub fn unverified_issuer(token: &Secret) -> Option<String> {
    raw::unverified_issuer(&token.0)
}

/// Which rule a signed token breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JwtError {
    /// No JWT.
    Malformed,
    /// The algorithm is `none`, symmetric, or not among those asked for.
    Algorithm(String),
    /// The issuer has no key of that id.
    UnknownKey,
    /// The signature does not fit.
    Signature,
    /// Another issuer's.
    Issuer,
    /// For somebody else.
    Audience,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Another `typ`.
    TokenType,
    /// The keys could not be had.
    Unavailable(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the token is not a JWT"),
            Self::Algorithm(name) => write!(f, "the token's algorithm {name} is not accepted"),
            Self::UnknownKey => f.write_str("the token is signed with a key that its issuer does not publish"),
            Self::Signature => f.write_str("the token's signature is wrong"),
            Self::Issuer => f.write_str("the token is of another issuer"),
            Self::Audience => f.write_str("the token was issued for another audience"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYetValid => f.write_str("the token is not valid yet"),
            Self::TokenType => f.write_str("the token is of another type"),
            Self::Unavailable(why) => write!(f, "the issuer's keys are unavailable: {why}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

/// A token whose signature and rules hold.
pub struct Verified(raw::Verified);

impl Verified {
    /// The `iss` claim.
    pub fn issuer(&self) -> String {
        self.0.issuer()
    }

    /// The `sub` claim.
    pub fn subject(&self) -> String {
        self.0.subject()
    }

    /// In milliseconds since 1970-01-01T00:00:00Z.
    pub fn expires_ms(&self) -> u64 {
        self.0.expires_ms()
    }

    /// A claim by JSON Pointer, or by name where it has no leading slash.
    pub fn claim(&self, pointer: &str) -> Option<Value> {
        self.0.claim(pointer).map(raw::value)
    }
}

/// The answer, lent for the plugin to fill. The host refuses what the plugin was not granted.
#[derive(Clone, Copy)]
pub struct Identity<'a>(pub(crate) &'a raw::Identity);

impl Identity<'_> {
    /// The principal is the owner of this token.
    pub fn adopt(self, token: &Token) {
        self.0.adopt(&token.0);
    }

    /// The principal is `subject` of `issuer`; the issuer must be among the plugin's granted `issuers`.
    pub fn external(self, issuer: &str, subject: &str) {
        self.0.external(issuer, subject);
    }

    /// How the principal may be shown to people.
    pub fn display_name(self, name: &str) {
        self.0.display_name(name);
    }

    /// A group, as the identity provider calls it.
    pub fn group(self, name: &str) {
        self.0.group(name);
    }

    /// A role; must be among the plugin's granted `roles`.
    pub fn role(self, name: &str) {
        self.0.role(name);
    }

    /// A claim that policies may read.
    pub fn claim(self, name: &str, value: &Value) {
        self.0.claim(name, &raw::lower_value(value));
    }

    /// Until when the verdict may be used again, in milliseconds since 1970-01-01T00:00:00Z. The host caps it at 60 seconds
    /// for external principals.
    pub fn expires(self, at_ms: u64) {
        self.0.expires(at_ms);
    }

    /// A header that the verdict depends on, beside the credential itself.
    pub fn vary(self, header: &str) {
        self.0.vary(header);
    }
}
