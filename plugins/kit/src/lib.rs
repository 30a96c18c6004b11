//! What several built-in plugins share: patterns of names, which calls a rule covers, places in JSON, edits of JSON text that leave
//! the rest as it was written, sizes, and whose connection fits whom. An ordinary library of guests.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod choose;
mod covers;
mod edit;
mod glob;
mod path;
mod size;

pub use choose::choose;
pub use covers::Covers;
pub use edit::{Broken, Change, Editor, edit};
pub use glob::{Pattern, Template};
pub use path::{JsonPath, Step};
pub use size::Size;
