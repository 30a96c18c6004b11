//! Components of registries that are honest, broken and hostile. The registry here is a fake, since no real one can be made to lie;
//! the end-to-end tests use a real one.
#![allow(clippy::unwrap_used)]

mod fake;
mod fetching;
mod hostile;
