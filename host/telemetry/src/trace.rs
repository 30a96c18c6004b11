//! W3C Trace Context: which trace a request belongs to.

/// A `traceparent` of version 00 (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
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
        let (trace, span, _flags) = (hex(&text[3..35])?, hex(&text[36..52])?, hex(&text[53..55])?);
        (!more && trace != 0 && span != 0).then_some(Self { trace })
    }

    /// The trace id: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// Lower-case hexadecimal only, as the specification says.
fn hex(text: &str) -> Option<u128> {
    let ok = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if ok { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_specification_refuses() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(good).unwrap().trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
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
