//! However a stream is cut, it says the same.

use portcullis_protocol::sse::{Decoder, Event, encode, encode_message};
use proptest::prelude::*;

fn decode<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> Vec<Event> {
    let mut decoder = Decoder::new(1 << 16);
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk, &mut events).unwrap();
    }
    events
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events(
        bom in any::<bool>(),
        lines in prop::collection::vec(
            ("(data|event|id|retry|:|other|)(:| )?[a-z0-9é:]{0,6}", prop_oneof![Just("\n"), Just("\r"), Just("\r\n")], any::<bool>()),
            0..30,
        ),
        cuts in prop::collection::vec(1..9usize, 1..20),
    ) {
        let mut stream = if bom { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
        for (line, end, blank) in &lines {
            stream.extend_from_slice(line.as_bytes());
            stream.extend_from_slice(end.as_bytes());
            if *blank {
                stream.extend_from_slice(end.as_bytes());
            }
        }
        let whole = decode([&stream[..]]);
        let bytewise = decode(stream.chunks(1));
        let mut rest = &stream[..];
        let mut pieces = Vec::new();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            pieces.push(head);
            rest = tail;
        }
        prop_assert_eq!(&decode(pieces), &whole);
        prop_assert_eq!(&bytewise, &whole);
    }

    #[test]
    fn what_is_encoded_is_decoded(data in "[ -~é\n]{0,60}", kind in "[a-z]{1,5}", id in prop::option::of("[a-z0-9]{1,5}")) {
        let event = Event { event: Some(kind.into()), data: data.clone().into(), id: id.map(Into::into) };
        let mut out = Vec::new();
        encode(&event, &mut out);
        prop_assert_eq!(decode([&out[..]]), vec![event]);
        let message = decode([&encode_message(data.as_bytes())[..]]);
        prop_assert_eq!(&message[0].data[..], data.as_bytes());
        prop_assert!(message[0].is_message());
    }

    #[test]
    fn nothing_makes_it_panic_or_grow(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::new(50);
        let mut events = Vec::new();
        for chunk in bytes.chunks(7) {
            if decoder.feed(chunk, &mut events).is_err() {
                break;
            }
        }
        prop_assert!(events.iter().all(|e| e.data.len() <= 50));
    }
}
