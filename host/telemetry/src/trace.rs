//! W3C Trace Context: `traceparent` read, continued and made.

use std::{cell::Cell, fmt};

use crate::ids::random_u64;

/// A `traceparent` of version 00 (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`. Nothing if it is not valid: then a new trace has to be started. A version newer than 00 is
    /// read as 00, as section 4 of the specification says.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let dashes = bytes.len() >= 55 && bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
        if !text.is_ascii() || !dashes {
            return None;
        }
        let version = hex(&text[..2])? as u8;
        let more = match version {
            0xff => return None,
            0 => bytes.len() > 55,
            _ => bytes.len() > 55 && bytes[55] != b'-',
        };
        let (trace, span, flags) = (hex(&text[3..35])?, hex(&text[36..52])? as u64, hex(&text[53..55])? as u8);
        (!more && trace != 0 && span != 0).then_some(Self { trace, span, flags: flags & 1 })
    }

    /// A new trace, not sampled.
    pub fn generate() -> Self {
        let trace = (u128::from(cheap_random()) << 64) | u128::from(cheap_random());
        Self { trace: trace.max(1), span: cheap_random().max(1), flags: 0 }
    }

    /// Continues what a client sent, or starts a trace.
    pub fn continue_from(header: Option<&str>) -> Self {
        header.and_then(Self::parse).map_or_else(Self::generate, |parent| parent.child())
    }

    /// The same trace, with a span of its own.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: cheap_random().max(1), ..self }
    }

    /// The trace id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// Whether whoever started the trace records it.
    pub fn sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// The `traceparent` header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Lower-case hexadecimal only, as the specification says.
fn hex(text: &str) -> Option<u128> {
    let ok = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if ok { u128::from_str_radix(text, 16).ok() } else { None }
}

/// SplitMix64, seeded once per thread: trace ids need to differ, not to be secret.
fn cheap_random() -> u64 {
    thread_local!(static STATE: Cell<u64> = Cell::new(random_u64()));
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let z = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let made = TraceContext::generate();
        assert_eq!(TraceContext::parse(&made.to_string()), Some(made));
        let child = made.child();
        assert_eq!(child.trace_id(), made.trace_id());
        assert_ne!(child, made);
    }

    #[test]
    fn refuses_what_the_specification_refuses() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(TraceContext::parse(good).unwrap().sampled());
        assert!(TraceContext::parse(&format!("01{}-future", &good[2..])).is_some());
        for bad in [
            "",
            &good[..54],
            &format!("{good}-x"),
            &good.to_uppercase(),
            &format!("ff{}", &good[2..]),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
