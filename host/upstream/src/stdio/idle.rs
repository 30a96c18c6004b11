//! A child that nobody uses ends, and the next call starts it again.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use crate::{link::Link, listen::hub::Hub};

/// The shortest time between two looks.
const LEAST: Duration = Duration::from_millis(20);

/// Ends the child once nobody has called it, and nobody listened to it, for so long. It looks now and then, so that a call
/// pays nothing for it; a child may live a quarter longer than it is told to.
pub(super) async fn watch(child: Weak<Link>, hub: Arc<Hub>, after: Duration) {
    let Some(mut closing) = child.upgrade().map(|c| c.closing()) else { return };
    let pause = (after / 4).max(LEAST);
    let mut used = None;
    let mut since = Instant::now();
    loop {
        tokio::select! {
            _ = closing.wait_for(|closed| *closed) => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Some(child) = child.upgrade() else { return };
        let now = child.in_use();
        if now.is_none() || now != used || !hub.is_empty() {
            (used, since) = (now, Instant::now());
        } else if since.elapsed() >= after {
            tracing::info!(target = %child.key(), "nobody uses the server's process, so it ends until the next call");
            child.close_when_idle();
            return;
        }
    }
}
