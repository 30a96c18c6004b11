//! What only a store in a database has to stand: several processes, a server that goes away and comes back, and a history that changes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use portcullis_store::{Change, Expect, PostgresStore, Revision, Store, StoreError, Write, scan_all};
use portcullis_test_postgres::Database;

use crate::{
    house::{connect, given, options},
    put,
    way::{At, Way},
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn shared() -> Option<Database> {
    given(Database::shared().await.unwrap())
}

async fn own() -> Option<Database> {
    given(Database::own().await.unwrap())
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_agree_on_who_was_first() {
    let Some(database) = shared().await else { return };
    let (a, b) = (connect(&database).await.unwrap(), connect(&database).await.unwrap());
    let count = |store: Arc<PostgresStore>| async move {
        let mut won = 0;
        while won < 50 {
            let now = store.get("counter").await.unwrap();
            let (n, expect) = match &now {
                None => (0_u64, Expect::Absent),
                Some(r) => (std::str::from_utf8(&r.value).unwrap().parse().unwrap(), Expect::Is(r.revision)),
            };
            let value = (n + 1).to_string().into();
            match store.write(vec![Write::Put { key: "counter".into(), value, expect }]).await {
                Ok(_) => won += 1,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (one, two) = (tokio::spawn(count(a.clone())), tokio::spawn(count(b.clone())));
    one.await.unwrap();
    two.await.unwrap();
    assert_eq!(&a.get("counter").await.unwrap().unwrap().value[..], b"100", "an update was lost");
    assert_eq!(a.get("counter").await.unwrap().unwrap().revision, Revision(100));
}

/// Four writers in two processes, a watcher in a third: everything is seen once, in the order of its revision, with no hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_misses_nothing_and_sees_nothing_out_of_order() {
    let Some(database) = shared().await else { return };
    let (a, b) = (connect(&database).await.unwrap(), connect(&database).await.unwrap());
    let watcher = connect(&database).await.unwrap();
    let mut watch = watcher.watch("w/", Revision(0)).unwrap();
    let mut tasks = Vec::new();
    for (writer, store) in [&a, &b, &a, &b].into_iter().enumerate() {
        let store = Arc::clone(store);
        tasks.push(tokio::spawn(async move {
            for n in 0..60 {
                // Each key once, so that no change overtakes another; sizes differ, so that commits take different times.
                let value = "x".repeat(n % 7 * 4000);
                let pair = vec![put(&format!("w/{writer}/{n}/a"), &value), put(&format!("w/{writer}/{n}/b"), "")];
                store.write(pair).await.unwrap();
            }
        }));
    }
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let mut last = Revision(0);
    let reading = async {
        while seen.values().sum::<usize>() < 480 {
            let change = watch.next().await.unwrap();
            assert!(change.revision() >= last, "{} after {last}", change.revision());
            last = change.revision();
            *seen.entry(last.0).or_default() += 1;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(seen.len(), 240);
    assert_eq!(*seen.last_key_value().unwrap().0, 240, "a revision was left out");
    assert!(seen.values().all(|n| *n == 2), "half a batch");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_writes_another_knows_at_once() {
    let Some(database) = shared().await else { return };
    let (a, b) = (connect(&database).await.unwrap(), connect(&database).await.unwrap());
    let mut watch = b.watch("", Revision(0)).unwrap();
    let began = Instant::now();
    for n in 0..20 {
        a.write(vec![put("k", &n.to_string())]).await.unwrap();
        let change = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        assert_eq!(change.revision(), Revision(n + 1));
    }
    // Ticks alone would take ten seconds; this machine does much else.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?} for 20 changes", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_costs_a_tick() {
    let Some(database) = shared().await else { return };
    let (a, b) = (connect(&database).await.unwrap(), connect(&database).await.unwrap());
    let admin = database.admin().await.unwrap();
    // Writers tell nobody any more; that they wanted to is noted.
    let silent = "CREATE SCHEMA quiet; CREATE TABLE quiet.told (what text);
                  CREATE FUNCTION quiet.pg_notify(text, text) RETURNS void LANGUAGE sql SECURITY DEFINER
                      AS 'INSERT INTO quiet.told VALUES ($2)';
                  GRANT USAGE ON SCHEMA quiet TO PUBLIC;
                  ALTER ROLE portcullis IN DATABASE {} SET search_path = quiet, pg_catalog";
    admin.batch_execute(&silent.replace("{}", &database.name)).await.unwrap();
    drop(a);
    let a = connect(&database).await.unwrap();
    let mut watch = b.watch("", Revision(0)).unwrap();
    a.write(vec![put("k", "v")]).await.unwrap();
    let change = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
    assert_eq!(change.revision(), Revision(1));
    let lost: i64 = admin.query_one("SELECT count(*) FROM quiet.told", &[]).await.unwrap().get(0);
    assert_eq!(lost, 1, "the notification was lost, and nothing else told of the write");
}

/// A commit whose answer is lost is found, and one that never left is done, once each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_at_the_commit_costs_nothing_and_doubles_nothing() {
    let Some(database) = shared().await else { return };
    let way = Way::to(&database).await;
    let store = PostgresStore::open(options(&way.url(&database))).await.unwrap();
    let mut at = store.write(vec![put("k", "0")]).await.unwrap();
    for moment in [At::AfterCommit, At::BeforeCommit, At::AfterCommit, At::BeforeCommit] {
        way.set(moment);
        let (written, ()) = tokio::join!(store.write(vec![put("k", "v")]), way.happened());
        assert_eq!(written, Ok(Revision(at.0 + 1)), "told the truth, and done once");
        at = Revision(at.0 + 1);
        assert_eq!(store.get("k").await.unwrap().unwrap().revision, at);
    }
}

/// The connection is cut at every moment of a write. Each batch is written exactly once, and whoever was told that it was or
/// was not was told the truth.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_the_middle_of_a_write_tells_no_lies() {
    let Some(database) = shared().await else { return };
    let store = connect(&database).await.unwrap();
    let admin = database.admin().await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (stop, cuts) = (Arc::clone(&done), Arc::new(AtomicI64::new(0)));
    let all_cuts = Arc::clone(&cuts);
    let cutting = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'portcullis'";
            let cut = admin.query_one(cut, &[]).await.unwrap().get::<_, i64>(0);
            let cuts = cut + all_cuts.fetch_add(cut, Ordering::Relaxed);
            // At another moment of another write each time, with time to connect again between.
            tokio::time::sleep(Duration::from_millis(250 + u64::try_from(cuts * 37 % 150).unwrap())).await;
        }
    });
    let mut tasks = Vec::new();
    for writer in 0..4 {
        let (store, cuts) = (Arc::clone(&store), Arc::clone(&cuts));
        tasks.push(tokio::spawn(async move {
            let key = format!("n/{writer}");
            let (mut known, mut at) = (0_u64, None);
            let (mut written, mut unknown) = (0, 0);
            while written < 40 || cuts.load(Ordering::Relaxed) < 20 {
                let expect = at.map_or(Expect::Absent, Expect::Is);
                let value = (known + 1).to_string().into();
                match store.write(vec![Write::Put { key: key.clone(), value, expect }]).await {
                    Ok(revision) => {
                        (known, at) = (known + 1, Some(revision));
                        written += 1;
                    }
                    // Nobody else writes this key, so a conflict would mean that a write happened which was denied.
                    Err(error @ (StoreError::Conflict { .. } | StoreError::Foreign(_) | StoreError::Corrupt(_))) => {
                        panic!("{error}")
                    }
                    Err(StoreError::Unknown(_)) => {
                        unknown += 1;
                        let now = loop {
                            if let Ok(now) = store.get(&key).await {
                                break now;
                            }
                        };
                        if let Some(now) = now {
                            (known, at) =
                                (std::str::from_utf8(&now.value).unwrap().parse().unwrap(), Some(now.revision));
                        }
                    }
                    Err(_) => {}
                }
            }
            let now = loop {
                if let Ok(now) = store.get(&key).await {
                    break now.unwrap();
                }
            };
            assert_eq!((&now.value[..], Some(now.revision)), (known.to_string().as_bytes(), at), "the last word");
            (written, unknown)
        }));
    }
    let (mut written, mut unknown) = (0, 0);
    for task in tasks {
        let of_one = tokio::time::timeout(PATIENCE * 2, task).await.unwrap().unwrap();
        (written, unknown) = (written + of_one.0, unknown + of_one.1);
    }
    done.store(true, Ordering::Relaxed);
    cutting.await.unwrap();
    println!("{} connections cut under {written} writes, {unknown} of unknown outcome", cuts.load(Ordering::Relaxed));
}

/// `kill -9` of the whole server, again and again, under writes of two processes and a watch of a third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_and_is_found_again() {
    let Some(mut database) = own().await else { return };
    let (a, b) = (connect(&database).await.unwrap(), connect(&database).await.unwrap());
    let watcher = connect(&database).await.unwrap();
    let mut watch = watcher.watch("k/", Revision(0)).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for (writer, store) in [a, b].into_iter().enumerate() {
        let done = Arc::clone(&done);
        tasks.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0_u64.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let key = format!("k/{writer}/{n:06}");
                if let Ok(revision) = store.write(vec![put(&key, "v")]).await {
                    acknowledged.push((key, revision));
                }
            }
            acknowledged
        }));
    }
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        database = tokio::task::spawn_blocking(move || {
            database.server.kill().unwrap();
            database.server.start().unwrap();
            database
        })
        .await
        .unwrap();
        let head = watcher.revision();
        until("writes after a restart", async || watcher.revision() > head).await;
    }
    done.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    let fresh = connect(&database).await.unwrap();
    let found: BTreeMap<String, Revision> =
        scan_all(&*fresh, "k/").await.unwrap().iter().map(|r| (r.key.to_string(), r.revision)).collect();
    for (key, revision) in &acknowledged {
        assert_eq!(found.get(key), Some(revision), "{key} was acknowledged");
    }
    // The watch went through all of it, and saw each once.
    let mut seen = BTreeMap::new();
    let mut last = Revision(0);
    while seen.len() < found.len() {
        let change = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
        assert!(change.revision() >= last, "out of order");
        last = change.revision();
        assert!(matches!(change, Change::Put(_)));
        assert!(seen.insert(change.key().to_string(), last).is_none(), "twice");
    }
    assert_eq!(seen, found);
    println!("{} acknowledged writes, 3 kills, none lost", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_said_and_missed_by_nobody_who_only_reads_the_watch() {
    let Some(mut database) = own().await else { return };
    let store = PostgresStore::open(options(&database.url()).patience(Duration::from_secs(1))).await.unwrap();
    let at = store.write(vec![put("k", "v")]).await.unwrap();
    assert_eq!(store.trouble(), None);
    database.server.kill().unwrap();
    until("the trouble is known", async || store.trouble().is_some()).await;
    assert_eq!(store.revision(), at, "what was known is known still");
    assert!(store.watch("", at).is_ok());
    let began = Instant::now();
    assert!(matches!(store.write(vec![put("k", "w")]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.get("k").await, Err(StoreError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(15), "refusing took {:?}", began.elapsed());
    let mut age = Duration::ZERO;
    until("what is known grows old", async || {
        let now = store.current().await;
        let older = now > age.max(Duration::from_secs(2));
        age = now;
        older
    })
    .await;
    database.server.start().unwrap();
    until("it is found again", async || store.trouble().is_none()).await;
    assert!(store.current().await < Duration::from_secs(3));
    assert_eq!(store.write(vec![put("k", "w")]).await, Ok(Revision(at.0 + 1)));
}

/// A server that hangs answers nobody and ends no connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_noticed() {
    let Some(mut database) = own().await else { return };
    let store = connect(&database).await.unwrap();
    store.write(vec![put("k", "v")]).await.unwrap();
    database.server.freeze().unwrap();
    until("the silence is noticed", async || store.trouble().is_some()).await;
    assert!(store.age() > Duration::from_secs(2));
    database.server.thaw().unwrap();
    until("it is found again", async || store.trouble().is_none()).await;
    store.write(vec![put("k", "w")]).await.unwrap();
}

/// A gateway that froze while it had the turn to write does not hold up the others for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_that_nobody_gives_back_is_taken_away() {
    let Some(database) = shared().await else { return };
    let store = connect(&database).await.unwrap();
    let way = Way::to(&database).await;
    let frozen = PostgresStore::open(options(&way.url(&database)).patience(Duration::ZERO)).await.unwrap();
    way.set(At::Turn);
    let its = tokio::spawn(async move { frozen.write(vec![put("k", "its")]).await });
    way.happened().await;
    let began = Instant::now();
    store.write(vec![put("k", "v")]).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(1), "it did not have the turn: {:?}", began.elapsed());
    assert!(its.await.unwrap().is_err(), "what it was in the middle of did not happen");
    assert_eq!(&store.get("k").await.unwrap().unwrap().value[..], b"v");
}

#[tokio::test]
async fn a_history_that_was_put_back_is_not_taken_for_the_same() {
    let Some(database) = shared().await else { return };
    let store = connect(&database).await.unwrap();
    for n in 0..5 {
        store.write(vec![put("k", &n.to_string())]).await.unwrap();
    }
    let admin = database.admin().await.unwrap();
    // Put back to revision 3, and written to again by somebody else: as many revisions, another history.
    let other = "UPDATE portcullis.head SET last = '\\x01';
                 UPDATE portcullis.groups SET id = '\\x01' WHERE revision = 5";
    admin.batch_execute(other).await.unwrap();
    // At once, not only once the follower has noticed.
    let refused = store.write(vec![put("k", "x")]).await;
    assert!(matches!(refused, Err(StoreError::Foreign(_))), "{refused:?}");
    assert_eq!(&connect(&database).await.unwrap().get("k").await.unwrap().unwrap().value[..], b"4");
    assert!(connect(&database).await.is_ok(), "who begins now begins with what is there");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let Some(database) = shared().await else { return };
    let store = connect(&database).await.unwrap();
    store.write(vec![put("k", "v")]).await.unwrap();
    drop(store);
    let admin = database.admin().await.unwrap();
    admin.batch_execute("INSERT INTO portcullis.migrations (version) VALUES (99)").await.unwrap();
    let error = connect(&database).await.unwrap_err();
    assert!(matches!(&error, StoreError::Foreign(why) if why.contains("version 99")), "{error}");
}

#[tokio::test]
async fn tables_that_were_put_back_in_part_are_refused() {
    let Some(database) = shared().await else { return };
    let store = connect(&database).await.unwrap();
    store.write(vec![put("a", "1"), put("b", "1")]).await.unwrap();
    drop(store);
    let admin = database.admin().await.unwrap();
    admin.batch_execute("DELETE FROM portcullis.records WHERE key = 'a'").await.unwrap();
    let error = connect(&database).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt(why) if why.contains("2 records, and holds 1")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_begin_at_once_make_the_tables_once() {
    let Some(database) = shared().await else { return };
    let opened = futures_util::future::join_all((0..6).map(|_| connect(&database))).await;
    for (n, store) in opened.into_iter().enumerate() {
        store.unwrap().write(vec![put(&format!("k{n}"), "v")]).await.unwrap();
    }
    assert_eq!(connect(&database).await.unwrap().revision(), Revision(6));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_at_once() {
    let Some(database) = shared().await else { return };
    let began = Instant::now();
    let wrong = options(&database.url()).password(&portcullis_model::Secret::new(b"wrong".as_slice()));
    let error = PostgresStore::open(wrong).await.unwrap_err().to_string();
    assert!(error.contains("does not let us in") && !error.contains("wrong"), "{error}");
    let elsewhere = database.url().replace(&database.name, "nowhere");
    let error = PostgresStore::open(options(&elsewhere)).await.unwrap_err().to_string();
    assert!(error.contains("nowhere"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_log_that_was_cut_while_nobody_followed_is_read_anew() {
    let Some(mut database) = own().await else { return };
    let reader = connect(&database).await.unwrap();
    let mut watch = reader.watch("", Revision(0)).unwrap();
    let writer = connect(&database).await.unwrap();
    writer.write(vec![put("first", "1")]).await.unwrap();
    until("the reader knows", async || reader.revision() == Revision(1)).await;
    assert!(watch.try_next().unwrap().is_some());
    drop(writer);
    // While the reader can't follow, more happens than the change log keeps.
    let admin = database.admin().await.unwrap();
    admin.batch_execute("ALTER ROLE portcullis NOLOGIN").await.unwrap();
    database.server.kill().unwrap();
    database.server.start().unwrap();
    let admin = database.admin().await.unwrap();
    admin
        .batch_execute(
            "UPDATE portcullis.head SET revision = 90, floor = 80, last = '\\x02';
             DELETE FROM portcullis.changes; DELETE FROM portcullis.groups;
             INSERT INTO portcullis.groups VALUES ('\\x02', 90);
             ALTER ROLE portcullis LOGIN",
        )
        .await
        .unwrap();
    until("the reader follows again", async || reader.revision() == Revision(90)).await;
    assert_eq!(watch.next().await, Err(StoreError::TooOld), "who had read everything is told as well");
    assert!(reader.watch("", Revision(90)).is_ok());
}
