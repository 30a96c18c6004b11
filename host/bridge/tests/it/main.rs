//! The bridge as a program, over servers that do as they are told and real ones.
#![allow(clippy::unwrap_used)]

mod ends;
mod keyed;
mod kit;
mod modern;
mod real;
mod refusals;
mod sessions;
