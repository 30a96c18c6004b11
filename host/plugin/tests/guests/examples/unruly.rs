//! Does in every hook what its configuration says: panics, prints, sleeps, loops, exits or grows.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "that is what it is for")]

use std::{hint::black_box, time::Duration};

use portcullis_sdk::{
    Call, Caller, Decision, Described, Earlier, Error, Identity, List, ListFilter, Metadata, NextStep, OnRejected,
    Outcome, Prompt, PromptGet, Provider, Question, Read, Refresher, Request, Resolution, Resolver, ResourceRead,
    ServerRequest, Session, SessionOpen, Target, ToolCall, ToolOutcome, ToolResult, config, export,
};

/// The guest.
pub struct Unruly;

#[derive(serde::Deserialize)]
struct Config {
    act: String,
    #[serde(default)]
    describe: String,
}

fn act() -> Result<(), Error> {
    let Config { act, .. } = config()?;
    perform(&act)
}

fn perform(act: &str) -> Result<(), Error> {
    match act {
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
    fn filter(_: Caller<'_>, list: List<'_>) -> Result<Vec<u32>, Error> {
        act()?;
        Ok(list.keep(|entry| entry.server == "github"))
    }
}

impl ResourceRead for Unruly {
    fn decide(_: Caller<'_>, read: Read<'_>) -> Result<Decision, Error> {
        act()?;
        let told = format!("{:?} {} {} {}", read.purpose(), read.server(), read.uri(), read.exposed_uri());
        Ok(Decision::deny("seen", told))
    }
}

impl PromptGet for Unruly {
    fn decide(_: Caller<'_>, prompt: Prompt<'_>) -> Result<Decision, Error> {
        act()?;
        let who = prompt.argument("/who").unwrap_or_else(|| "null".to_owned());
        Ok(Decision::Modify(
            format!(r#"{{"was":"{} {:?}","who":{who}}}"#, prompt.name(), prompt.purpose()).into_bytes(),
        ))
    }
}

impl ServerRequest for Unruly {
    fn decide(_: Caller<'_>, question: Question<'_>) -> Result<Decision, Error> {
        act()?;
        let message = question.param_as::<String>("/message")?.unwrap_or_default();
        Ok(Decision::deny("seen", format!("{} in {:?}: {message}", question.method(), question.tool())))
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

impl Refresher for Unruly {
    fn refresh(_: Caller<'_>, _: Target<'_>, _: Earlier<'_>, into: Resolution<'_>) -> Result<(), Error> {
        act()?;
        into.none();
        Ok(())
    }
}

impl OnRejected for Unruly {
    fn rejected(_: Caller<'_>, _: Target<'_>, _: Earlier<'_>, _: Resolution<'_>) -> Result<NextStep, Error> {
        act()?;
        Ok(NextStep::GiveUp)
    }
}

impl SessionOpen for Unruly {
    fn open(_: Caller<'_>, _: Session<'_>) -> Result<Decision, Error> {
        act()?;
        Ok(Decision::Allow)
    }
}

impl Described for Unruly {
    fn describe(_: Metadata<'_>) -> Result<(), Error> {
        let Config { describe, .. } = config()?;
        perform(&describe)
    }
}

export!(
    Unruly: ToolCall, ToolResult, ResourceRead, PromptGet, ServerRequest, ListFilter, Resolver, Provider, Refresher,
        OnRejected, SessionOpen, Described
);
