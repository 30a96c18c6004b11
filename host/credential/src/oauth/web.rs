//! Requests of this module: where they may go, and what of an answer is taken.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::ACCEPT};
use portcullis_model::{Secret, address::is_loopback, spec::Remote};
use portcullis_outbound::{Client, Error, Reach, Request, Response};
use serde::{Deserialize, Serialize};
use url::Url;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of an answer.
const MAX_BODY: usize = 256 << 10;

/// Where requests about a server may go: what its operator wrote down says it, not what the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Bounds {
    loopback: bool,
    allow_private: bool,
    allow_insecure: bool,
}

impl Bounds {
    pub(crate) fn of(remote: &Remote) -> Self {
        Self {
            loopback: is_loopback(&remote.url),
            allow_private: remote.allow_private,
            allow_insecure: remote.allow_insecure,
        }
    }

    /// Which addresses a URL may lead to. The error is a sentence's end for operators.
    pub(crate) fn reach(&self, url: &Url) -> Result<Reach, String> {
        let loopback = is_loopback(url);
        if loopback && !self.loopback && !self.allow_private {
            return Err("is on this machine, and the server is not".to_owned());
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback || self.allow_insecure => {}
            _ => return Err("is no https URL".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a credential".to_owned());
        }
        Reach::of(url, self.allow_private).map_err(|refused| refused.to_string())
    }
}

/// Why there is no answer. What it says is for operators and quotes nothing that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer {
    pub(crate) why: String,
}

/// Sends requests.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    client: Arc<Client>,
}

impl Web {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    /// Fetches a document.
    pub(crate) async fn get(&self, url: &Url, bounds: &Bounds) -> Result<Response, NoAnswer> {
        self.send(Method::GET, url, bounds, Vec::new(), Secret::new("")).await
    }

    /// Sends anything.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        bounds: &Bounds,
        mut headers: Vec<(HeaderName, HeaderValue)>,
        body: Secret,
    ) -> Result<Response, NoAnswer> {
        let at = place(url);
        let reach = bounds.reach(url).map_err(|why| NoAnswer { why: format!("{at} {why}") })?;
        if !headers.iter().any(|(name, _)| name == ACCEPT) {
            headers.push((ACCEPT, HeaderValue::from_static("application/json")));
        }
        let request = Request { method, url: url.clone(), headers, body, timeout: TIMEOUT, max_body: MAX_BODY, reach };
        self.client.send(request).await.map_err(|error| NoAnswer {
            why: match error {
                Error::Timeout => format!("{at} does not answer in time"),
                Error::TooLarge => format!("{at} answers with more than {MAX_BODY} bytes"),
                other => format!("{at}: {other}"),
            },
        })
    }
}

/// A URL as it may be shown: queries can hold anything.
pub(crate) fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// `Retry-After` in seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}

/// Whether an answer is what was asked for: anything but 200 is not, redirects as well.
pub(crate) fn found(response: &Response) -> bool {
    response.status == StatusCode::OK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_elsewhere_leads_nowhere_on_this_machine() {
        let bounds = |url: &str, allow_private| Bounds {
            loopback: is_loopback(&url.parse().unwrap()),
            allow_private,
            allow_insecure: false,
        };
        let reach = |bounds: &Bounds, url: &str| bounds.reach(&url.parse().unwrap());
        let remote = bounds("https://mcp.example/mcp", false);
        assert_eq!(reach(&remote, "https://as.example/token"), Ok(Reach::Public));
        for bad in [
            "http://as.example/token",
            "http://localhost:1/token",
            "https://127.0.0.1/token",
            "https://[::1]/token",
            "https://10.0.0.1/token",
            "https://169.254.169.254/latest",
            "https://u:p@as.example/token",
            "ftp://as.example/",
        ] {
            assert!(reach(&remote, bad).is_err(), "{bad}");
        }
        let local = bounds("http://127.0.0.1:9/mcp", false);
        assert_eq!(reach(&local, "http://localhost:1/token"), Ok(Reach::Loopback));
        assert_eq!(reach(&local, "https://as.example/token"), Ok(Reach::Public));
        assert!(reach(&local, "http://10.0.0.1/token").is_err());
        let private = bounds("https://mcp.corp.example/mcp", true);
        assert_eq!(reach(&private, "https://10.0.0.1/token"), Ok(Reach::Any));
        assert!(reach(&private, "http://10.0.0.1/token").is_err());
    }
}
