//! Credential strategy `static`: each call runs under the connection that the tool assignment names, whoever calls.
//!
//! No configuration. The assignment names the connection; without one, or where the connection is gone, the call is refused
//! saying so.

use portcullis_sdk::{Caller, Error, Resolution, Resolver, Target, connections, export};

/// The strategy.
pub struct Static;

impl Resolver for Static {
    fn resolve(_caller: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        let Some(named) = target.connection() else {
            into.missing(&format!(
                "the assignment of server \"{}\" has the credential mode static but names no connection: an operator has to name one",
                target.server()
            ));
            return Ok(());
        };
        let listing = connections();
        if (0..listing.len()).any(|at| listing.id(at) == named) {
            into.use_connection(&named);
        } else {
            into.missing(&format!(
                "the connection \"{named}\" that the assignment of server \"{}\" names, which does not exist or may not be used here",
                target.server()
            ));
        }
        Ok(())
    }
}

export!(Static: Resolver);
