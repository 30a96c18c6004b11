//! New plugin projects, the SDK's source that they are built with, and how they are built.
//!
//! A project is whole in itself: [`create`] writes the SDK's source into its `vendor` folder, so that it builds a year later with the
//! SDK that it was written for, wherever it is; [`revise`] brings in that of this Portcullis. [`build()`] runs cargo.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod project;
mod templates;
mod vendored;

pub use build::{BuildError, Built, TARGET, build, test};
pub use project::{CreateError, Sdk, create, revise};
pub use templates::Template;
