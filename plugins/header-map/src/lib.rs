//! Credential strategy `header-map`: tells a server who is calling, in headers made of what is known of the caller, beside the connection
//! that `call-time` or `static` would choose, or instead of one. `docs/plugins/header-map.md` is its reference.

mod settings;

use portcullis_plugin_kit::choose;
use portcullis_sdk::{Caller, Error, Kind, Part, Resolution, Resolver, Target, Value, connections, export};
use settings::{Absent, Known, Mapping, Settings, Source, Under};

/// The longest value of a header.
const MAX_VALUE: usize = 4 << 10;

/// The strategy.
pub struct HeaderMap;

impl Resolver for HeaderMap {
    fn resolve(caller: Caller<'_>, target: Target<'_>, into: Resolution<'_>) -> Result<(), Error> {
        let settings = Settings::read(target)?;
        let mut placed = 0;
        for (name, mapping) in &settings.headers {
            match value(caller, name, mapping)? {
                Some(value) => {
                    let value = checked(name, value)?;
                    into.header(name, &[Part::Text(&value)]);
                    placed += 1;
                }
                None if mapping.absent == Absent::LeaveOut => {}
                None => {
                    let (who, what) = (caller.subject(), mapping.from.describe());
                    return Err(Error::denied(
                        "header-map",
                        format!("{who} has no {what}, which \"{}\" needs", target.server()),
                    ));
                }
            }
        }
        match settings.under {
            Under::Nothing if placed == 0 => into.none(),
            Under::Nothing => {}
            Under::CallTime => match choose(caller, &target.server()) {
                Ok(connection) => into.use_connection(&connection),
                Err(need) => into.missing(&need),
            },
            Under::Static => match target.connection() {
                Some(named) if connections().iter().any(|connection| connection.id == named) => {
                    into.use_connection(&named)
                }
                Some(named) => {
                    into.missing(&format!("the connection \"{named}\", which {} may not use", caller.subject()))
                }
                None => {
                    return Err(Error::InvalidConfig(
                        "under: static needs the assignment to name a connection".to_owned(),
                    ));
                }
            },
        }
        Ok(())
    }
}

/// What a header is to hold; none where the caller has nothing of the sort.
fn value(caller: Caller<'_>, name: &str, mapping: &Mapping) -> Result<Option<String>, Error> {
    let joined = |texts: Vec<String>| join(name, &texts, &mapping.join);
    let found = match &mapping.from {
        Source::Text(text) => Some(text.clone()),
        Source::Claim(claim) => match caller.claim(claim) {
            None => None,
            Some(Value::Text(text)) => Some(text),
            Some(Value::Texts(texts)) => joined(texts)?,
            Some(other) => Some(other.to_json().to_string()),
        },
        Source::Caller(known) => match known {
            Known::Subject => Some(caller.subject()),
            Known::Name => caller.subject().split_once(':').map(|(_, name)| name.to_owned()),
            Known::Kind => Some(
                match caller.kind() {
                    Kind::User => "user",
                    Kind::Team => "team",
                    Kind::Organization => "organization",
                    Kind::Agent => "agent",
                    Kind::External => "external",
                    _ => "anonymous",
                }
                .to_owned(),
            ),
            Known::Tenant => Some(caller.tenant()),
            Known::Teams => joined(caller.teams())?,
            Known::Roles => joined(caller.roles())?,
            Known::Groups => joined(caller.groups())?,
        },
    };
    Ok(found.filter(|text| !text.is_empty()).map(|text| format!("{}{text}", mapping.prefix)))
}

/// Several values as one: none of them may look like two to whoever takes them apart.
fn join(name: &str, texts: &[String], between: &str) -> Result<Option<String>, Error> {
    let mark = if between.trim().is_empty() { between } else { between.trim() };
    if !mark.is_empty() && texts.iter().any(|text| text.contains(mark)) {
        return Err(Error::denied("header-map", format!("a value for {name} contains what values are joined by")));
    }
    Ok((!texts.is_empty()).then(|| texts.join(between)))
}

/// What stands in a header is read by others: nothing in it may end it, or be cut.
fn checked(name: &str, value: String) -> Result<String, Error> {
    if value.len() > MAX_VALUE {
        return Err(Error::denied("header-map", format!("the value for {name} is longer than {MAX_VALUE} bytes")));
    }
    if value.chars().any(char::is_control) || value.trim() != value {
        return Err(Error::denied("header-map", format!("the value for {name} can't stand in a header")));
    }
    Ok(value)
}

export!(HeaderMap: Resolver; wants: {
    connections: "chooses among those that the caller may run under, as `under` says",
});

#[cfg(test)]
mod tests;
