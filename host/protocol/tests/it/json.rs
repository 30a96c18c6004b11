//! Random JSON text, written the odd ways that JSON may be written.

use proptest::prelude::*;

/// JSON text with white space, escapes and number forms that a serializer would never write.
pub fn text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
        string(),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            (space(), prop::collection::vec((space(), inner.clone(), space()), 0..5)).prop_map(|(lead, items)| {
                let items: Vec<String> = items.into_iter().map(|(a, v, b)| format!("{a}{v}{b}")).collect();
                format!("[{lead}{}]", items.join(","))
            }),
            object(inner),
        ]
    })
}

/// An object with distinct keys.
pub fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec((space(), value, space()), 0..5).prop_map(|members| {
        let members: Vec<String> =
            members.into_iter().enumerate().map(|(i, (a, v, b))| format!("{a}\"k{i}\\u00e9\"{b}:{a}{v}{b}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

pub fn space() -> impl Strategy<Value = String> {
    "[ \n\r\t]{0,2}"
}

pub fn string() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            "[a-z é€😀/_.-]{1,12}",
            Just("\\\"".to_owned()),
            Just("\\\\".to_owned()),
            Just("\\n".to_owned()),
            Just("\\/".to_owned()),
            Just("\\u0041".to_owned()),
            Just("\\ud83d\\ude00".to_owned()),
        ],
        0..4,
    )
    .prop_map(|parts| format!("\"{}\"", parts.concat()))
}
