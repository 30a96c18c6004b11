//! Guests against the plugin host: hostile ones, honest ones, and the built-in plugins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod built;
mod built_ins;
mod canary;
mod closed;
mod declared;
mod floods;
mod grants;
mod guests;
mod hostile;
mod keeper;
mod life;
mod load_under_calls;
mod loading;
mod manager;
mod mutated;
mod outgoing;
mod quarantine;
mod ready;
mod released;
mod swapping;
mod tools;
mod unruly;
