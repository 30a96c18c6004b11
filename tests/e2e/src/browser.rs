//! A browser as far as sign-in and consent need one: cookies, redirects, pages that go on by themselves, and forms. Plain HTTP,
//! no scripts. It keeps cookies by host and port, as if each listener were a site of its own.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use http::header;
use url::{Url, form_urlencoded};

use crate::http::{Reply, send};

/// The most steps of one way.
const STEPS: usize = 20;

/// Cookies, and the page that is shown.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    cookies: BTreeMap<String, BTreeMap<String, String>>,
    /// Where it is.
    pub url: String,
    /// The status of the page.
    pub status: u16,
    /// The page.
    pub html: String,
    /// Places that are not gone to, such as a client's redirect URI: a way that leads there ends.
    pub stops: Vec<String>,
}

/// A form on a page.
#[derive(Clone, Debug)]
pub struct Form {
    /// Where it is sent.
    pub action: String,
    /// `get` or `post`.
    pub method: String,
    /// What it holds, hidden fields among them.
    pub fields: Vec<(String, String)>,
    /// The names and values of its buttons.
    pub buttons: Vec<(String, String)>,
}

impl Browser {
    /// One that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes somewhere, and on to where that leads. Answers where it ended.
    ///
    /// # Errors
    /// Where nobody answers, or it never ends.
    pub async fn go(&mut self, url: &str) -> anyhow::Result<String> {
        self.walk("GET", url.to_owned(), String::new()).await
    }

    /// Sends the page's form that has this field or button, with these values in place of its own.
    ///
    /// # Errors
    /// Where there is none, or nobody answers.
    pub async fn submit(&mut self, with: &str, values: &[(&str, &str)]) -> anyhow::Result<String> {
        let form = self.form(with)?;
        let mut fields = form.fields.clone();
        for (name, value) in values {
            fields.retain(|(n, _)| n != name);
            fields.push(((*name).to_owned(), (*value).to_owned()));
        }
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let action = Url::parse(&self.url)?.join(&form.action)?;
        match form.method.as_str() {
            "post" => self.walk("POST", action.into(), body).await,
            _ => {
                let mut action = action;
                action.set_query(Some(&body));
                self.walk("GET", action.into(), String::new()).await
            }
        }
    }

    /// The page's form that has this field or button.
    ///
    /// # Errors
    /// Where there is none.
    pub fn form(&self, with: &str) -> anyhow::Result<Form> {
        let has = |f: &Form| f.fields.iter().chain(&f.buttons).any(|(n, _)| n == with);
        let found = forms(&self.html).into_iter().find(has);
        found.with_context(|| format!("no form with {with} at {} ({}): {}", self.url, self.status, self.html))
    }

    /// The cookies of the site that is shown.
    pub fn cookies(&self) -> BTreeMap<String, String> {
        site(&self.url).and_then(|s| self.cookies.get(&s).cloned()).unwrap_or_default()
    }

    /// Puts a cookie, as somebody would who took it from elsewhere.
    ///
    /// # Panics
    /// Where the URL is none.
    pub fn put_cookie(&mut self, url: &str, name: &str, value: &str) {
        let site = site(url).expect("a URL");
        self.cookies.entry(site).or_default().insert(name.to_owned(), value.to_owned());
    }

    /// One request with this browser's cookies, going nowhere further.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn send(&mut self, method: &str, url: &str, body: &str) -> anyhow::Result<Reply> {
        let site = site(url).context("no URL")?;
        let cookies: Vec<String> =
            self.cookies.get(&site).into_iter().flatten().map(|(n, v)| format!("{n}={v}")).collect();
        let cookies = cookies.join("; ");
        let mut headers = vec![("accept", "text/html"), ("content-type", "application/x-www-form-urlencoded")];
        if !cookies.is_empty() {
            headers.push(("cookie", &cookies));
        }
        let reply = send(method, url, &headers, body.to_owned()).await?;
        for set in reply.headers.get_all(header::SET_COOKIE) {
            let set = set.to_str()?;
            let (name, value) = set.split(';').next().and_then(|p| p.split_once('=')).context("a cookie")?;
            let jar = self.cookies.entry(site.clone()).or_default();
            let gone = set.to_ascii_lowercase().contains("max-age=0") || set.contains("1970");
            if gone || value.is_empty() {
                jar.remove(name.trim());
            } else {
                jar.insert(name.trim().to_owned(), value.to_owned());
            }
        }
        Ok(reply)
    }

    async fn walk(&mut self, method: &str, url: String, body: String) -> anyhow::Result<String> {
        let (mut method, mut url, mut body) = (method.to_owned(), url, body);
        for _ in 0..STEPS {
            if self.stops.iter().any(|stop| url.starts_with(stop)) {
                self.url.clone_from(&url);
                return Ok(url);
            }
            let reply = self.send(&method, &url, &body).await?;
            self.url.clone_from(&url);
            self.status = reply.status.as_u16();
            self.html = reply.text();
            let next = match reply.headers.get(header::LOCATION) {
                Some(location) if reply.status.is_redirection() => Some(location.to_str()?.to_owned()),
                _ => refresh(&self.html),
            };
            let Some(next) = next else { return Ok(url) };
            ensure!(!matches!(self.status, 307 | 308) || method == "GET", "a form is sent on to {next}");
            url = Url::parse(&url)?.join(&next)?.into();
            (method, body) = ("GET".to_owned(), String::new());
        }
        bail!("this way does not end: {url}")
    }
}

fn site(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Where a page goes by itself.
fn refresh(html: &str) -> Option<String> {
    let meta = tags(html, "meta").into_iter().find(|t| attribute(t, "http-equiv").as_deref() == Some("refresh"))?;
    attribute(&meta, "content")?.split_once("url=").map(|(_, url)| url.to_owned())
}

/// The forms of a page.
fn forms(html: &str) -> Vec<Form> {
    let mut found = Vec::new();
    for piece in html.split("<form").skip(1) {
        let piece = piece.split("</form").next().unwrap_or_default();
        let head = piece.split('>').next().unwrap_or_default();
        let named = |tag: &String| Some((attribute(tag, "name")?, attribute(tag, "value").unwrap_or_default()));
        let inputs = tags(piece, "input").into_iter().filter(|t| {
            let kind = attribute(t, "type").unwrap_or_default();
            kind != "submit" && (!matches!(kind.as_str(), "checkbox" | "radio") || t.contains(" checked"))
        });
        found.push(Form {
            action: attribute(head, "action").unwrap_or_default(),
            method: attribute(head, "method").unwrap_or_default().to_ascii_lowercase(),
            fields: inputs.filter_map(|t| named(&t)).collect(),
            buttons: tags(piece, "button").iter().filter_map(named).collect(),
        });
    }
    found
}

fn tags(html: &str, name: &str) -> Vec<String> {
    let open = format!("<{name}");
    let rest = html.split(&open).skip(1).filter(|r| r.starts_with(|c: char| c.is_whitespace() || c == '>'));
    rest.map(|r| r.split('>').next().unwrap_or_default().to_owned()).collect()
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let at = tag.find(&format!(" {name}=\"")).or_else(|| tag.find(&format!("\n{name}=\"")))?;
    let value = tag[at + name.len() + 3..].split('"').next()?;
    Some(
        value
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&"),
    )
}
