//! Who is calling, by providers that count how often they are asked.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_identity::{
    AuthOptions, AuthRefusal, Authenticator, JwtService, LimitOptions, Presented, Provider, ProviderAnswer,
    ProviderHook,
};
use portcullis_model::{Name, Principal, Side};
use portcullis_plugin::{
    Asserted, AssertedPrincipal, AuthRequest, BoxFuture, PluginFailure, Read, TokenFacts, Tokens as _, Verdict,
};

use crate::house::{House, eventually, name, people, resource};

type Answer = dyn Fn(&AuthRequest) -> Result<ProviderAnswer, PluginFailure> + Send + Sync;

/// A provider that answers as a test says.
struct Fake {
    answer: Mutex<Box<Answer>>,
    asked: AtomicUsize,
}

impl ProviderHook for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    fn ask<'a>(&'a self, request: &'a AuthRequest) -> BoxFuture<'a, Result<ProviderAnswer, PluginFailure>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = (self.answer.lock().unwrap())(request);
        Box::pin(std::future::ready(answer))
    }
}

impl Fake {
    fn new(
        answer: impl Fn(&AuthRequest) -> Result<ProviderAnswer, PluginFailure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { answer: Mutex::new(Box::new(answer)), asked: AtomicUsize::new(0) })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn provider(self: &Arc<Self>, identity: &str) -> Arc<Provider> {
        Arc::new(Provider::of(Arc::clone(self) as Arc<dyn ProviderHook>, identity))
    }
}

fn says(verdict: Verdict, reads: Vec<Read>) -> Result<ProviderAnswer, PluginFailure> {
    Ok(ProviderAnswer { verdict, reads: Some(reads) })
}

fn not_mine() -> Verdict {
    Verdict::NotMine { reads: Vec::new() }
}

fn accepted(who: Asserted, groups: &[&str], expires_ms: Option<u64>) -> Verdict {
    let principal = AssertedPrincipal {
        who,
        display_name: None,
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        roles: Vec::new(),
        claims: vec![("mail".to_owned(), "a@example.com".into())],
        token: None,
    };
    Verdict::Accepted { principal: Box::new(principal), expires_ms, vary: Vec::new(), reads: Vec::new() }
}

fn external(subject: &str) -> Asserted {
    Asserted::External { issuer: "https://i".to_owned(), subject: subject.to_owned() }
}

/// What the built-in provider does: our own tokens, adopted.
fn ours(house: &House) -> Arc<Fake> {
    let tokens = Arc::clone(&house.tokens);
    Fake::new(move |request| {
        let Some(bearer) = &request.bearer else { return says(not_mine(), Vec::new()) };
        match tokens.lookup(&request.tenant, &request.gateway, bearer) {
            Ok(facts) => {
                let expires = facts.expires_ms;
                says(accepted(Asserted::Token(facts), &[], expires), Vec::new())
            }
            Err(e) => says(
                Verdict::Challenge { parameters: "error=\"invalid_token\"".into(), message: e.to_string() },
                Vec::new(),
            ),
        }
    })
}

/// One client.
struct Client {
    tenant: Name,
    gateway: Name,
    address: IpAddr,
    headers: HeaderMap,
    anonymous: bool,
}

impl Client {
    fn new() -> Self {
        Self {
            tenant: name("default"),
            gateway: name("main"),
            address: "192.0.2.1".parse().unwrap(),
            headers: HeaderMap::new(),
            anonymous: false,
        }
    }

    fn bearer(token: &[u8]) -> Self {
        Self::new().with("authorization", &format!("Bearer {}", std::str::from_utf8(token).unwrap()))
    }

    fn with(mut self, header: &str, value: &str) -> Self {
        self.headers.insert(HeaderName::try_from(header).unwrap(), HeaderValue::try_from(value).unwrap());
        self
    }

    async fn ask(&self, at: &Authenticator, providers: &[Arc<Provider>]) -> Result<Arc<Principal>, AuthRefusal> {
        let presented = Presented {
            tenant: &self.tenant,
            gateway: &self.gateway,
            method: "POST",
            path: "/mcp/main",
            address: self.address,
            headers: &self.headers,
            certificate: None,
            request: "r-1",
        };
        at.authenticate(providers, self.anonymous, &presented).await
    }

    async fn show(&self, at: &Authenticator, providers: &[Arc<Provider>]) -> String {
        match self.ask(at, providers).await {
            Ok(p) => {
                let list = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(",");
                format!("{} [{}] [{}]", p.subject_text, list(&p.teams), list(&p.roles))
            }
            Err(refusal) => format!("{} {}", refusal.status.as_u16(), refusal.fault.code),
        }
    }
}

fn authenticator(house: &House, options: AuthOptions) -> Arc<Authenticator> {
    let jwt = JwtService::new(crate::issuer::options());
    Authenticator::new(Arc::clone(&house.directories), Arc::clone(&house.tokens), jwt, options)
}

#[tokio::test]
async fn a_token_is_asked_about_once_and_its_end_holds_at_once() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = ours(&house);
    let providers = [fake.provider("bearer")];
    let created = house.token("user:alice").await;
    let client = Client::bearer(created.text.expose());
    for _ in 0..100 {
        assert_eq!(client.show(&at, &providers).await, "user:alice [blue] [admin]");
    }
    assert_eq!(fake.asked(), 1);
    let principal = client.ask(&at, &providers).await.unwrap();
    assert_eq!(principal.token.as_deref(), Some(created.record.id.as_str()));
    assert!(house.tokens.get(&name("default"), &created.record.id).unwrap().last_used_ms.is_some(), "its use is noted");

    house.tokens.revoke(&name("default"), &created.record.id).await.unwrap();
    assert_eq!(client.show(&at, &providers).await, "401 invalid-credential");
}

#[tokio::test]
async fn changes_of_people_hold_at_once_without_asking_again() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = ours(&house);
    let providers = [fake.provider("bearer")];
    let client = Client::bearer(house.token("user:alice").await.text.expose());
    assert_eq!(client.show(&at, &providers).await, "user:alice [blue] [admin]");

    let before = client.ask(&at, &providers).await.unwrap();
    let mut changed = people();
    changed[2] = resource("default", "Team", "red", r#"{"members":["alice"]}"#);
    changed.remove(4);
    house.set_people(changed.clone());
    // As it was let in, and as it is: for what goes on without being asked again.
    let now = at.as_of_now(&before, &name("main")).unwrap();
    assert_eq!((&before.teams, &now.teams, now.roles.len()), (&vec![name("blue")], &vec![name("red")], 0));
    assert_eq!((&now.token, &now.claims), (&before.token, &before.claims));
    assert_eq!(client.show(&at, &providers).await, "user:alice [red] []");
    assert_eq!(fake.asked(), 1, "who it is did not change");

    changed.remove(0);
    house.set_people(changed);
    assert!(at.as_of_now(&before, &name("main")).is_none());
    assert_eq!(client.show(&at, &providers).await, "401 invalid-credential");
    house.set_people(people());
    assert_eq!(client.show(&at, &providers).await, "user:alice [blue] [admin]", "a refusal ends with its reason");
}

#[tokio::test]
async fn verdicts_belong_to_tenant_gateway_and_provider() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = ours(&house);
    let client = Client::bearer(house.token("user:alice").await.text.expose());
    assert!(client.ask(&at, &[fake.provider("a")]).await.is_ok());
    assert!(client.ask(&at, &[fake.provider("b")]).await.is_ok());
    assert_eq!(fake.asked(), 2, "another configuration of the provider");
    let other = Client { tenant: name("other"), headers: client.headers.clone(), ..Client::new() };
    assert_eq!(other.show(&at, &[fake.provider("a")]).await, "401 invalid-credential");
    let side = Client { gateway: name("side"), headers: client.headers.clone(), ..Client::new() };
    assert!(side.ask(&at, &[fake.provider("a")]).await.is_ok());
    assert_eq!(fake.asked(), 4);

    let wanted = portcullis_identity::NewToken { gateways: vec![name("main")], ..crate::house::wanted("user:bob") };
    let scoped = house.tokens.create(wanted).await.unwrap();
    let main = Client::bearer(scoped.text.expose());
    assert!(main.ask(&at, &[fake.provider("a")]).await.is_ok());
    let side = Client { gateway: name("side"), headers: main.headers.clone(), ..Client::new() };
    assert_eq!(side.show(&at, &[fake.provider("a")]).await, "401 invalid-credential");
}

#[tokio::test]
async fn a_provider_can_not_make_tokens_up() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let created = house.token("user:alice").await;
    let facts = |id: &str| TokenFacts { id: id.to_owned(), subject: "user:alice".parse().unwrap(), expires_ms: None };
    let check = async |facts: TokenFacts, tenant: &str, expected: &str| {
        let fake = Fake::new(move |_| says(accepted(Asserted::Token(facts.clone()), &[], None), Vec::new()));
        let client = Client { tenant: name(tenant), ..Client::bearer(b"x") };
        assert_eq!(client.show(&at, &[fake.provider(&format!("{tenant}{expected}"))]).await, expected);
    };
    check(facts("made-up"), "default", "401 invalid-credential").await;
    check(facts(&created.record.id), "other", "401 invalid-credential").await;
    check(facts(&created.record.id), "default", "user:alice [blue] [admin]").await;
    house.tokens.revoke(&name("default"), &created.record.id).await.unwrap();
    let stale = Fake::new({
        let facts = facts(&created.record.id);
        move |_| says(accepted(Asserted::Token(facts.clone()), &[], None), Vec::new())
    });
    assert_eq!(Client::bearer(b"x").show(&at, &[stale.provider("stale")]).await, "401 invalid-credential");
}

#[tokio::test]
async fn people_of_an_issuer_are_users_or_external_and_not_for_long() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions { external: Duration::from_millis(40), ..AuthOptions::default() });
    let fake = Fake::new(|request| {
        let token = request.bearer.as_ref().map_or(&b""[..], |b| b.expose());
        let groups: &[&str] = if token == b"9" { &["blues"] } else { &[] };
        says(accepted(external(std::str::from_utf8(token).unwrap()), groups, Some(u64::MAX)), Vec::new())
    });
    let providers = [fake.provider("jwks")];
    let (alice, stranger) = (Client::bearer(b"1"), Client::bearer(b"9"));
    assert_eq!(alice.show(&at, &providers).await, "user:alice [blue] [admin]");
    assert_eq!(stranger.show(&at, &providers).await, "external:https://i#9 [blue] []");
    assert_eq!(stranger.ask(&at, &providers).await.unwrap().claims["mail"], "a@example.com");
    let before = fake.asked();
    eventually("the provider is asked again", || async {
        alice.ask(&at, &providers).await.unwrap();
        fake.asked() > before
    })
    .await;
}

#[tokio::test]
async fn an_expired_assertion_is_not_remembered() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = Fake::new(|_| says(accepted(external("1"), &[], Some(1)), Vec::new()));
    let providers = [fake.provider("jwks")];
    for n in 1..=3 {
        assert!(Client::bearer(b"x").ask(&at, &providers).await.is_ok());
        assert_eq!(fake.asked(), n);
    }
}

#[tokio::test]
async fn what_a_provider_read_is_part_of_the_key() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = Fake::new(|request| {
        let unit = request.headers.get("x-unit").map_or("none", |v| v.to_str().unwrap());
        says(accepted(external(unit), &[], None), vec![Read::Header("x-unit".to_owned())])
    });
    let providers = [fake.provider("p")];
    let unit = |unit: &str| Client::bearer(b"x").with("x-unit", unit);
    for _ in 0..3 {
        assert_eq!(unit("a").show(&at, &providers).await, "external:https://i#a [] []");
        assert_eq!(unit("b").show(&at, &providers).await, "external:https://i#b [] []");
        assert_eq!(Client::bearer(b"x").show(&at, &providers).await, "external:https://i#none [] []");
    }
    assert_eq!(fake.asked(), 3);
    let elsewhere = unit("a").with("x-other", "1");
    assert_eq!(elsewhere.show(&at, &providers).await, "external:https://i#a [] []");
    assert_eq!(fake.asked(), 3, "nobody read that header");
}

#[tokio::test]
async fn what_an_earlier_provider_read_counts_too() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let first = Fake::new(|request| {
        let reads = vec![Read::Header("x-block".to_owned())];
        let blocked = request.headers.contains_key("x-block");
        says(if blocked { Verdict::Refused("blocked".into()) } else { not_mine() }, reads)
    });
    let second = Fake::new(|_| says(accepted(external("1"), &[], None), Vec::new()));
    let providers = [first.provider("1"), second.provider("2")];
    let client = || Client::bearer(b"x");
    for _ in 0..2 {
        assert_eq!(client().show(&at, &providers).await, "user:alice [blue] [admin]");
        assert_eq!(client().with("x-block", "1").show(&at, &providers).await, "401 invalid-credential");
    }
    assert_eq!(second.asked(), 1);

    // Of whom it is not known what it read, nothing is remembered.
    let dark = Fake::new(|_| Ok(ProviderAnswer { verdict: not_mine(), reads: None }));
    let providers = [dark.provider("3"), second.provider("2")];
    for n in 2..4 {
        assert!(client().ask(&at, &providers).await.is_ok());
        assert_eq!(second.asked(), n);
    }
}

#[tokio::test]
async fn the_first_who_knows_decides_and_a_failure_refuses() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let yes = Fake::new(|_| says(accepted(external("1"), &[], None), Vec::new()));
    let check = async |first: fn() -> Result<Verdict, PluginFailure>, expected: &str| {
        let asked = yes.asked();
        let fake = Fake::new(move |_| first().and_then(|verdict| says(verdict, Vec::new())));
        let identity = format!("{:?}", first());
        let found = Client::bearer(b"x").show(&at, &[fake.provider(&identity), yes.provider("yes")]).await;
        assert_eq!(found, expected);
        let next = usize::from(expected.starts_with("user:"));
        assert_eq!(yes.asked() - asked, next, "{identity}");
    };
    check(|| Ok(not_mine()), "user:alice [blue] [admin]").await;
    check(|| Ok(Verdict::Refused("no".into())), "401 invalid-credential").await;
    check(|| Ok(Verdict::Challenge { parameters: "a".into(), message: "m".into() }), "401 invalid-credential").await;
    check(|| Ok(Verdict::Anonymous { reads: Vec::new() }), "401 unauthenticated").await;
    check(|| Err(PluginFailure::Trap("boom".into())), "503 auth-unavailable").await;
    check(|| Err(PluginFailure::Timeout), "503 auth-unavailable").await;
    check(|| Err(PluginFailure::PoolFull), "503 auth-unavailable").await;
    check(|| Err(PluginFailure::Invalid("groups".into())), "503 auth-unavailable").await;
    let trap = Fake::new(|_| Err(PluginFailure::Trap("SECRET".into())));
    let refusal = Client::bearer(b"x").ask(&at, &[trap.provider("t")]).await.unwrap_err();
    assert_eq!(refusal.fault.side, Side::Gateway);
    assert!(!refusal.fault.to_string().contains("SECRET"), "what broke is for operators");
}

#[tokio::test]
async fn nobody_gets_in_unless_the_gateway_says_so() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = ours(&house);
    let providers = [fake.provider("bearer")];
    let refusal = Client::new().ask(&at, &providers).await.unwrap_err();
    assert_eq!(refusal.status, 401);
    assert_eq!(refusal.challenge.unwrap(), "Bearer", "no error where no credential was sent");
    assert!(refusal.fault.next.unwrap().contains("portcullis token create"));
    assert_eq!(Client::new().show(&at, &[]).await, "401 unauthenticated");
    assert_eq!(Client::bearer(b"x").show(&at, &[]).await, "401 invalid-credential");

    let open = || Client { anonymous: true, ..Client::new() };
    assert_eq!(open().show(&at, &providers).await, "anonymous [] []");
    assert_eq!(open().show(&at, &[]).await, "anonymous [] []");
    assert_eq!(open().with("cookie", "a=b").show(&at, &[]).await, "anonymous [] []");
    let wrong = Client { anonymous: true, ..Client::bearer(b"pcl_wrong") };
    assert_eq!(wrong.show(&at, &providers).await, "401 invalid-credential", "a wrong credential is not nobody");
    let unclaimed = Client { anonymous: true, ..Client::bearer(b"else") };
    assert_eq!(unclaimed.show(&at, &[]).await, "401 invalid-credential");
}

#[tokio::test]
async fn refusals_are_repeated_for_a_moment_and_failures_counted() {
    let house = House::new().await;
    let limit = LimitOptions { burst: 3, every: Duration::from_secs(3600), ..LimitOptions::default() };
    let at = authenticator(&house, AuthOptions { limit, ..AuthOptions::default() });
    let fake = ours(&house);
    let providers = [fake.provider("bearer")];
    let wrong = Client::bearer(b"pcl_wrong");
    for _ in 0..2 {
        assert_eq!(wrong.show(&at, &providers).await, "401 invalid-credential");
    }
    assert_eq!(fake.asked(), 1, "the refusal was repeated");
    let good = Client::bearer(house.token("user:alice").await.text.expose());
    assert!(good.ask(&at, &providers).await.is_ok());
    assert_eq!(wrong.show(&at, &providers).await, "401 invalid-credential");

    let refusal = wrong.ask(&at, &providers).await.unwrap_err();
    assert_eq!(refusal.status, 429);
    assert!(refusal.fault.retry_after_ms.unwrap() > 1000);
    assert!(good.ask(&at, &providers).await.is_ok(), "who is known already gets on");
    // Behind the same address, never seen before: a token that works is no failure, and its first call gets through.
    let fresh = house.token("user:bob").await;
    assert!(Client::bearer(fresh.text.expose()).ask(&at, &providers).await.is_ok());
    // A token that was good is no ticket past the limit, nor is one of ours that was never made.
    house.tokens.revoke(&name("default"), &fresh.record.id).await.unwrap();
    assert_eq!(Client::bearer(fresh.text.expose()).ask(&at, &providers).await.unwrap_err().status, 429);
    // Who sends nothing learns how to get a credential, here too.
    assert_eq!(Client::new().show(&at, &providers).await, "401 unauthenticated");
    let elsewhere = Client { address: "192.0.2.2".parse().unwrap(), ..Client::bearer(b"pcl_wrong") };
    assert_eq!(elsewhere.show(&at, &providers).await, "401 invalid-credential");

    // Asking without a credential is how clients find out that they need one.
    let curious = || Client { address: "192.0.2.3".parse().unwrap(), ..Client::new() };
    for _ in 0..10 {
        assert_eq!(curious().show(&at, &providers).await, "401 unauthenticated");
    }
}

#[tokio::test]
async fn a_repeated_refusal_ends_soon() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions { refused: Duration::from_millis(30), ..AuthOptions::default() });
    let fake = Fake::new(|_| says(Verdict::Refused("not yet".into()), Vec::new()));
    let providers = [fake.provider("p")];
    let client = Client::bearer(b"x");
    assert!(client.ask(&at, &providers).await.is_err());
    *fake.answer.lock().unwrap() = Box::new(|_| says(accepted(external("1"), &[], None), Vec::new()));
    eventually("the provider is asked again", || async {
        // Fewer than the limit: each try counts as a failure.
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.ask(&at, &providers).await.is_ok()
    })
    .await;
}

/// One authenticated request with a token of ours.
pub(crate) async fn use_once(house: &House, at: &Authenticator, token: &portcullis_model::Secret) {
    let providers = [ours(house).provider("bearer")];
    Client::bearer(token.expose()).ask(at, &providers).await.unwrap();
}

/// The budget of a warm authentication is a microsecond in an optimised build; this prints what it is here, and holds it to
/// a figure that only a plugin call, a lock or a store read would break in an unoptimised one.
#[tokio::test]
async fn the_warm_path_is_short() {
    let house = House::new().await;
    let at = authenticator(&house, AuthOptions::default());
    let fake = ours(&house);
    let providers = [fake.provider("bearer")];
    let client = Client::bearer(house.token("user:alice").await.text.expose());
    client.ask(&at, &providers).await.unwrap();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            client.ask(&at, &providers).await.unwrap();
        }
        best = best.min(start.elapsed() / 1000);
    }
    eprintln!("a warm authentication takes {best:?}");
    assert_eq!(fake.asked(), 1);
    assert!(best < Duration::from_micros(100), "{best:?}");
}
