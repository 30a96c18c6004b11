//! Patterns that people ask for by name. A shape alone would take every long number for a card, so where there is a check sum it
//! has to be right.

/// One well-known pattern.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    /// Letters, digits and word boundaries are ASCII's: these things are.
    pub(crate) regex: &'static str,
    /// How much of what fits the shape it really is, in bytes from the beginning; none where it is something else.
    pub(crate) accept: fn(&str) -> Option<usize>,
}

const fn known(name: &'static str, regex: &'static str) -> Known {
    Known { name, regex, accept: |text| Some(text.len()) }
}

const KNOWN: [Known; 15] = [
    known("email", r"(?-u:\b)[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}(?-u:\b)"),
    Known {
        name: "credit-card",
        regex: r"(?-u:\b)(?:[0-9][ -]?){12,18}[0-9](?-u:\b)",
        accept: |text| shorten(text, is_card),
    },
    Known {
        name: "iban",
        regex: r"(?-u:\b)[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?-u:\b)",
        accept: |text| shorten(text, is_iban),
    },
    known("phone", r"\+[1-9][0-9]{0,2}(?:[ ().-]{0,2}[0-9]){6,12}(?-u:\b)"),
    Known {
        name: "us-ssn",
        regex: r"(?-u:\b)[0-9]{3}-[0-9]{2}-[0-9]{4}(?-u:\b)",
        accept: |text| is_ssn(text).then_some(text.len()),
    },
    Known {
        name: "ipv4",
        regex: r"(?-u:\b)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?-u:\b)",
        accept: |text| text.parse::<std::net::Ipv4Addr>().is_ok().then_some(text.len()),
    },
    known("aws-key", r"(?-u:\b)(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?-u:\b)"),
    known(
        "private-key",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z)",
    ),
    known("jwt", r"(?-u:\b)eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"),
    known("github-token", r"(?-u:\b)(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})(?-u:\b)"),
    known("slack-token", r"(?-u:\b)xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    known("google-key", r"(?-u:\b)AIza[A-Za-z0-9_-]{35}"),
    known("stripe-key", r"(?-u:\b)(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}(?-u:\b)"),
    known("portcullis-token", r"(?-u:\b)pcl_[A-Za-z0-9_-]{16,}"),
    known("bearer", r"(?i-u:\bbearer[ \t]+)[A-Za-z0-9._~+/-]{16,}=*"),
];

/// Names that stand for several.
const GROUPS: [(&str, &[&str]); 2] = [
    (
        "secrets",
        &[
            "aws-key",
            "private-key",
            "jwt",
            "github-token",
            "slack-token",
            "google-key",
            "stripe-key",
            "portcullis-token",
            "bearer",
        ],
    ),
    ("personal", &["email", "credit-card", "iban", "phone", "us-ssn"]),
];

/// The patterns behind a name; none where nobody knows it.
pub(crate) fn by_name(name: &str) -> Vec<&'static Known> {
    let one = |name: &str| KNOWN.iter().find(|known| known.name == name);
    match GROUPS.iter().find(|(group, _)| *group == name) {
        Some((_, names)) => names.iter().filter_map(|name| one(name)).collect(),
        None => one(name).into_iter().collect(),
    }
}

/// All names, for a message.
pub(crate) fn names() -> String {
    let names: Vec<&str> = KNOWN.iter().map(|known| known.name).chain(GROUPS.iter().map(|(name, _)| *name)).collect();
    names.join(", ")
}

/// The longest beginning that holds, cut where a group ends: a shape may have swallowed the word behind it.
fn shorten(text: &str, holds: fn(&str) -> bool) -> Option<usize> {
    let mut text = text;
    loop {
        if holds(text) {
            return Some(text.len());
        }
        text = &text[..text.rfind([' ', '-'])?];
    }
}

/// ISO/IEC 7812: 13 to 19 digits whose check digit is right (Luhn).
fn is_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum();
    (13..=19).contains(&digits.len()) && sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}

/// ISO 13616: the number that it makes, its first four characters put last, is 1 modulo 97.
fn is_iban(text: &str) -> bool {
    let plain: Vec<u8> = text.bytes().filter(u8::is_ascii_alphanumeric).collect();
    if !(15..=34).contains(&plain.len()) {
        return false;
    }
    let rest = plain[4..].iter().chain(&plain[..4]).fold(0u32, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        letter => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    rest == 1
}

fn is_ssn(text: &str) -> bool {
    let (area, group, serial) = (&text[..3], &text[4..6], &text[7..]);
    area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000"
}
