//! Whatever was acknowledged is there after `kill -9`, at any moment, as often as one likes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write as _},
    process::{Command, Stdio},
};

use crate::{
    house::{House, on_each_store, open_at},
    put,
};

const ROUNDS: u64 = 25;
const WRITERS: u64 = 8;
const PLACE: &str = "PORTCULLIS_TEST_STORE";

/// Not a test of its own: the process that is killed. Writes pairs and says on standard output which are acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let store = open_at(&place).await;
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let key = format!("a/{writer}");
            let mut n = store.get(&key).await.unwrap().map_or(0, |r| number(&r.value));
            while n < u64::MAX {
                n += 1;
                let value = format!("{n}");
                // The second one is large, so that kills hit the middle of writing it.
                let padded = format!("{n} {}", "x".repeat(usize::try_from(n % 7).unwrap() * 3000));
                store.write(vec![put(&key, &value), put(&format!("b/{writer}"), &padded)]).await.unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "\nack {writer} {n}").unwrap();
                out.flush().unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().split(' ').next().unwrap().parse().unwrap()
}

on_each_store!(nothing_acknowledged_is_lost);

async fn nothing_acknowledged_is_lost(house: &House) {
    let mut acknowledged = BTreeMap::new();
    let mut total = 0;
    let mut revision = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::victim", "--exact", "--nocapture", "--test-threads=1"])
            .env(PLACE, house.place())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut wanted = 1 + round * 13 % 90;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for line in lines.filter(|l| l.starts_with("ack ")) {
            let mut words = line.split(' ').skip(1).map_while(|w| w.parse::<u64>().ok());
            // The last line may be cut off; a cut number is smaller, and asks for less.
            if let (Some(writer), Some(n)) = (words.next(), words.next()) {
                let known = acknowledged.entry(writer).or_insert(0);
                *known = n.max(*known);
                total += 1;
            }
            wanted = wanted.saturating_sub(1);
            if wanted == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = house.open().await;
        assert!(store.revision().0 > revision, "round {round} wrote nothing");
        revision = store.revision().0;
        for (writer, n) in &acknowledged {
            let a = store.get(&format!("a/{writer}")).await.unwrap().expect("acknowledged");
            let b = store.get(&format!("b/{writer}")).await.unwrap().expect("acknowledged");
            assert!(
                number(&a.value) >= *n,
                "round {round}: writer {writer} was acknowledged {n}, found {}",
                number(&a.value)
            );
            assert_eq!((number(&a.value), a.revision), (number(&b.value), b.revision), "half a batch in round {round}");
        }
    }
    assert!(total >= ROUNDS, "only {total} acknowledgements");
    println!("{total} acknowledged writes, {ROUNDS} kills, none lost");
}
