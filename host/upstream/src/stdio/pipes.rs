//! A child's pipes as a link: one task writes lines, one reads them.

use std::sync::{Arc, Weak};

use portcullis_child::lines::{Line, Lines, MAX_GARBAGE, id_of, write_all};
use tokio::io::AsyncRead;

use crate::{asking::Asking, error::UpstreamError, launch::Pipes, link::Link, listen::hub::Hub, target::TargetKey};

/// Starts the tasks. They end with the child's output, or when the link is closed. `limit` bounds one message.
pub(crate) fn run(key: TargetKey, hub: Arc<Hub>, asking: Option<Arc<Asking>>, pipes: Pipes, limit: usize) -> Arc<Link> {
    let (link, inbox) = Link::new(key, hub, asking, pipes.child);
    tokio::spawn(write_all(pipes.stdin, inbox));
    let leaver = Arc::downgrade(&link);
    let leave = pipes.leave;
    tokio::spawn(async move {
        if leave.await.is_ok()
            && let Some(link) = leaver.upgrade()
        {
            link.close_when_idle();
        }
    });
    tokio::spawn(read_all(Arc::downgrade(&link), Lines::new(pipes.stdout, limit), limit));
    link
}

async fn read_all<R: AsyncRead + Unpin>(link: Weak<Link>, mut lines: Lines<R>, limit: usize) {
    let mut garbage = 0usize;
    while let Some(line) = lines.next().await {
        let Some(link) = link.upgrade() else { return };
        match line {
            Line::Text(line) if line.is_empty() => {}
            Line::Text(line) => {
                let size = line.len();
                if link.take(line) {
                    garbage = 0;
                } else {
                    garbage = garbage.saturating_add(size + 1);
                    tracing::debug!(target = %link.key(), "left out a line of output that is no JSON-RPC message");
                    if garbage > MAX_GARBAGE {
                        link.degraded("it floods its standard output with what is no JSON-RPC message");
                        break;
                    }
                }
            }
            Line::TooLong { head, tail } => {
                let limit = limit as u64;
                tracing::warn!(target = %link.key(), limit, "skipped a message that is too large");
                if let Some(id) = id_of(&head, &tail) {
                    link.deliver(id, Err(UpstreamError::TooLarge { limit }));
                }
            }
        }
    }
    if let Some(link) = link.upgrade() {
        link.lost("it closed its standard output");
    }
}
