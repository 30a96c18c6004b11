//! Files and sockets of WASI 0.2 as a world without any has them: there is no folder, and nothing can be opened.
//!
//! The runtimes of other languages (CPython) import them whether a plugin wants them or not. Nothing stands behind these functions: they
//! are defined by their types alone, for the components that import them, and hold no code that could reach anything (decision 54).

use wasmtime::component::{
    Component, Linker, LinkerInstance, ResourceType, Type, Val,
    types::{ComponentFunc, ComponentItem},
};

use crate::state::State;

/// The versions that are closed. An interface of another one is refused as any stranger is.
const VERSIONS: &str = "0.2.";
/// The interfaces, without versions, each with how its denials are counted and the resources that are its own.
const CLOSED: [(&str, &str, &[&str]); 9] = [
    ("wasi:filesystem/preopens", FILES, &[]),
    ("wasi:filesystem/types", FILES, &["descriptor", "directory-entry-stream"]),
    ("wasi:sockets/network", SOCKETS, &["network"]),
    ("wasi:sockets/instance-network", SOCKETS, &[]),
    ("wasi:sockets/udp", SOCKETS, &["udp-socket", "incoming-datagram-stream", "outgoing-datagram-stream"]),
    ("wasi:sockets/udp-create-socket", SOCKETS, &[]),
    ("wasi:sockets/tcp", SOCKETS, &["tcp-socket"]),
    ("wasi:sockets/tcp-create-socket", SOCKETS, &[]),
    ("wasi:sockets/ip-name-lookup", SOCKETS, &["resolve-address-stream"]),
];
const FILES: &str = "files";
const SOCKETS: &str = "sockets";
/// What an error that means "you may not" is called in `wasi:filesystem` and in `wasi:sockets`.
const REFUSALS: [&str; 2] = ["access", "access-denied"];

/// A file or a socket, of which there is none.
struct Nothing;

fn find(interface: &str) -> Option<(&'static str, &'static [&'static str])> {
    let (bare, version) = interface.split_once('@')?;
    let (_, counted, resources) = CLOSED.iter().find(|(closed, ..)| *closed == bare)?;
    version.starts_with(VERSIONS).then_some((counted, resources))
}

/// Whether an interface (with its version) is one of them.
pub(crate) fn is_closed(interface: &str) -> bool {
    find(interface).is_some()
}

/// A linker that has them as well, where the component asks for any of them.
///
/// # Errors
/// Where two imports have one name, which no component has.
pub(crate) fn linked(linker: &Linker<State>, component: &Component) -> wasmtime::Result<Option<Linker<State>>> {
    let engine = linker.engine();
    let mut own: Option<Linker<State>> = None;
    for (name, item) in component.component_type().imports(engine) {
        let Some((counted, resources)) = find(name) else { continue };
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        let mut closed = own.get_or_insert_with(|| linker.clone()).instance(name)?;
        for resource in resources {
            closed.resource(resource, ResourceType::host::<Nothing>(), |_, _| Ok(()))?;
        }
        for (function, item) in instance.exports(engine) {
            if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                define(&mut closed, function, counted)?;
            }
        }
    }
    Ok(own)
}

fn define(interface: &mut LinkerInstance<'_, State>, function: &str, counted: &'static str) -> wasmtime::Result<()> {
    interface.func_new(function, move |mut store, ty, _, results| {
        let state = store.data_mut();
        match answer(&ty) {
            Some(Answer::Nothing(value)) => results[0] = value,
            Some(Answer::Refused(value)) => {
                state.denied(counted);
                results[0] = value;
            }
            None => {
                state.denied(counted);
                return state.forbid("it asked for a file or a socket");
            }
        }
        Ok(())
    })
}

enum Answer {
    /// There is nothing.
    Nothing(Val),
    /// The error that says so.
    Refused(Val),
}

/// What such a function says: that there is nothing, or that it is not allowed. None where its type has no words for either.
fn answer(function: &ComponentFunc) -> Option<Answer> {
    let mut results = function.results();
    let (result, None) = (results.next()?, results.next()) else { return None };
    match result {
        Type::List(_) => Some(Answer::Nothing(Val::List(Vec::new()))),
        Type::Option(_) => Some(Answer::Nothing(Val::Option(None))),
        Type::Result(result) => {
            let Some(Type::Enum(codes)) = result.err() else { return None };
            let code = codes.names().find(|code| REFUSALS.contains(code))?.to_owned();
            Some(Answer::Refused(Val::Result(Err(Some(Box::new(Val::Enum(code)))))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_and_only_of_this_version() {
        assert!(is_closed("wasi:filesystem/types@0.2.0") && is_closed("wasi:sockets/tcp@0.2.12"));
        for other in
            ["wasi:filesystem/types", "wasi:filesystem/types@0.3.0", "wasi:sockets/raw@0.2.0", "wasi:http/types@0.2.0"]
        {
            assert!(!is_closed(other), "{other}");
        }
    }
}
