//! The digest of what a request asks for.

use portcullis_protocol::canonical::digest;
use proptest::prelude::*;
use serde_json::Value;

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\é😀\n]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-cé]{0,2}", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

/// The same value with the members of each object the other way round, and each string escaped.
fn turned(value: &Value) -> String {
    let escaped = |text: &str| {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        format!("\"{units}\"")
    };
    match value {
        Value::Object(members) => {
            let members: Vec<_> = members.iter().rev().map(|(k, v)| format!("{} :{}", escaped(k), turned(v))).collect();
            format!("{{{}}}", members.join(" ,"))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(turned).collect::<Vec<_>>().join(", ")),
        Value::String(text) => escaped(text),
        other => other.to_string(),
    }
}

proptest! {
    /// However a value is written, its digest is the same; and the digest of another value is another.
    #[test]
    fn goes_by_what_is_said(a in value(), b in value()) {
        let tight = digest(&a.to_string()).unwrap();
        prop_assert_eq!(digest(&serde_json::to_string_pretty(&a).unwrap()).unwrap(), tight);
        prop_assert_eq!(digest(&turned(&a)).unwrap(), tight);
        prop_assert_eq!(a == b, digest(&b.to_string()).unwrap() == tight);
    }

    /// Odd JSON has a digest too, and what is cut off or goes on has none.
    #[test]
    fn takes_any_json_and_nothing_else(text in crate::json::text()) {
        prop_assert!(digest(&text).is_ok());
        let (more, less) = (text.clone() + "]", "[".to_owned() + &text);
        prop_assert!(digest(&more).is_err() && digest(&less).is_err());
    }
}
