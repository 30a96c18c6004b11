//! The catalogue: what stays, what is waited for, what is told, and what stands in for whom.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn key(connection: Option<(&str, u64)>) -> Key {
    let name = |n: &str| n.parse().expect("a name");
    Key {
        tenant: name("default"),
        server: name("files"),
        generation: 1,
        connection: connection.map(|(n, revision)| (Arc::from(n), revision)),
    }
}

fn tools(names: &[&str]) -> Fetched {
    let tool = |n: &&str| Item { key: Arc::from(*n), raw: Bytes::from(format!("{{\"name\":\"{n}\"}}")) };
    Fetched { items: names.iter().map(tool).collect(), ..Fetched::default() }
}

const TTL: Duration = Duration::from_secs(300);
const TOOLS: Kind = Kind::Tools;

async fn fetch(catalogue: &Arc<Catalogue>, key: &Key, fetched: Fetched) -> Arc<Entry> {
    let entry = catalogue.entry(key);
    entry.expire(TOOLS);
    catalogue.refresh(key, &entry, TOOLS, TTL, || async { Ok::<_, String>(fetched) });
    let done = || !entry.shelf(TOOLS).refreshing.load(Ordering::Acquire);
    entry.shelf(TOOLS).wait(Duration::from_secs(5), done).await;
    entry
}

#[tokio::test]
async fn a_failing_server_keeps_its_last_known_tools() {
    let catalogue = Arc::new(Catalogue::default());
    let entry = fetch(&catalogue, &key(None), tools(&["read"])).await;
    assert_eq!(entry.has(TOOLS, "read"), Some(true));
    assert_eq!(entry.has(TOOLS, "write"), Some(false));
    assert_eq!(entry.has(Kind::Prompts, "read"), None, "another kind is another shelf");

    entry.expire(TOOLS);
    catalogue.refresh(&key(None), &entry, TOOLS, TTL, || async { Err::<Fetched, _>("connection refused") });
    while entry.problem(TOOLS).is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(entry.has(TOOLS, "read"), Some(true), "still listed");
}

#[tokio::test]
async fn a_fresh_entry_is_not_fetched_again() {
    let catalogue = Arc::new(Catalogue::default());
    let entry = fetch(&catalogue, &key(None), tools(&["a"])).await;
    let mut asked = false;
    catalogue.refresh(&key(None), &entry, TOOLS, TTL, || {
        asked = true;
        async { Ok::<_, String>(tools(&["b"])) }
    });
    assert!(!asked);
}

#[tokio::test]
async fn equal_content_is_kept_once() {
    let catalogue = Arc::new(Catalogue::default());
    let mut listings = Vec::new();
    for connection in ["alice", "bob"] {
        let entry = fetch(&catalogue, &key(Some((connection, 1))), tools(&["a", "b", "a"])).await;
        listings.push(entry.listing(TOOLS).expect("fetched"));
    }
    assert!(Arc::ptr_eq(&listings[0], &listings[1]));
    assert_eq!(listings[0].items.len(), 2, "the first of two with one name counts");
    assert!(catalogue.any_of(&key(None)).is_some_and(|e| e.has(TOOLS, "b") == Some(true)));
}

#[tokio::test]
async fn nobody_waits_long_for_a_silent_server() {
    let catalogue = Arc::new(Catalogue::default());
    let entry = catalogue.entry(&key(None));
    catalogue.refresh(&key(None), &entry, TOOLS, TTL, std::future::pending::<Result<Fetched, String>>);
    let first = Duration::from_millis(20);
    catalogue.settle(&key(None), &entry, TOOLS, first).await;
    assert!(entry.listing(TOOLS).is_none());
    // Whoever comes later does not wait all over again.
    let started = Instant::now();
    catalogue.settle(&key(None), &entry, TOOLS, first).await;
    assert!(started.elapsed() < Duration::from_millis(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn whoever_lists_after_a_change_sees_it() {
    let catalogue = Arc::new(Catalogue::default());
    let entry = fetch(&catalogue, &key(None), tools(&["old"])).await;
    catalogue.expire(TOOLS, |_| true);
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    catalogue.refresh(&key(None), &entry, TOOLS, TTL, || async {
        let _ = receiver.await;
        Ok::<_, String>(tools(&["new"]))
    });
    let key = key(None);
    let (_, ()) = tokio::join!(catalogue.settle(&key, &entry, TOOLS, Duration::ZERO), async {
        tokio::task::yield_now().await;
        let _ = sender.send(());
    });
    assert_eq!(entry.has(TOOLS, "new"), Some(true));
}

#[tokio::test]
async fn changes_are_told_once() {
    let catalogue = Arc::new(Catalogue::default());
    let mut changes = catalogue.changes();
    let entry = fetch(&catalogue, &key(None), tools(&["a"])).await;
    fetch(&catalogue, &key(None), tools(&["a"])).await;
    assert!(changes.try_recv().is_err(), "nobody was given a list without it, and it stayed the same");

    fetch(&catalogue, &key(None), tools(&["a", "b"])).await;
    assert!(matches!(changes.try_recv(), Ok(Changed::Server { kind: Kind::Tools, .. })));

    // What the server tells of itself is announced by whoever hears it, not by the fetch that shows it too.
    catalogue.expire(TOOLS, |_| true);
    fetch(&catalogue, &key(None), tools(&["a"])).await;
    assert!(changes.try_recv().is_err());
    drop(entry);
}

#[tokio::test]
async fn whoever_missed_a_slow_server_is_told_when_it_is_there() {
    let catalogue = Arc::new(Catalogue::default());
    let mut changes = catalogue.changes();
    catalogue.entry(&key(None)).shelf(TOOLS).missed();
    fetch(&catalogue, &key(None), tools(&["a"])).await;
    assert!(changes.try_recv().is_ok());
}

#[tokio::test]
async fn only_what_is_public_stands_in_for_another_account() {
    let catalogue = Arc::new(Catalogue::default());
    let (alice, bob) = (key(Some(("alice", 1))), key(Some(("bob", 1))));
    fetch(&catalogue, &alice, tools(&["secret"])).await;
    let entry = catalogue.entry(&bob);
    assert!(catalogue.listing(&bob, &entry, TOOLS).is_none());

    fetch(&catalogue, &alice, Fetched { public: true, ..tools(&["open"]) }).await;
    let stands_in = catalogue.listing(&bob, &entry, TOOLS).expect("public");
    assert!(stands_in.get("open").is_some() && stands_in.get("secret").is_none());

    // It is public no longer.
    fetch(&catalogue, &alice, tools(&["secret"])).await;
    assert!(catalogue.listing(&bob, &entry, TOOLS).is_none());
}

#[tokio::test]
async fn a_servers_own_word_on_time_is_kept() {
    let catalogue = Arc::new(Catalogue::default());
    let entry = fetch(&catalogue, &key(None), tools(&["a"])).await;
    assert_eq!(catalogue.holds(&entry, TOOLS), None);
    let entry2 = fetch(&catalogue, &key(None), Fetched { ttl: Some(Duration::from_secs(60)), ..tools(&["a"]) }).await;
    let left = catalogue.holds(&entry2, TOOLS).expect("it said so");
    assert!(left <= Duration::from_secs(60) && left > Duration::from_secs(50), "{left:?}");
    assert!(Arc::ptr_eq(&entry, &entry2));
}

/// Who lists what: one of three accounts, or none, of one of two servers, in one of two tenants.
fn whose() -> impl Strategy<Value = (Key, Kind)> {
    let part = (0..2u8, 0..2u8, proptest::option::of(0..3u8), 0..2u64, prop::sample::select(Kind::ALL.to_vec()));
    part.prop_map(|(tenant, server, account, revision, kind)| {
        let name = |n: String| n.parse().expect("a name");
        let connection = account.map(|a| (Arc::from(format!("c{a}")), revision));
        (
            Key { tenant: name(format!("t{tenant}")), server: name(format!("s{server}")), generation: 1, connection },
            kind,
        )
    })
}

proptest! {
    /// Whatever was fetched in whatever order: what an account is shown was fetched under it, or its server called it public,
    /// and has not called it anything else since.
    #[test]
    fn nobody_is_shown_a_list_of_somebody_else(
        steps in prop::collection::vec((whose(), any::<bool>(), any::<bool>(), any::<bool>()), 1..60),
    ) {
        let catalogue = Arc::new(Catalogue::default());
        let mut fetched = HashMap::new();
        let mut open = HashMap::new();
        for (at, ((key, kind), write, public, same)) in steps.into_iter().enumerate() {
            let entry = catalogue.entry(&key);
            if write {
                // The same content of two servers is kept once, and is still each one's own.
                let text = if same { "same".to_owned() } else { at.to_string() };
                let what = Fetched { public, ..tools(&[&text]) };
                catalogue.store(&key, &entry, kind, what, TTL);
                open.insert((key.whole(), kind), public.then(|| text.clone()));
                fetched.insert((key, kind), text);
            } else if let Some(listing) = catalogue.listing(&key, &entry, kind) {
                let shown = listing.items[0].key.to_string();
                let (own, public) = (fetched.get(&(key.clone(), kind)), open.get(&(key.whole(), kind)));
                let allowed = match own {
                    Some(own) => *own == shown,
                    None => public.is_some_and(|text| text.as_ref() == Some(&shown)),
                };
                prop_assert!(allowed, "{key:?} {kind:?} was shown {shown}: its own {own:?}, public {public:?}");
            } else {
                prop_assert!(!fetched.contains_key(&(key, kind)), "what was fetched is shown to whoever fetched it");
            }
        }
    }
}

#[tokio::test]
async fn what_keeps_every_account_from_a_server_is_known() {
    let catalogue = Arc::new(Catalogue::default());
    let refuse = async |account: &str| {
        let key = key(Some((account, 1)));
        let entry = catalogue.entry(&key);
        catalogue.refresh(&key, &entry, TOOLS, TTL, || async { Err::<Fetched, _>("name not resolved") });
        entry.shelf(TOOLS).wait(Duration::from_secs(5), || entry.problem(TOOLS).is_some()).await;
        let done = || !entry.shelf(TOOLS).refreshing.load(Ordering::Acquire);
        entry.shelf(TOOLS).wait(Duration::from_secs(5), done).await;
    };
    refuse("alice").await;
    let known = catalogue.any_of(&key(None)).expect("it was tried");
    assert_eq!(known.problem(TOOLS).as_deref().map(String::as_str), Some("name not resolved"));
    // What one account saw stays, whatever another one meets.
    fetch(&catalogue, &key(Some(("bob", 1))), tools(&["read"])).await;
    refuse("carol").await;
    assert_eq!(catalogue.any_of(&key(None)).expect("bob's").has(TOOLS, "read"), Some(true));
}
