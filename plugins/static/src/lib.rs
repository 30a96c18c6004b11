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

export!(Static: Resolver; wants: {
    connections: "looks whether the connection that the assignment names is there for this caller",
});

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use portcullis_sdk::fake;

    use super::*;

    fn resolve(target: &fake::Target, offered: &[&str]) -> fake::Resolution {
        let connection = |host: fake::Host, id: &&str| host.connection(fake::Connection::new(id, "organization"));
        let _host = offered.iter().fold(fake::Host::new(), connection).install();
        let into = fake::Resolution::new();
        Static::resolve(fake::Caller::new("user:ann").lend(), target.lend(), into.lend()).unwrap();
        into
    }

    #[test]
    fn uses_the_connection_that_is_named_and_no_other() {
        let named = resolve(&fake::Target::new("github").naming("bot"), &["older", "bot"]);
        assert_eq!((named.chosen().as_deref(), named.missed()), (Some("bot"), None));
    }

    #[test]
    fn a_connection_that_is_gone_is_missing_by_name() {
        let gone = resolve(&fake::Target::new("github").naming("bot"), &["older"]);
        assert_eq!(gone.chosen(), None);
        assert!(gone.missed().unwrap().contains("\"bot\""));
    }

    #[test]
    fn an_assignment_without_a_connection_is_the_operators_to_mend() {
        let unnamed = resolve(&fake::Target::new("github"), &["older"]);
        assert_eq!(unnamed.chosen(), None);
        assert!(unnamed.missed().unwrap().contains("names no connection"));
    }
}
