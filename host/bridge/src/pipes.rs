//! Starting a process, and the tasks at its streams.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use portcullis_child::{
    Plan, how_it_ended,
    lines::{Line, Lines, MAX_GARBAGE, id_of, write_all},
};
use tokio::io::AsyncRead;

use crate::{
    counters::Counters,
    key,
    link::{Link, Owner},
    options::Options,
    stderr,
};

/// Between the end of its input together with SIGTERM, and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// The most open files of each of its processes.
const MAX_FILES: u64 = 4_096;

/// Starts a process. `name` is for the log.
///
/// # Errors
/// Where its supervisor can't be started. That the program can't be run is told by how it ends.
pub(crate) fn start(
    options: &Options,
    name: &str,
    owner: Weak<dyn Owner>,
    counters: &Arc<Counters>,
) -> std::io::Result<Arc<Link>> {
    let plan = Plan {
        supervisor: None,
        supervisor_args: vec!["supervise".into()],
        grace: GRACE,
        files: MAX_FILES,
        memory: None,
        remove: None,
        // Whoever started the bridge said what it, and so its servers, may reach.
        confinement: None,
        command: options.command.clone(),
        env: Some(key::environment()),
        cwd: None,
    };
    let portcullis_child::Started { mut supervisor, control, .. } = portcullis_child::start(&plan)?;
    let streams = (supervisor.stdin.take(), supervisor.stdout.take(), supervisor.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
        return Err(std::io::Error::other("it has no streams"));
    };
    let (link, inbox) = Link::new(owner, control, options.max_in_flight, counters.clone());
    counters.starts.inc();
    counters.children.add(1);
    tokio::spawn(write_all(stdin, inbox));
    tokio::spawn(read_all(Arc::downgrade(&link), Lines::new(stdout, options.max_message), options.max_message));
    tokio::spawn(stderr::log(stderr, name.to_owned(), counters.clone()));
    tracing::info!(of = name, pid = supervisor.id(), "the server's process started");
    let (waiting, name, counters) = (link.clone(), name.to_owned(), counters.clone());
    tokio::spawn(async move {
        let how = how_it_ended(supervisor.wait().await);
        tracing::info!(of = name, how, "the server's process ended");
        counters.children.add(-1);
        waiting.close();
        waiting.ended.send_replace(Some(how));
    });
    Ok(link)
}

async fn read_all<R: AsyncRead + Unpin>(link: Weak<Link>, mut lines: Lines<R>, limit: usize) {
    let mut garbage = 0usize;
    while let Some(line) = lines.next().await {
        let Some(link) = link.upgrade() else { return };
        match line {
            Line::Text(line) if line.is_empty() => {}
            Line::Text(line) if link.take(&line) => garbage = 0,
            Line::Text(line) => {
                garbage = garbage.saturating_add(line.len() + 1);
                tracing::debug!("left out a line of output that is no JSON-RPC message");
                if garbage > MAX_GARBAGE {
                    tracing::warn!("the server floods its standard output with what is no JSON-RPC message");
                    break;
                }
            }
            Line::TooLong { head, tail } => {
                tracing::warn!(limit, "skipped a message that is too large");
                if let Some(number) = id_of(&head, &tail) {
                    link.too_large(number, limit);
                }
            }
        }
    }
    // Whoever closed its output answers nothing any more.
    if let Some(link) = link.upgrade() {
        link.close();
    }
}
