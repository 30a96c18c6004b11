//! Where a client may have people sent back to: exactly where it said, but for the port of a loopback address.

pub use portcullis_model::{address::is_loopback, spec::oauth_client::redirect_problem};
use url::Url;

/// Whether a redirect URI is one of those that the client named. Compared as text; of a loopback address over http the port
/// may differ (RFC 8252 section 7.3), and nothing else.
pub fn allowed<'a>(registered: impl IntoIterator<Item = &'a str>, sent: &str) -> bool {
    let sent_url = loopback(sent);
    redirect_problem(sent).is_ok()
        && registered.into_iter().any(|known| {
            known == sent || matches!((loopback(known), &sent_url), (Some(known), Some(sent)) if known == *sent)
        })
}

/// A loopback http URI without its port; none for any other, and for those that a URL parser would read otherwise than they
/// are written.
fn loopback(uri: &str) -> Option<Url> {
    let mut url = Url::parse(uri).ok()?;
    let written = uri == url.as_str() || (url.path() == "/" && format!("{uri}/") == url.as_str());
    if url.scheme() != "http" || !is_loopback(&url) || !written {
        return None;
    }
    url.set_port(None).ok()?;
    Some(url)
}

/// Where people are sent back to, with what the client is told. `iss` is always there (RFC 9207).
pub fn back(redirect_uri: &str, issuer: &str, state: Option<&str>, told: &[(&str, &str)]) -> Option<String> {
    let mut url = Url::parse(redirect_uri).ok()?;
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(told);
        query.extend_pairs(state.map(|s| ("state", s)));
        query.append_pair("iss", issuer);
    }
    Some(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_of_a_loopback_address_may_differ() {
        let registered = ["https://app.example/cb", "http://127.0.0.1:1000/cb", "http://localhost/", "app:/cb"];
        let allowed = |sent| allowed(registered, sent);
        for good in [
            "https://app.example/cb",
            "http://127.0.0.1:1000/cb",
            "http://127.0.0.1:2000/cb",
            "http://localhost:7/",
            "app:/cb",
        ] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "https://app.example/cb/",
            "https://app.example/cb?x",
            "https://app.example:444/cb",
            "https://app.example.evil/cb",
            "https://app.example@evil.example/cb",
            "https://APP.example/cb",
            "http://app.example/cb",
            "http://127.0.0.1:2000/cb2",
            "http://127.0.0.1:2000/cb?x=1",
            "http://127.0.0.2/cb",
            "http://localhost/cb",
            "http://127.0.0.1.evil.example/cb",
            "http://127.1/cb",
            "http://127.0.0.1:2000/x/../cb",
            "app:/cb2",
            "",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }

    #[test]
    fn what_the_client_is_told_stands_behind_its_own_query() {
        let back = back("https://a.example/cb?x=1", "https://i", Some("a&b"), &[("code", "c")]);
        assert_eq!(back.as_deref(), Some("https://a.example/cb?x=1&code=c&state=a%26b&iss=https%3A%2F%2Fi"));
    }
}
