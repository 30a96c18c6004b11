//! Whose account was connected, as far as the authorization server says: shown before anything is saved.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::{Secret, text::deceives};
use serde::{Deserialize, Serialize};

/// The most characters of a name that somebody else's server tells.
const MAX_WORDS: usize = 200;

/// An account at an authorization server. What it holds was said by that server and is text for people, not to be decided
/// by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The authorization server.
    pub issuer: String,
    /// The account's identifier there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// Claims of an ID token or of the userinfo endpoint (OpenID Connect Core 1.0 section 5.1).
#[derive(Default, Deserialize)]
struct Claims {
    iss: Option<String>,
    aud: Option<Audience>,
    sub: Option<String>,
    name: Option<String>,
    preferred_username: Option<String>,
    email: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn holds(&self, client: &str) -> bool {
        match self {
            Self::One(one) => one == client,
            Self::Several(all) => all.iter().any(|one| one == client),
        }
    }
}

impl Account {
    /// An account of which only the authorization server is known.
    pub(crate) fn of(issuer: &str) -> Self {
        Self { issuer: issuer.to_owned(), ..Self::default() }
    }

    /// What people recognise it by; none where the authorization server says nothing.
    pub fn title(&self) -> Option<&str> {
        self.email.as_deref().or(self.name.as_deref()).or(self.subject.as_deref())
    }

    /// Reads an ID token that came from the token endpoint itself, whose TLS stands for its signature (OpenID Connect Core 1.0
    /// section 3.1.3.7 number 6). One of another issuer or for another client is left aside.
    pub(crate) fn read_id_token(&mut self, token: &Secret, client: &str) {
        let read = || {
            let text = std::str::from_utf8(token.expose()).ok()?;
            let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
            serde_json::from_slice::<Claims>(&claims).ok()
        };
        let Some(claims) = read() else { return };
        let ours = claims.aud.as_ref().is_some_and(|aud| aud.holds(client));
        if ours && claims.iss.as_deref() == Some(&self.issuer) {
            self.take(claims);
        }
    }

    /// Reads the answer of the userinfo endpoint. One about another subject than the ID token's is left aside (section 5.3.2).
    pub(crate) fn read_userinfo(&mut self, body: &[u8]) {
        if let Ok(claims) = serde_json::from_slice::<Claims>(body)
            && claims.sub.is_some()
            && (self.subject.is_none() || self.subject == claims.sub.as_deref().map(words))
        {
            self.take(claims);
        }
    }

    fn take(&mut self, claims: Claims) {
        let set = |place: &mut Option<String>, text: Option<String>| {
            if let Some(text) = text.map(|t| words(&t)).filter(|t| !t.trim().is_empty()) {
                place.get_or_insert(text);
            }
        };
        set(&mut self.subject, claims.sub);
        set(&mut self.name, claims.name);
        set(&mut self.name, claims.preferred_username);
        set(&mut self.email, claims.email);
    }
}

/// Another's words, short and on one line.
pub(crate) fn words(text: &str) -> String {
    text.chars().map(|c| if deceives(c) { ' ' } else { c }).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> Secret {
        Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)))
    }

    #[test]
    fn an_id_token_names_the_account() {
        let read = |claims: &str| {
            let mut account = Account::of("https://as.example");
            account.read_id_token(&token(claims), "us");
            account
        };
        let good = read(
            r#"{"iss":"https://as.example","aud":["x","us"],"sub":"1","name":"Al\u202eice","email":"a@b.example"}"#,
        );
        assert_eq!((good.title(), good.name.as_deref()), (Some("a@b.example"), Some("Al ice")));
        for other in [
            r#"{"iss":"https://evil.example","aud":"us","sub":"1"}"#,
            r#"{"iss":"https://as.example","aud":"them","sub":"1"}"#,
            r#"{"iss":"https://as.example","sub":"1"}"#,
            "nonsense",
        ] {
            assert_eq!(read(other).title(), None, "{other}");
        }
    }

    #[test]
    fn userinfo_of_somebody_else_is_left_aside() {
        let mut account = Account { subject: Some("1".into()), ..Account::of("https://as.example") };
        account.read_userinfo(br#"{"sub":"2","email":"evil@b.example"}"#);
        assert_eq!(account.email, None);
        account.read_userinfo(br#"{"sub":"1","email":"a@b.example"}"#);
        assert_eq!(account.title(), Some("a@b.example"));
    }
}
