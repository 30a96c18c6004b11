//! Components with bytes changed at random: refused, or plugins like others, and never the end of the host.
//!
//! The seed is fixed and the number bounded; `PORTCULLIS_MUTATIONS` asks for more, `PORTCULLIS_MUTATION_SEED` for others.

use std::time::Duration;

use portcullis_plugin::Decision;

use crate::guests::{Guest, call, filter, host, plan, principal, request};

const MUTATIONS: u64 = 300;

/// xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            // Sizes and counts are LEB128: their ends.
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => bytes.truncate(at.max(9)),
            4 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => {
                let end = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => bytes.insert(at, random.next() as u8),
        }
        if bytes.len() < 9 {
            bytes.resize(9, 0);
        }
    }
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_components_harm_nobody() {
    let host = host();
    let mut random = Random(variable("PORTCULLIS_MUTATION_SEED", 0x9E37_79B9_7F4A_7C15).max(1));
    let core = "(table 4 funcref) (elem (i32.const 0) func $start) (global $g (mut i64) (i64.const 7))";
    let seeds = [Guest::default().wasm(), Guest { core, ..Guest::default() }.wasm(), filter(&[0, 1])];
    let (mut refused, mut loaded) = (0, 0);
    for round in 0..variable("PORTCULLIS_MUTATIONS", MUTATIONS) {
        let mut bytes = seeds[random.below(seeds.len())].to_vec();
        mutate(&mut bytes, &mut random);
        let shown = bytes.clone();
        let host = host.clone();
        let tried = tokio::spawn(async move {
            let component = host.compile(bytes.into()).await.map_err(|e| e.to_string())?;
            let plugin = host.load(plan(component)).await.map_err(|e| e.to_string())?;
            if plugin.hooks().tool_call {
                // Whatever it says, it says it in time.
                let _ = plugin.decide(&principal(), &request(), &call()).await;
            }
            Ok::<(), String>(())
        });
        let outcome = tokio::time::timeout(Duration::from_secs(60), tried).await;
        match outcome.unwrap_or_else(|_| panic!("mutation {round} hangs: {shown:02x?}")) {
            Ok(Ok(())) => loaded += 1,
            Ok(Err(why)) => {
                assert!(!why.is_empty() && why.len() < 2000, "mutation {round}: {why}");
                refused += 1;
            }
            Err(panic) => panic!("mutation {round} panics the host: {panic}: {shown:02x?}"),
        }
    }
    assert!(refused > 0 && loaded > 0, "{refused} refused, {loaded} loaded: the mutations are too tame, or too wild");
    let good = host.load(plan(host.compile(Guest::default().wasm()).await.unwrap())).await.unwrap();
    assert_eq!(good.decide(&principal(), &request(), &call()).await, Ok(Decision::Allow));
    assert_eq!(host.free_instances(), 64);
}
