//! What the official suite finds, directly and through the gateway, differs by what is listed and by nothing else.

mod pairings;
mod tasks;

use std::path::Path;

use portcullis_conformance::{
    known::Known,
    run::{Outcome, revisions},
    suite::REVISIONS,
};

#[tokio::test]
async fn the_official_suite_finds_the_same_through_the_gateway() {
    let known = Known::read().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis-conformance"));
    let outcome = Outcome::measure(&revisions(None), &known, program).await.unwrap();
    outcome.print(&known);
    outcome.judge(&known).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn what_is_listed_is_of_a_revision_that_is_run() {
    let known = Known::read().unwrap();
    for entry in known.ruled_out.iter().chain(&known.pending) {
        assert!(REVISIONS.contains(&&*entry.revision), "{entry:?}");
        assert!(entry.reason.len() > 10, "{entry:?} has no reason");
    }
}
