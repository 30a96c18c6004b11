//! Phase 1, accept: is this request for us, from where, and from a page that may ask?

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderMap, header};
use ipnet::IpNet;
use portcullis_model::{Fault, Side};
use url::Url;

/// What the operator says about the door that clients come in by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names that `Host` may hold beside IP addresses, `localhost` and that of `public_url`.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may send requests, such as `https://app.example.com`.
    pub allowed_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where clients reach us, where that is not the address we listen on.
    pub public_url: Option<Url>,
    /// Whether clients reach the address that we listen on by TLS.
    pub tls: bool,
    /// The most bytes of a request's body.
    pub max_body: usize,
    /// Streams of `subscriptions/listen` that one caller may have open.
    pub max_streams_of_caller: usize,
    /// How long a client has to answer what a server asks it.
    pub answer_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            public_url: None,
            tls: false,
            max_body: 4 << 20,
            max_streams_of_caller: 1_000,
            answer_within: Duration::from_secs(10 * 60),
        }
    }
}

impl Settings {
    /// Refuses what a foreign name or a foreign web page sent (DNS rebinding; 2025-11-25 basic/transports "Security
    /// Warning"). A `Host` that is an IP address can't be a rebound name.
    ///
    /// # Errors
    /// A fault of the caller, for HTTP status 403.
    pub fn check_origin(&self, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Fault> {
        let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or("\u{fffd}"));
        let sent = text(header::HOST);
        let twice = headers.get_all(header::HOST).iter().nth(1).is_some();
        let differs = authority.zip(sent).is_some_and(|(authority, host)| !authority.eq_ignore_ascii_case(host));
        if twice || differs {
            // Who stands in front may have believed the other one (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
            return Err(Fault::new(Side::Caller, "invalid-request", "the request names more than one host")
                .next("Send one Host header"));
        }
        let host = authority.or(sent).unwrap_or_default();
        let host_name = name_of(host);
        if !self.is_our_name(host_name) {
            return Err(Fault::new(Side::Caller, "foreign-host", "the Host header names another server")
                .next("Ask the operator to add this name to allowedHosts or publicUrl"));
        }
        let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
        let listed = self.allowed_origins.iter().any(|o| o == origin);
        let origin_name = origin.split_once("://").map(|(_, rest)| name_of(rest)).unwrap_or_default();
        let both_local = is_loopback(origin_name) && is_loopback(host_name);
        if listed || both_local {
            return Ok(());
        }
        Err(Fault::new(Side::Caller, "foreign-origin", "web pages of this origin may not send requests here")
            .next("Ask the operator to add this origin to allowedOrigins"))
    }

    /// The client's address: the connection's, or what trusted proxies say, read from the right so that a client can't
    /// make one up.
    pub fn client_address(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |ip: &IpAddr| self.trusted_proxies.iter().any(|net| net.contains(ip));
        let mut address = peer.ip().to_canonical();
        if self.trusted_proxies.is_empty() || !trusted(&address) {
            return address;
        }
        let forwarded: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .collect();
        for hop in forwarded.into_iter().rev() {
            let Ok(ip) = hop.trim().parse::<IpAddr>() else { break };
            address = ip.to_canonical();
            if !trusted(&address) {
                break;
            }
        }
        address
    }

    fn is_our_name(&self, name: &str) -> bool {
        is_loopback(name)
            || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || self.allowed_hosts.iter().any(|h| h.eq_ignore_ascii_case(name))
            || self.public_url.as_ref().and_then(Url::host_str).is_some_and(|h| h.eq_ignore_ascii_case(name))
    }
}

/// Refuses a body that is anything but plain JSON in UTF-8 (RFC 8259 section 8.1), before it is read.
///
/// # Errors
/// A fault of the caller, for HTTP status 415.
pub fn check_content(headers: &HeaderMap) -> Result<(), Fault> {
    let refused = |why: &'static str| Err(Fault::new(Side::Caller, "unsupported-media-type", why));
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else {
        return refused("the body must be application/json");
    };
    // What nearly everybody sends.
    if first.as_bytes() != b"application/json" {
        let mut pieces = first.to_str().unwrap_or_default().split(';');
        if !pieces.next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
            return refused("the body must be application/json");
        }
        let charset = pieces
            .filter_map(|piece| piece.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
            .map(|(_, value)| value.trim().trim_matches('"'));
        if charset.is_some_and(|c| !c.eq_ignore_ascii_case("utf-8") && !c.eq_ignore_ascii_case("us-ascii")) {
            return refused("the body must be in UTF-8, whatever its charset says");
        }
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if encodings.any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return refused("the body must not be encoded: Content-Encoding is not supported here");
    }
    Ok(())
}

/// The name in `name:port` or `[v6]:port`.
fn name_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority.split(':').next().unwrap_or(authority)
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn foreign_names_and_pages_are_refused() {
        let settings = Settings {
            allowed_hosts: vec!["mcp.example.com".into()],
            allowed_origins: vec!["https://app.example.com".into()],
            public_url: Some("https://gw.example.org/".parse().unwrap()),
            ..Settings::default()
        };
        let check = |host: &str, origin: Option<&str>| {
            let mut pairs = vec![("host", host)];
            pairs.extend(origin.map(|o| ("origin", o)));
            settings.check_origin(None, &headers(&pairs)).map_err(|f| f.code)
        };
        for host in ["localhost:7777", "127.0.0.1:1", "[::1]:7777", "10.0.0.7", "MCP.example.com", "gw.example.org:443"]
        {
            assert_eq!(check(host, None), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "mcp.example.com.evil"] {
            assert_eq!(check(host, None), Err("foreign-host"), "{host}");
        }
        assert_eq!(check("mcp.example.com", Some("https://app.example.com")), Ok(()));
        assert_eq!(check("localhost:7777", Some("http://localhost:6274")), Ok(()));
        for origin in ["https://evil.example", "null", "http://localhost:6274", "https://app.example.com.evil"] {
            assert_eq!(check("mcp.example.com", Some(origin)), Err("foreign-origin"), "{origin}");
        }
        assert_eq!(check("127.0.0.1:7777", Some("http://evil.example")), Err("foreign-origin"));
    }

    #[test]
    fn a_request_names_one_host() {
        let settings = Settings::default();
        let check = |authority, headers: &HeaderMap| settings.check_origin(authority, headers).map_err(|f| f.code);
        let one = headers(&[("host", "localhost:7777")]);
        let mut two = one.clone();
        two.append(header::HOST, "localhost:7777".parse().unwrap());
        assert_eq!(check(None, &one), Ok(()));
        assert_eq!(check(Some("LOCALHOST:7777"), &one), Ok(()));
        assert_eq!(check(Some("localhost:7777"), &HeaderMap::new()), Ok(()), "HTTP/2 needs no Host");
        assert_eq!(check(None, &two), Err("invalid-request"), "also where both say the same");
        assert_eq!(check(Some("localhost:1"), &one), Err("invalid-request"));
        assert_eq!(check(Some("evil.example"), &one), Err("invalid-request"));
    }

    #[test]
    fn a_body_is_plain_json_in_utf_8() {
        let check = |pairs: &[(&'static str, &str)]| check_content(&headers(pairs)).map_err(|f| f.code);
        for right in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; charset=us-ascii; v=1",
        ] {
            assert_eq!(check(&[("content-type", right)]), Ok(()), "{right}");
        }
        for wrong in ["", "text/plain", "application/jsonx", "application/json; charset=utf-16", "a; application/json"]
        {
            assert_eq!(check(&[("content-type", wrong)]), Err("unsupported-media-type"), "{wrong}");
        }
        assert!(check(&[]).is_err());
        let json = ("content-type", "application/json");
        assert_eq!(check(&[json, ("content-encoding", "identity")]), Ok(()));
        assert!(check(&[json, ("content-encoding", "gzip")]).is_err());
        let mut twice = headers(&[json]);
        twice.append(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert!(check_content(&twice).is_err());
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let settings = Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let address = |peer: &str, forwarded: &str| {
            settings.client_address(peer.parse().unwrap(), &headers(&[("x-forwarded-for", forwarded)])).to_string()
        };
        assert_eq!(address("203.0.113.9:1", "1.2.3.4"), "203.0.113.9");
        assert_eq!(address("10.0.0.1:1", "1.2.3.4"), "1.2.3.4");
        assert_eq!(
            address("10.0.0.1:1", "6.6.6.6, 1.2.3.4, 10.0.0.2"),
            "1.2.3.4",
            "what the client made up is not read"
        );
        assert_eq!(address("10.0.0.1:1", "garbage"), "10.0.0.1");
        assert_eq!(address("[::ffff:10.0.0.1]:1", "1.2.3.4"), "1.2.3.4");
    }
}
