//! Credential strategy `idp-exchange`: an identity provider swaps the caller's own token for one that the server takes.
//!
//! Three flows: token exchange (RFC 8693); ID-JAG, which is token exchange for an identity assertion grant and then a JWT bearer
//! grant (RFC 7523) with it at the server's authorization server; and on-behalf-of, a JWT bearer grant with the caller's token. The
//! host holds every token: this plugin says which goes into which field of which request, and where the last one is placed.
//!
//! The settings stand in the assignment's credential and are checked when it is written: `docs/plugins/idp-exchange.md`.

mod settings;

use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_sdk::{
    Caller, CallerToken, Earlier, Error, Level, NextStep, OnRejected, Part, Refresher, Resolution, Resolver, Secret,
    Target, TokenAnswer, TokenError, TokenKind, TokenRequest, caller_token, export, log,
};
use settings::{ClientAuth, Flow, Settings, Step, TokenClient};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// How long one request may take, so that two of them fit into a call's patience.
const TIMEOUT_MS: u32 = 4_500;
/// How long a token is used whose life nobody says.
const UNSAID_MS: u64 = 60_000;

/// The strategy.
pub struct IdpExchange;

impl Resolver for IdpExchange {
    fn resolve(_caller: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        swap(target, into)
    }
}

impl Refresher for IdpExchange {
    fn refresh(_: Caller<'_>, target: Target<'_>, _: Earlier<'_>, into: Resolution<'_>) -> Result<(), Error> {
        swap(target, into)
    }
}

impl OnRejected for IdpExchange {
    fn rejected(_: Caller<'_>, target: Target<'_>, _: Earlier<'_>, into: Resolution<'_>) -> Result<NextStep, Error> {
        // A token may be taken back before its time: another one is asked for, once.
        swap(target, into)?;
        Ok(NextStep::Retry)
    }
}

/// One whole swap, into the answer.
fn swap(target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
    let settings = Settings::read(target)?;
    let (token, subject) = subject(&target.server())?;
    let answer = match settings.flow {
        Flow::TokenExchange => exchange(&settings, &token, &subject, target, None)?,
        Flow::OnBehalfOf => on_behalf_of(&settings, &subject, target)?,
        Flow::IdJag => {
            let Some(then) = &settings.then else {
                return Err(Error::InvalidConfig("then: flow id-jag needs a second step".into()));
            };
            let assertion = exchange(&settings, &token, &subject, target, Some(ID_JAG))?;
            // RFC 8693 section 2.2.1: it says what it gave. An access token must not be sent on as an assertion.
            if assertion.issued_token_type().as_deref() != Some(ID_JAG) {
                return Err(unusable("the identity provider gave no ID-JAG"));
            }
            let assertion = assertion.access_token().ok_or_else(|| unusable("the identity provider gave no token"))?;
            redeem(then, &assertion, target)?
        }
    };
    place(&settings, &answer, into)
}

/// The caller's token, if it can be swapped.
fn subject(server: &str) -> Result<(CallerToken, Secret), Error> {
    let refused = |code: &str, why: &str| {
        Error::denied(
            code,
            format!("{server} is called with a token that your identity provider gives for yours: {why}"),
        )
    };
    let Some(token) = caller_token() else {
        return Err(refused("no-token", "you came without a token"));
    };
    let Some(secret) = token.handle() else {
        let why = match token.kind() {
            TokenKind::Ours => {
                "you came with a token of this gateway, which it does not know, and no sign-in of yours at it is kept that \
                 could be used instead. Sign in again at this gateway's pages; if that does not help, ask your operator"
            }
            _ => "you came with a token that can't be swapped",
        };
        return Err(refused("not-exchangeable", why));
    };
    if token.bound() {
        return Err(refused("bound-token", "yours is bound to a key of your own, so nobody else may use it"));
    }
    if token.expires_ms().is_some_and(|at| at <= now_ms()) {
        return Err(refused("expired-token", "yours has expired. Sign in again"));
    }
    Ok((token, secret))
}

/// Token exchange (RFC 8693 section 2.1).
fn exchange(
    settings: &Settings,
    token: &CallerToken,
    subject: &Secret,
    target: Target<'_>,
    wanted: Option<&str>,
) -> Result<TokenAnswer, Error> {
    let known = token.token_type();
    let kind = settings.subject_token_type.as_deref().or(known.as_deref()).unwrap_or(ACCESS_TOKEN);
    let mut request = TokenRequest::new(&settings.step.token_endpoint)
        .field("grant_type", &[Part::Text(TOKEN_EXCHANGE)])
        .field("subject_token", &[Part::Secret(subject)])
        .field("subject_token_type", &[Part::Text(kind)]);
    if let Some(wanted) = wanted.or(settings.requested_token_type.as_deref()) {
        request = request.field("requested_token_type", &[Part::Text(wanted)]);
    }
    for audience in &settings.audience {
        request = request.field("audience", &[Part::Text(audience)]);
    }
    let answer = asked(request, &settings.step)?;
    // RFC 8693 section 2.2.2: what is said of a subject token that is invalid or unacceptable, and of nothing else here that a caller
    // could mend. The other grants have `invalid_grant` for that.
    answer.map_err(|error| refusal(error, &settings.step, &target.server(), &["invalid_request"]))
}

/// The caller's token as an assertion, with what marks it as such.
fn on_behalf_of(settings: &Settings, subject: &Secret, target: Target<'_>) -> Result<TokenAnswer, Error> {
    let request = TokenRequest::new(&settings.step.token_endpoint)
        .field("grant_type", &[Part::Text(JWT_BEARER)])
        .field("assertion", &[Part::Secret(subject)])
        .field("requested_token_use", &[Part::Text("on_behalf_of")]);
    send(request, &settings.step, target)
}

/// An ID-JAG for an access token, at the authorization server that it was made for (RFC 7523 section 2.1).
fn redeem(then: &Step, assertion: &Secret, target: Target<'_>) -> Result<TokenAnswer, Error> {
    let request = TokenRequest::new(&then.token_endpoint)
        .field("grant_type", &[Part::Text(JWT_BEARER)])
        .field("assertion", &[Part::Secret(assertion)]);
    send(request, then, target)
}

/// Sends a request.
fn send(request: TokenRequest, step: &Step, target: Target<'_>) -> Result<TokenAnswer, Error> {
    asked(request, step)?.map_err(|error| refusal(error, step, &target.server(), &[]))
}

/// Adds what each request has, and sends it.
fn asked(mut request: TokenRequest, step: &Step) -> Result<Result<TokenAnswer, TokenError>, Error> {
    for resource in &step.resource {
        request = request.field("resource", &[Part::Text(resource)]);
    }
    if let Some(scope) = &step.scope {
        request = request.field("scope", &[Part::Text(scope)]);
    }
    for (name, value) in &step.parameters {
        request = request.field(name, &[Part::Text(value)]);
    }
    Ok(prove(request, &step.client)?.timeout_ms(TIMEOUT_MS).send())
}

/// Adds who asks.
fn prove(request: TokenRequest, client: &TokenClient) -> Result<TokenRequest, Error> {
    let granted = |name: &Option<String>, field: &str| {
        let name = name.as_deref().ok_or_else(|| Error::InvalidConfig(format!("client.{field}: is missing")))?;
        let missing =
            |_| Error::InvalidConfig(format!("client.{field}: \"{name}\" is not among the plugin's granted secrets"));
        portcullis_sdk::secret(name).map_err(missing)
    };
    Ok(match client.auth {
        ClientAuth::None => request.client_public(&client.id),
        ClientAuth::Basic => request.client_basic(&client.id, &granted(&client.secret, "secret")?),
        ClientAuth::Post => request.client_post(&client.id, &granted(&client.secret, "secret")?),
        ClientAuth::PrivateKeyJwt => {
            let mut request = request.client_key(&client.id, &granted(&client.key, "key")?);
            if let Some(id) = &client.key_id {
                request = request.key_id(id);
            }
            if let Some(audience) = &client.audience {
                request = request.assertion_audience(audience);
            }
            if let Some(name) = &client.algorithm {
                request = request.algorithm(name);
            }
            request
        }
    })
}

/// What a caller does whose token is not taken.
const AGAIN: &str = "Sign in again; if that does not help, ask your operator";

/// What a refusal means to the caller; `token` are words that mean their token beside the usual ones. What the endpoint said is for the log.
fn refusal(error: TokenError, step: &Step, server: &str, token: &[&str]) -> Error {
    let TokenError::Refused { error: word, .. } = &error else { return error.into() };
    let again = match word.as_str() {
        "invalid_grant" | "invalid_token" => AGAIN,
        word if token.contains(&word) => AGAIN,
        "interaction_required" | "login_required" | "consent_required" => {
            "Sign in at your identity provider once, where it asks for your consent, then retry"
        }
        "access_denied" => "Ask your operator whether you may use this server",
        // The client, its grants or its parameters: nothing that a caller could mend.
        _ => return error.into(),
    };
    let said = error.to_string();
    log(
        Level::Warn,
        "a token endpoint refused to swap a caller's token",
        &[("endpoint", step.token_endpoint.as_str()), ("server", server), ("said", said.as_str())],
    );
    Error::denied(
        "exchange-refused",
        format!("the identity provider gives no token for {server} in your name ({word}). {again}"),
    )
}

/// Places the new token, and says for how long it holds.
fn place(settings: &Settings, answer: &TokenAnswer, into: Resolution<'_>) -> Result<(), Error> {
    let place = &settings.place;
    let token = match &place.field {
        Some(pointer) => answer.field(pointer).ok_or_else(|| unusable("the answer has no such field"))?,
        None => {
            // A token that is bound to a key is no use to whoever lacks the key (RFC 6749 section 7.1).
            let bearer = |kind: &str| kind.eq_ignore_ascii_case("bearer") || kind.eq_ignore_ascii_case("n_a");
            if answer.token_type().is_some_and(|kind| !bearer(&kind)) {
                return Err(unusable("the token is no bearer token"));
            }
            answer.access_token().ok_or_else(|| unusable("the answer has no access_token"))?
        }
    };
    let header = place.header.as_deref().unwrap_or("authorization").to_ascii_lowercase();
    let usual = if header == "authorization" { "Bearer " } else { "" };
    into.header(&header, &[Part::Text(place.prefix.as_deref().unwrap_or(usual)), Part::Secret(&token)]);
    let life = answer.expires_in().map_or(UNSAID_MS, |seconds| seconds.saturating_mul(1000));
    // A token that ends on its way is refused: a tenth of its life, ten seconds at most, stays unused.
    into.expires(now_ms().saturating_add(life - (life / 10).min(10_000)));
    Ok(())
}

fn unusable(why: &str) -> Error {
    Error::Upstream { status: None, message: why.to_owned() }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

export!(IdpExchange: Resolver, Refresher, OnRejected; wants: {
    callerToken: "hands the caller's token to the token endpoint",
    http: "asks the token endpoint that the assignment names",
    secrets: "proves to the token endpoint who asks",
});

#[cfg(test)]
mod tests;
