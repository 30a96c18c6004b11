//! The whole protocol, both eras, both sides: through the gateway equals direct.

mod equal;
mod offered;
mod search;
