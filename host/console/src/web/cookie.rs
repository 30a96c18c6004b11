//! Cookies: which one names the session, and how they are set.

use axum::http::{HeaderMap, HeaderValue, header};

use super::Web;

/// A cookie's name without its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// The session of somebody who has signed in.
    Session,
    /// A browser that nobody has signed in with yet: what its sign-in form is bound to.
    Form,
    /// What a browser that was sent to an identity provider has to bring back.
    Flow,
}

impl Cookie {
    /// With TLS the name begins with `__Host-`, so that no other host and no plain page can set it (RFC 6265bis section
    /// 4.1.3.2); without it only loopback is served, where browsers do not take such a name. Such a cookie is one of the whole
    /// host, so where we have a path of it, the name says which: another of us at another path has its own.
    fn name(self, web: &Web) -> String {
        let place: String = web.prefix().bytes().map(|b| if b == b'/' { '.' } else { char::from(b) }).collect();
        format!("{}{place}", self.plain_name(web.is_secure()))
    }

    fn plain_name(self, secure: bool) -> &'static str {
        match (self, secure) {
            (Self::Session, true) => "__Host-portcullis",
            (Self::Session, false) => "portcullis",
            (Self::Form, true) => "__Host-portcullis-form",
            (Self::Form, false) => "portcullis-form",
            (Self::Flow, true) => "__Host-portcullis-flow",
            (Self::Flow, false) => "portcullis-flow",
        }
    }

    /// What the browser sent under this name; none where it sent several, because nobody can say which is ours.
    pub fn read<'h>(self, web: &Web, headers: &'h HeaderMap) -> Option<&'h str> {
        let name = self.name(web);
        let mut found = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(key, value)| *key == name && !value.is_empty())
            .map(|(_, value)| value);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// `Set-Cookie` for a value of ours; `None` for one that no header can hold, which ours never is.
    pub fn set(self, web: &Web, value: &str, seconds: u64) -> Option<HeaderValue> {
        let name = self.name(web);
        let mark = if web.is_secure() { "; Secure" } else { "" };
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}{mark}");
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// `Set-Cookie` that makes the browser forget it.
    pub fn clear(self, web: &Web) -> Option<HeaderValue> {
        self.set(web, "", 0)
    }
}
