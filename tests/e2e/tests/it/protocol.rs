//! The whole protocol, both eras, both sides: through the gateway equals direct.

mod asked;
mod bounds;
mod equal;
mod gone;
pub mod held;
mod offered;
mod old;
mod pages;
mod refused;
mod search;
mod standing;
mod streams;
