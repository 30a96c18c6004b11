//! The whole protocol, both eras, both sides: through the gateway equals direct.

mod asked;
mod equal;
mod held;
mod offered;
mod search;
mod streams;
