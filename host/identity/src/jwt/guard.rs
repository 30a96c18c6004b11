//! Where requests for keys may go: public addresses, unless the operator says otherwise.

use portcullis_model::address::is_loopback;
use portcullis_outbound::{Reach, Refused};
use url::Url;

/// Whether a URL is `http` at this machine, by what it says.
pub(super) fn is_loopback_http(url: &Url) -> bool {
    url.scheme() == "http" && is_loopback(url)
}

/// Which addresses a request to this URL may go to. `loopback` allows `http` at this machine.
pub(super) fn check(url: &Url, loopback: bool, allow_private: bool) -> Result<Reach, &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL holds a user name or a password");
    }
    if is_loopback_http(url) {
        return if loopback || allow_private {
            Ok(Reach::Loopback)
        } else {
            Err("it is at a loopback address, and its issuer is not")
        };
    }
    if url.scheme() != "https" {
        return Err("only https is allowed, and http at a loopback address");
    }
    let reach = if allow_private { Reach::Any } else { Reach::Public };
    reach.check(url).map_err(|refused| match refused {
        Refused::NoHost => "the URL has no host",
        Refused::Private => "its address is not of the public internet",
    })?;
    Ok(reach)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_own_loopback() {
        let check = |url: &str, loopback: bool, private: bool| check(&url.parse().unwrap(), loopback, private).is_ok();
        assert!(check("https://idp.example.com/keys", false, false));
        assert!(!check("http://idp.example.com/keys", true, true));
        assert!(!check("ftp://idp.example.com/keys", true, true));
        assert!(check("http://127.0.0.1:9/keys", true, false));
        assert!(check("http://localhost/keys", true, false));
        assert!(!check("http://127.0.0.1/keys", false, false));
        assert!(!check("http://localhost.evil.example/", true, false));
        assert!(!check("https://169.254.169.254/latest", true, false));
        assert!(!check("https://0x7f.1/", true, false), "the URL parser knows that this is 127.0.0.1");
        assert!(!check("https://[::1]/", false, false));
        assert!(check("https://10.0.0.1/", false, true));
        assert!(!check("https://user:pass@idp.example.com/", false, true));
    }
}
