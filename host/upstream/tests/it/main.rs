//! Both transports against servers of both eras, honest and not.
#![allow(clippy::unwrap_used)]

mod asked;
mod connections;
mod fixture;
mod honest;
mod hostile;
mod listening;
mod old;
mod piped;
mod talk;
