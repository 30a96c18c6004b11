//! Gets ready once, and tells each call what it finds of that. What else it does while it gets ready is in its configuration.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    hint::black_box,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use portcullis_sdk::{Call, Caller, Decision, Error, Setup, ToolCall, config, export, http, secret};
use portcullis_trial_guests::report;

/// The guest.
pub struct Ready;

#[derive(serde::Deserialize)]
struct Config {
    act: String,
}

static PREPARED: AtomicU32 = AtomicU32::new(0);
static CALLS: AtomicU32 = AtomicU32::new(0);
static DRAWN: OnceLock<u64> = OnceLock::new();
/// Reaches beyond the memory that a fresh instance begins with.
static HEAP: Mutex<Option<HashMap<String, Vec<u8>>>> = Mutex::new(None);

impl Setup for Ready {
    fn prepare() -> Result<(), Error> {
        let Config { act } = config()?;
        match act.as_str() {
            "fail" => return Err(Error::InvalidConfig("act: not this one".into())),
            "panic" => panic!("on purpose"),
            "loop" => loop {
                black_box(0);
            },
            "secret" => drop(secret("key")?),
            "http" => drop(http::Request::get("https://granted.example/").send()),
            _ => {}
        }
        PREPARED.fetch_add(1, Relaxed);
        DRAWN.get_or_init(|| RandomState::new().build_hasher().finish());
        let heap = (0..50).map(|i| (format!("{act}-{i}"), vec![i as u8; 10_000])).collect();
        *HEAP.lock().map_err(|_| "poisoned")? = Some(heap);
        Ok(())
    }
}

impl ToolCall for Ready {
    fn decide(_: Caller<'_>, _: Call<'_>) -> Result<Decision, Error> {
        let calls = CALLS.fetch_add(1, Relaxed) + 1;
        let heap = HEAP.lock().map_err(|_| "poisoned")?;
        let whole = heap.as_ref().is_some_and(|heap| {
            let Config { act } = config().unwrap_or(Config { act: String::new() });
            (0..50).all(|i| heap.get(&format!("{act}-{i}")) == Some(&vec![i as u8; 10_000]))
        });
        let drawn = DRAWN.get().copied().unwrap_or_default();
        Ok(report(format!("prepared {} call {calls} whole {whole} drawn {drawn}", PREPARED.load(Relaxed))))
    }
}

export!(Ready: Setup, ToolCall);
