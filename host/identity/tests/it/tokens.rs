//! The life of a token, on a real store.

use std::{sync::Arc, time::Duration};

use portcullis_identity::{Directories, Lifetime, NewToken, TokenError, TokenOptions, TokenService, TokenStatus};
use portcullis_model::{Door, Kind, ResourceKey, Secret};
use portcullis_plugin::{TokenLookupError, Tokens as _};
use portcullis_store::{SledStore, Store, scan_all};

use crate::house::{House, eventually, name, people, resource, sled, subject, wanted};

const DAY_MS: u64 = 86_400_000;

fn look(tokens: &TokenService, tenant: &str, gateway: &str, text: &Secret) -> Result<String, TokenLookupError> {
    tokens.lookup(&name(tenant), &name(gateway), text).map(|facts| facts.subject.to_string())
}

#[tokio::test]
async fn a_token_lives_and_ends() {
    let house = House::new().await;
    let created = house.token("user:alice").await;
    let record = &created.record;
    assert_eq!(record.expires_ms.unwrap() - record.created_ms, 90 * DAY_MS);
    assert_eq!(look(&house.tokens, "default", "main", &created.text), Ok("user:alice".to_owned()));
    assert_eq!(house.tokens.status(record), TokenStatus::Active);

    let revoked = house.tokens.revoke(&name("default"), &record.id).await.unwrap();
    assert!(revoked.revoked_ms.is_some());
    assert_eq!(look(&house.tokens, "default", "main", &created.text), Err(TokenLookupError::Revoked));
    assert_eq!(house.tokens.status(record), TokenStatus::Revoked);
    house.tokens.revoke(&name("default"), &record.id).await.expect("twice is no error");
    let unknown = house.tokens.revoke(&name("default"), "nothing").await;
    assert!(matches!(unknown, Err(TokenError::Unknown(_))));
}

#[tokio::test]
async fn what_was_acknowledged_survives_and_the_text_is_nowhere() {
    let house = House::new().await;
    let (kept, gone) = (house.token("user:alice").await, house.token("team:blue").await);
    house.tokens.revoke(&name("default"), &gone.record.id).await.unwrap();

    for record in scan_all(&*house.store, "").await.unwrap() {
        let text = kept.text.expose();
        let held = |bytes: &[u8]| bytes.windows(text.len() - 4).any(|w| w == &text[4..]);
        assert!(!held(&record.value) && !held(record.key.as_bytes()), "{}", record.key);
    }
    assert!(!format!("{kept:?}").contains(std::str::from_utf8(&kept.text.expose()[4..]).unwrap()));

    let House { store, directories, tokens, directory } = house;
    drop(tokens);
    drop(store);
    let mut reopened = None;
    eventually("the store opens again", || {
        reopened = SledStore::open(directory.path(), sled()).ok();
        std::future::ready(reopened.is_some())
    })
    .await;
    let store: Arc<dyn Store> = reopened.unwrap();
    let tokens = TokenService::open(store, directories, TokenOptions::default()).await.unwrap();
    assert_eq!(look(&tokens, "default", "main", &kept.text), Ok("user:alice".to_owned()));
    assert_eq!(look(&tokens, "default", "main", &gone.text), Err(TokenLookupError::Revoked));
    assert_eq!(tokens.list(&name("default"), None).len(), 2);
}

#[tokio::test]
async fn a_token_is_of_its_tenant_and_its_gateways() {
    let house = House::new().await;
    let created = house.tokens.create(NewToken { gateways: vec![name("main")], ..wanted("user:alice") }).await.unwrap();
    assert_eq!(look(&house.tokens, "default", "main", &created.text), Ok("user:alice".to_owned()));
    assert_eq!(look(&house.tokens, "default", "side", &created.text), Err(TokenLookupError::WrongGateway));
    // The other tenant has an alice too.
    assert_eq!(look(&house.tokens, "other", "main", &created.text), Err(TokenLookupError::Unknown));
    assert!(house.tokens.get(&name("other"), &created.record.id).is_none());
    assert!(house.tokens.revoke(&name("other"), &created.record.id).await.is_err());
    assert_eq!(look(&house.tokens, "default", "main", &created.text), Ok("user:alice".to_owned()));
    assert!(house.tokens.list(&name("other"), None).is_empty());
}

#[tokio::test]
async fn texts_that_are_no_tokens() {
    let house = House::new().await;
    let check =
        |text: &str, expected| assert_eq!(look(&house.tokens, "default", "main", &Secret::new(text)), Err(expected));
    check("", TokenLookupError::NotOurs);
    check("eyJhbGciOiJIUzI1NiJ9.e30.x", TokenLookupError::NotOurs);
    check("pcl_garbage", TokenLookupError::Unknown);
    check(&format!("pcl_{}", "A".repeat(47)), TokenLookupError::Unknown);
    let other = House::new().await.token("user:alice").await;
    assert_eq!(look(&house.tokens, "default", "main", &other.text), Err(TokenLookupError::Unknown));
}

#[tokio::test]
async fn expiry_is_kept_and_bounded() {
    let house = House::new().await;
    let lifetime = |lifetime| NewToken { lifetime: Some(lifetime), ..wanted("user:alice") };
    let short = house.tokens.create(lifetime(Lifetime::For(Duration::from_millis(30)))).await.unwrap();
    eventually("the token expires", || {
        let ended = look(&house.tokens, "default", "main", &short.text) == Err(TokenLookupError::Expired);
        std::future::ready(ended)
    })
    .await;
    assert_eq!(house.tokens.status(&short.record), TokenStatus::Expired);
    let long = house.tokens.create(lifetime(Lifetime::For(Duration::from_secs(400 * 86_400)))).await;
    assert!(matches!(long, Err(TokenError::TooLong(_))));
    let forever = house.tokens.create(lifetime(Lifetime::Forever)).await;
    assert!(matches!(forever, Err(TokenError::TooLong(_))));
    let zero = house.tokens.create(lifetime(Lifetime::For(Duration::ZERO))).await;
    assert!(matches!(zero, Err(TokenError::TooShort)));

    let house = House::with(TokenOptions { max_lifetime: None, ..TokenOptions::default() }).await;
    let forever = house.tokens.create(lifetime(Lifetime::Forever)).await.unwrap();
    assert_eq!(forever.record.expires_ms, None);
}

#[tokio::test]
async fn only_those_who_exist_own_tokens_and_not_too_many() {
    let house = House::with(TokenOptions { max_per_owner: 2, ..TokenOptions::default() }).await;
    for nobody in ["user:nobody", "team:gone", "agent:x", "anonymous", "external:https://i#1"] {
        let refused = house.tokens.create(wanted(nobody)).await;
        assert!(matches!(refused, Err(TokenError::NoOwner(_))), "{nobody}");
    }
    for owner in ["organization", "team:blue", "agent:ci"] {
        let created = house.token(owner).await;
        assert_eq!(look(&house.tokens, "default", "main", &created.text), Ok(owner.to_owned()));
    }
    let first = house.token("user:bob").await;
    house.token("user:bob").await;
    let third = house.tokens.create(wanted("user:bob")).await;
    assert!(matches!(third, Err(TokenError::TooMany { .. })));
    house.tokens.revoke(&name("default"), &first.record.id).await.unwrap();
    house.token("user:bob").await;
    let odd = house.tokens.create(NewToken { name: Some("a\nb".to_owned()), ..wanted("user:alice") }).await;
    assert!(matches!(odd, Err(TokenError::Invalid(_))));
}

#[tokio::test]
async fn an_owner_who_is_gone_leaves_no_token_that_works() {
    let house = House::new().await;
    let (alice, agent, team) =
        (house.token("user:alice").await, house.token("agent:ci").await, house.token("team:blue").await);
    house.set_people(vec![resource("default", "User", "bob", "{}")]);
    for created in [&alice, &agent, &team] {
        assert_eq!(look(&house.tokens, "default", "main", &created.text), Err(TokenLookupError::Revoked));
        assert_eq!(house.tokens.status(&created.record), TokenStatus::Orphaned);
    }
    // Somebody else of the same name is somebody else.
    let mut again = resource("default", "User", "alice", "{}");
    again.metadata.created_ms = Some(alice.record.created_ms + 1);
    house.set_people(vec![again]);
    assert_eq!(look(&house.tokens, "default", "main", &alice.text), Err(TokenLookupError::Revoked));
    // The same alice, put back by restoring a backup, is the same alice.
    house.set_people(people());
    assert_eq!(look(&house.tokens, "default", "main", &alice.text), Ok("user:alice".to_owned()));
}

#[tokio::test]
async fn all_tokens_of_an_owner_end_together() {
    let house = House::new().await;
    let mine = [house.token("user:alice").await, house.token("user:alice").await];
    let bobs = house.token("user:bob").await;
    let owner = subject("user:alice");
    assert_eq!(house.tokens.list(&name("default"), Some(&owner)).len(), 2);
    assert_eq!(house.tokens.revoke_owner(&name("default"), &owner).await.unwrap(), 2);
    assert_eq!(house.tokens.revoke_owner(&name("default"), &owner).await.unwrap(), 0);
    for created in &mine {
        assert_eq!(look(&house.tokens, "default", "main", &created.text), Err(TokenLookupError::Revoked));
    }
    assert!(look(&house.tokens, "default", "main", &bobs.text).is_ok());
}

#[tokio::test]
async fn another_process_sees_what_happens_here() {
    let house = House::new().await;
    let other = TokenService::open(Arc::clone(&house.store), Arc::clone(&house.directories), TokenOptions::default())
        .await
        .unwrap();
    let created = house.token("user:alice").await;
    let seen = |expected: Result<String, TokenLookupError>| {
        let found = look(&other, "default", "main", &created.text);
        std::future::ready(found == expected)
    };
    eventually("a new token works elsewhere", || seen(Ok("user:alice".to_owned()))).await;
    house.tokens.revoke(&name("default"), &created.record.id).await.unwrap();
    eventually("a revocation holds elsewhere", || seen(Err(TokenLookupError::Revoked))).await;

    // Both revoke at once, each with what it knows: one meets the other's write and goes on.
    let both = house.token("user:alice").await;
    eventually("the second one is known elsewhere", || {
        std::future::ready(other.get(&name("default"), &both.record.id).is_some())
    })
    .await;
    let tenant = name("default");
    let (here, there) =
        tokio::join!(house.tokens.revoke(&tenant, &both.record.id), other.revoke(&tenant, &both.record.id));
    assert!(here.unwrap().revoked_ms.is_some() && there.unwrap().revoked_ms.is_some());
}

#[tokio::test]
async fn old_tokens_are_forgotten_and_damaged_ones_work_for_nobody() {
    let options =
        TokenOptions { keep_ended: Duration::ZERO, housekeeping: Duration::from_millis(10), ..TokenOptions::default() };
    let house = House::with(options).await;
    let (old, damaged) = (house.token("user:alice").await, house.token("user:bob").await);
    house.tokens.revoke(&name("default"), &old.record.id).await.unwrap();
    eventually("the revoked token is forgotten", || {
        std::future::ready(house.tokens.get(&name("default"), &old.record.id).is_none())
    })
    .await;
    assert_eq!(look(&house.tokens, "default", "main", &old.text), Err(TokenLookupError::Unknown));
    assert!(house.store.get(&format!("t/default/{}", old.record.id)).await.unwrap().is_none());

    let put = portcullis_store::Write::Put {
        key: format!("t/default/{}", damaged.record.id),
        value: bytes::Bytes::from_static(b"{}"),
        expect: portcullis_store::Expect::Any,
    };
    house.store.write(vec![put]).await.unwrap();
    eventually("the damaged token ends", || {
        std::future::ready(look(&house.tokens, "default", "main", &damaged.text) == Err(TokenLookupError::Unknown))
    })
    .await;
}

#[tokio::test]
async fn uses_are_written_down_now_and_then() {
    let house = House::with(TokenOptions { housekeeping: Duration::from_millis(10), ..TokenOptions::default() }).await;
    let created = house.token("user:alice").await;
    let id = created.record.id.clone();
    assert_eq!(house.tokens.get(&name("default"), &id).unwrap().last_used_ms, None);
    let at = portcullis_identity::Authenticator::new(
        Arc::clone(&house.directories),
        Arc::clone(&house.tokens),
        portcullis_identity::JwtService::new(crate::issuer::options()),
        portcullis_identity::AuthOptions::default(),
    );
    crate::authenticator::use_once(&house, &at, &created.text).await;
    let key = format!("tu/default/{id}");
    eventually("the use is written down", || async { house.store.get(&key).await.unwrap().is_some() }).await;
    let again = TokenService::open(Arc::clone(&house.store), Arc::clone(&house.directories), TokenOptions::default());
    let again = again.await.unwrap();
    assert!(again.get(&name("default"), &id).unwrap().last_used_ms.is_some(), "and read at the next start");
}

#[tokio::test]
async fn whoever_was_just_applied_can_own_a_token() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = SledStore::open(directory.path(), sled()).unwrap();
    let registry = portcullis_store::Registry::open(Arc::clone(&store)).await.unwrap();
    let directories = Directories::follow(&registry);
    let tokens = TokenService::open(store, Arc::clone(&directories), TokenOptions::default()).await.unwrap();
    let apply = async |user: &str| {
        let mut user = resource("default", "User", user, "{}");
        (user.metadata.revision, user.metadata.created_ms) = (None, None);
        registry.apply(vec![user], Door::Api, false).await.unwrap();
    };
    apply("zoe").await;
    let created = tokens.create(wanted("user:zoe")).await.unwrap();
    assert!(look(&tokens, "default", "main", &created.text).is_ok());

    let key = ResourceKey { tenant: name("default"), kind: Kind::User, name: name("zoe") };
    registry.delete(&key, &Door::Api).await.unwrap();
    let ended =
        || std::future::ready(look(&tokens, "default", "main", &created.text) == Err(TokenLookupError::Revoked));
    eventually("the directory follows the registry", ended).await;
    // Not in the same millisecond as the first one: a new zoe does not inherit the old one's token.
    eventually("the clock ticks", || std::future::ready(now_ms() > created.record.created_ms)).await;
    apply("zoe").await;
    directories.refresh();
    assert_eq!(look(&tokens, "default", "main", &created.text), Err(TokenLookupError::Revoked));
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
