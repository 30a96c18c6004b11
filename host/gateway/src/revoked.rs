//! What callers hold ends with their credential: calls that wait for them, sessions, streams of changes (security decision 19).
//! A call asks for itself; this is for what would go on by itself.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::gateways::Gateways;

/// How often callers are looked at, while anybody holds anything.
const LOOK: Duration = Duration::from_millis(250);

/// Looks for callers who would not be let in any more, and ends what they hold. While nobody holds anything it sleeps.
pub async fn watch(gateways: Weak<Gateways>) {
    loop {
        let Some(all) = gateways.upgrade() else { return };
        if !all.holds_anything() {
            let holds = Arc::clone(&all.holds);
            drop(all);
            holds.notified().await;
            continue;
        }
        all.end_revoked();
        drop(all);
        tokio::time::sleep(LOOK).await;
    }
}

impl Gateways {
    fn holds_anything(&self) -> bool {
        self.sessions.len() > 0 || self.held.any() || self.subscriptions.any()
    }

    fn end_revoked(&self) {
        self.held.end_where(|whose, gateway| !self.authenticator.stands(whose, gateway));
        self.subscriptions.end_where(|whose, gateway| !self.authenticator.stands(whose, gateway));
        for live in self.sessions.all() {
            if !self.authenticator.stands(&live.whose, &live.at.1) {
                self.in_flight.end(live.nonce);
                self.end_session(&live.nonce);
            }
        }
    }
}
