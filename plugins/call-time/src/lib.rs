//! Credential strategy `call-time`: whose connection a call runs under follows from who is calling.
//!
//! The order stands in `portcullis_plugin_kit::choose`. No configuration.

use portcullis_plugin_kit::choose;
use portcullis_sdk::{Caller, Error, Resolution, Resolver, Target, export};

/// The strategy.
pub struct CallTime;

impl Resolver for CallTime {
    fn resolve(caller: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        match choose(caller, &target.server()) {
            Ok(connection) => into.use_connection(&connection),
            Err(need) => into.missing(&need),
        }
        Ok(())
    }
}

export!(CallTime: Resolver; wants: {
    connections: "chooses among those that the caller may run under",
});

#[cfg(test)]
mod tests;
