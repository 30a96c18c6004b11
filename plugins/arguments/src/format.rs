//! The formats of texts that are checked (2020-12 validation section 7.3).

use std::net::{Ipv4Addr, Ipv6Addr};

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format(usize);

type Holds = fn(&str) -> bool;

const FORMATS: [(&str, Holds); 7] = [
    ("date", is_date),
    ("date-time", is_date_time),
    ("email", is_email),
    ("ipv4", |text| text.parse::<Ipv4Addr>().is_ok()),
    ("ipv6", |text| text.parse::<Ipv6Addr>().is_ok()),
    ("uri", is_uri),
    ("uuid", is_uuid),
];

impl Format {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        FORMATS.iter().position(|(known, _)| *known == name).map(Self)
    }

    pub(crate) fn names() -> String {
        FORMATS.map(|(name, _)| name).join(", ")
    }

    pub(crate) fn name(self) -> &'static str {
        FORMATS[self.0].0
    }

    pub(crate) fn is(self, text: &str) -> bool {
        FORMATS[self.0].1(text)
    }
}

/// A number of exactly so many digits within bounds.
fn digits(text: &str, length: usize, within: std::ops::RangeInclusive<u32>) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit()) && text.parse().is_ok_and(|n| within.contains(&n))
}

/// RFC 3339 `full-date`.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let (Some(year), Some(month), Some(day), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    if !digits(year, 4, 0..=9999) || !digits(month, 2, 1..=12) {
        return false;
    }
    let (year, month): (u32, u32) = (year.parse().unwrap_or(0), month.parse().unwrap_or(0));
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    digits(day, 2, 1..=last)
}

/// RFC 3339 `date-time`.
fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't', ' ']) else { return false };
    let Some(zone) = time.find(['Z', 'z', '+', '-']) else { return false };
    let (time, zone) = time.split_at(zone);
    let hours = |text: &str| {
        text.split_once(':').is_some_and(|(hours, minutes)| digits(hours, 2, 0..=23) && digits(minutes, 2, 0..=59))
    };
    let (seconds, fraction) =
        time.split_once('.').map_or((time, None), |(seconds, fraction)| (seconds, Some(fraction)));
    is_date(date)
        && seconds.len() == 8
        && seconds.is_char_boundary(5)
        && hours(&seconds[..5])
        && seconds[5..].strip_prefix(':').is_some_and(|seconds| digits(seconds, 2, 0..=60))
        && fraction.is_none_or(|fraction| !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit()))
        && (zone.eq_ignore_ascii_case("z") || hours(&zone[1..]))
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let plain =
        |part: &str| !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@');
    plain(local) && plain(domain) && local.len() <= 64 && !domain.starts_with('.') && !domain.ends_with('.')
}

/// RFC 3986, as far as it matters: a scheme, and no character that has to be encoded.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let mut scheme = scheme.bytes();
    scheme.next().is_some_and(|b| b.is_ascii_alphabetic())
        && scheme.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && !rest.is_empty()
        && rest.bytes().all(|b| b.is_ascii_graphic() && !b"<>\"{}|\\^`".contains(&b))
}

fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == 5
        && parts.iter().zip(lengths).all(|(part, n)| part.len() == n && part.bytes().all(|b| b.is_ascii_hexdigit()))
}
