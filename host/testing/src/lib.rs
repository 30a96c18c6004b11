//! Tries plugins on the real host: any component, with scripted services in place of the house, a clock that stands still and
//! randomness that repeats itself.
//!
//! A [`Case`] says what a plugin is asked and what the house answers it meanwhile; a [`Trial`] loads a component under a case and
//! asks. [`conformance`] asks what every plugin of a kind has to survive, [`recorded`] compares answers with those that were
//! written down, [`cost`] measures. `portcullis plugin test` and `bench` are these.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod case;
pub mod conformance;
pub mod cost;
mod house;
pub mod recorded;
mod trial;

pub use case::{Ask, Case, Exchange, InvalidCase, Offered, Who};
pub use house::Sent;
pub use trial::{NOW_MS, Told, Trial, TrialError, host};
