//! Codes and sessions on a real store.

use std::sync::Arc;

use portcullis_identity::{
    SignIn,
    signin::{CodeError, SessionError, SignedIn, Who},
};
use portcullis_telemetry::Metrics;

use crate::house::{House, name, people, resource};

async fn open(house: &House) -> Arc<SignIn> {
    SignIn::open(Arc::clone(&house.store), Arc::clone(&house.directories), Metrics::new()).await.unwrap()
}

fn signed_in(who: Who) -> SignedIn {
    let provider = matches!(who, Who::Identity { .. }).then(|| name("corp"));
    SignedIn { tenant: name("default"), who, groups: Vec::new(), display_name: None, provider, anybody: false }
}

fn text(secret: &portcullis_model::Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

#[tokio::test]
async fn of_all_that_use_a_code_at_once_one_gets_in() {
    let house = House::new().await;
    let signin = open(&house).await;
    assert!(matches!(signin.make_code(&name("default"), &name("eve")).await, Err(CodeError::NoUser(_))));
    let code = text(&signin.make_code(&name("default"), &name("alice")).await.unwrap().text);
    let tries: Vec<_> = (0..20).map(|_| signin.use_code(&code)).collect();
    let mut won = 0;
    for tried in futures(tries).await {
        match tried {
            Ok((_, who)) => {
                assert_eq!(who, Who::User(name("alice")));
                won += 1;
            }
            Err(error) => assert!(matches!(error, CodeError::Invalid), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

async fn futures<F: Future + Send>(all: Vec<F>) -> Vec<F::Output>
where
    F::Output: Send,
{
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        all.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => {
                done.push(output);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn a_session_is_its_person_as_they_are_now() {
    let house = House::new().await;
    let signin = open(&house).await;
    let alice = Who::Identity { issuer: "https://i".to_owned(), subject: "1".to_owned() };
    let new = signin.open_session(signed_in(alice)).await.unwrap();
    let cookie = text(&new.cookie);
    let session = signin.session(&cookie).await.unwrap().unwrap();
    assert_eq!(&*session.principal.subject_text, "user:alice", "the user who claims this identity");
    assert_eq!(session.principal.teams, [name("blue")]);
    // What the store holds opens nothing.
    for record in house.store.scan("w/", None, 100).await.unwrap() {
        assert!(!String::from_utf8_lossy(&record.value).contains(&cookie) && !record.key.contains(&cookie));
    }

    // Out of the team: at once, in the middle of the session.
    let mut people = people();
    people.retain(|r| r.metadata.name.as_str() != "blue");
    house.set_people(people.clone());
    assert_eq!(signin.session(&cookie).await.unwrap().unwrap().principal.teams, []);

    // A code's session ends with its user, also where a namesake comes.
    let code = text(&signin.make_code(&name("default"), &name("bob")).await.unwrap().text);
    let (_, who) = signin.use_code(&code).await.unwrap();
    let bob = text(&signin.open_session(signed_in(who)).await.unwrap().cookie);
    assert!(signin.session(&bob).await.unwrap().is_some());
    people.retain(|r| r.metadata.name.as_str() != "bob");
    let mut namesake = resource("default", "User", "bob", "{}");
    namesake.metadata.created_ms = Some(u64::MAX);
    people.push(namesake);
    house.set_people(people);
    assert!(signin.session(&bob).await.unwrap().is_none(), "another bob");
    let nobody = signin.open_session(signed_in(Who::User(name("eve")))).await;
    assert!(matches!(nobody, Err(SessionError::Nobody(_))));
}

#[tokio::test]
async fn a_providers_word_counts_for_so_long_and_while_it_is_asked() {
    let house = House::new().await;
    let signin = open(&house).await;
    let provide = |spec: &str| {
        let mut people = people();
        people.retain(|r| r.metadata.name.as_str() != "corp");
        people.push(resource("default", "IdentityProvider", "corp", spec));
        house.set_people(people);
    };
    let of = async |subject: &str, groups: &[&str], anybody| {
        let who = Who::Identity { issuer: "https://i".to_owned(), subject: subject.to_owned() };
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let new = signin.open_session(SignedIn { groups, anybody, ..signed_in(who) }).await.unwrap();
        text(&new.cookie)
    };
    let is_open = async |cookie: &str| signin.session(cookie).await.unwrap().is_some();
    provide(r#"{"issuer":"https://i","clientId":"c","anybody":true}"#);
    let (user, member, stranger) =
        (of("1", &[], false).await, of("2", &["blues"], false).await, of("3", &[], true).await);
    assert!(is_open(&user).await && is_open(&member).await && is_open(&stranger).await);
    // It lets in fewer: at once.
    provide(r#"{"issuer":"https://i","clientId":"c"}"#);
    assert!(is_open(&user).await && is_open(&member).await && !is_open(&stranger).await);
    // Nobody signs in by it any more, it is another one, or there is none.
    for gone in [
        r#"{"issuer":"https://i","clientId":"c","signIn":false}"#,
        r#"{"issuer":"https://other","clientId":"c"}"#,
        r#"{"issuer":"https://i","clientId":"c","maxSignInAge":"1ms"}"#,
    ] {
        provide(gone);
        assert!(!is_open(&user).await && !is_open(&member).await, "{gone}");
    }
    provide(r#"{"issuer":"https://i","clientId":"c","maxSignInAge":"1h"}"#);
    assert!(is_open(&user).await && is_open(&member).await);
}

#[tokio::test]
async fn a_person_has_so_many_sessions_and_the_oldest_goes() {
    let house = House::new().await;
    let signin = open(&house).await;
    let mut cookies = Vec::new();
    for _ in 0..21 {
        let new = signin.open_session(signed_in(Who::User(name("alice")))).await.unwrap();
        cookies.push(text(&new.cookie));
    }
    let open: Vec<bool> = {
        let mut open = Vec::new();
        for cookie in &cookies {
            open.push(signin.session(cookie).await.unwrap().is_some());
        }
        open
    };
    assert_eq!(open.iter().filter(|o| **o).count(), 20);
    assert!(open[20], "the newest is open");
    assert_eq!(signin.end_sessions(&name("default"), &Who::User(name("alice"))).await.unwrap(), 20);
    assert!(signin.session(&cookies[20]).await.unwrap().is_none());
    for odd in ["", ".", "a.b", &"x".repeat(5000), &format!("{}.{}", "a/".repeat(11), "b".repeat(43))] {
        assert!(signin.session(odd).await.unwrap().is_none(), "{odd:.20}");
    }
}
