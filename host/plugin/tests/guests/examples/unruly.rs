//! Does in every hook what its configuration says: panics, prints, sleeps, loops, exits or grows.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "that is what it is for")]

use std::{hint::black_box, time::Duration};

use portcullis_sdk::{
    Call, Caller, Decision, Error, Identity, Item, ListFilter, Outcome, Provider, Request, Resolution, Resolver,
    Target, ToolCall, ToolOutcome, ToolResult, config, export,
};

/// The guest.
pub struct Unruly;

#[derive(serde::Deserialize)]
struct Config {
    act: String,
}

fn act() -> Result<(), Error> {
    let Config { act } = config()?;
    match act.as_str() {
        "panic" => panic!("on purpose"),
        "print" => {
            println!("to standard output");
            eprintln!("to standard error");
            print!("{}", "x".repeat(100_000));
        }
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        "loop" => loop {
            black_box(0);
        },
        "exit" => std::process::exit(3),
        "grow" => {
            let mut all = Vec::new();
            loop {
                all.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "fail" => return Err(Error::Other("in words".into())),
        _ => {}
    }
    Ok(())
}

impl ToolCall for Unruly {
    fn decide(_: Caller<'_>, _: Call<'_>) -> Result<Decision, Error> {
        act()?;
        Ok(Decision::Allow)
    }
}

impl ToolResult for Unruly {
    fn review(_: Caller<'_>, _: Call<'_>, outcome: ToolOutcome<'_>) -> Result<Decision, Error> {
        act()?;
        // Says what it was lent, so that a test sees that it is this call's.
        Ok(Decision::deny("seen", format!("{} {}", outcome.is_error(), outcome.content_size())))
    }
}

impl ListFilter for Unruly {
    fn filter(_: Caller<'_>, _: &str, items: &[Item]) -> Result<Vec<u32>, Error> {
        act()?;
        Ok((0..).take(items.len()).collect())
    }
}

impl Resolver for Unruly {
    fn resolve(_: Caller<'_>, _: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        act()?;
        into.none();
        Ok(())
    }
}

impl Provider for Unruly {
    fn authenticate(_: Request<'_>, _: Identity<'_>) -> Result<Outcome, Error> {
        act()?;
        Ok(Outcome::Anonymous)
    }
}

export!(Unruly: ToolCall, ToolResult, ListFilter, Resolver, Provider);
