//! Signing in to the pages with a one-time code, and everything that must not open a session.

use portcullis_e2e::{
    browser::Browser,
    http,
    product::{Product, resource},
};
use serde_json::json;

async fn product() -> Product {
    let resources = [
        resource("User", "alice", json!({"displayName": "Alice <b>A</b>"})),
        resource("User", "bob", json!({})),
        resource("Gateway", "main", json!({})),
    ];
    Product::start(&resources).await.unwrap()
}

fn code(product: &Product, user: &str) -> String {
    let made = product.ask(&["signin", "--user", user], "").unwrap();
    assert_eq!(made["url"], product.page("/signin"), "no code in the URL");
    made["code"].as_str().unwrap().to_owned()
}

fn session(browser: &Browser) -> Option<String> {
    browser.cookies().get("portcullis").cloned()
}

#[tokio::test]
async fn a_code_signs_in_once_and_a_sign_out_ends_it() {
    let product = product().await;
    let code = code(&product, "alice");
    let mut browser = Browser::new();
    browser.go(&product.page("/signin?next=/healthz")).await.unwrap();
    let ended = browser.submit("code", &[("code", &code.to_lowercase().replace('-', " "))]).await.unwrap();
    assert_eq!(ended, product.page("/healthz"), "{}", browser.html);
    let cookie = session(&browser).expect("a session");

    // Who has signed in is not asked again, and goes nowhere else.
    assert_eq!(browser.go(&product.page("/signin?next=//evil.example/")).await.unwrap(), product.page("/"));
    // The code is used up, for everybody.
    let mut other = Browser::new();
    other.go(&product.page("/signin")).await.unwrap();
    other.submit("code", &[("code", &code)]).await.unwrap();
    assert_eq!((other.status, session(&other)), (403, None));
    assert!(other.html.contains("not valid") && !other.html.contains(&code), "{}", other.html);

    // Another browser with the cookie is the session; without the form's token it can't even sign out.
    let mut thief = Browser::new();
    thief.put_cookie(&product.page("/"), "portcullis", &cookie);
    let forged = thief.send("POST", &product.page("/signout"), "csrf=x").await.unwrap();
    assert_eq!(forged.status, 403);

    browser.go(&product.page("/signin")).await.unwrap();
    let kept = browser.send("GET", &product.page("/signin"), "").await.unwrap();
    assert!(kept.status.is_redirection(), "still signed in");
    // The header of every page holds the form.
    let page = browser.send("POST", &product.page("/signout"), "csrf=wrong").await.unwrap();
    assert!(page.text().contains("Alice &lt;b&gt;A&lt;/b&gt;"), "names are text: {}", page.text());
    browser.html = page.text();
    browser.url = product.page("/signout");
    assert_eq!(browser.submit("csrf", &[]).await.unwrap(), product.page("/signin"));
    assert_eq!(session(&browser), None);
    let after = thief.send("GET", &product.page("/signin"), "").await.unwrap();
    assert_eq!(after.status, 200, "the session is over wherever its cookie is");

    let log = product.log();
    assert!(!log.contains(&code) && !log.contains(&cookie), "no secret in the log");
    product.stop().await;
}

#[tokio::test]
async fn forms_of_other_places_open_nothing() {
    let product = product().await;
    let code = code(&product, "bob");
    let url = product.page("/signin");
    let mut browser = Browser::new();
    // No cookie, no token; then a token without its cookie.
    let sent = browser.send("POST", &url, &format!("code={code}")).await.unwrap();
    assert_eq!(sent.status, 403);
    browser.go(&url).await.unwrap();
    let token = browser.form("code").unwrap().fields.iter().find(|(n, _)| n == "csrf").unwrap().1.clone();
    let body = format!("code={code}&csrf={token}");
    assert_eq!(Browser::new().send("POST", &url, &body).await.unwrap().status, 403);
    // The right token and cookie, from a page elsewhere.
    let cookie = browser.cookies().iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let elsewhere: [(&str, &str); 3] =
        [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "https://evil.example")];
    for said in elsewhere {
        let reply = http::post(&url, &[form, ("cookie", &cookie), said], body.clone()).await.unwrap();
        assert_eq!(reply.status, 403, "{said:?}");
    }
    // A rebound name sees no page at all.
    let rebound = http::get(&url, &[("host", "evil.example")]).await.unwrap();
    assert_eq!(rebound.status, 403);
    // And from the page itself it works: nothing of the above used the code up.
    browser.submit("code", &[("code", &code)]).await.unwrap();
    assert!(session(&browser).is_some(), "{}", browser.html);
    product.stop().await;
}

#[tokio::test]
async fn guesses_are_limited_by_address_and_pages_say_what_browsers_may_do() {
    let product = product().await;
    let mut browser = Browser::new();
    browser.go(&product.page("/signin")).await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..12 {
        browser.submit("code", &[("code", "0000-0000-0000")]).await.unwrap();
        statuses.push(browser.status);
        if browser.status == 429 {
            break;
        }
    }
    assert_eq!((statuses.first(), statuses.last()), (Some(&403), Some(&429)), "{statuses:?}");

    let page = http::get(&product.page("/signin"), &[]).await.unwrap();
    let header = |name: &str| page.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let policy = header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!policy.contains("script-src"), "{policy}");
    assert_eq!(
        (header("cache-control"), header("referrer-policy"), header("x-frame-options")),
        ("no-store".to_owned(), "no-referrer".to_owned(), "DENY".to_owned())
    );
    let cookie = header("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && cookie.contains("Path=/"), "{cookie}");
    let style = http::get(&product.page("/assets/portcullis.css"), &[]).await.unwrap();
    assert_eq!(style.status, 200);
    product.stop().await;
}
