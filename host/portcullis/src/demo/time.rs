//! Calendar dates without a time zone database: UTC and fixed offsets.

/// Seconds since 1970-01-01T00:00:00Z, shifted by an offset in minutes, as RFC 3339.
pub(super) fn rfc3339(unix: i64, offset_minutes: i32) -> String {
    let local = unix + i64::from(offset_minutes) * 60;
    let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let offset = if offset_minutes == 0 {
        "Z".to_owned()
    } else {
        let sign = if offset_minutes < 0 { '-' } else { '+' };
        let minutes = offset_minutes.abs();
        format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    };
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{offset}")
}

/// The day of the week of a shifted time.
pub(super) fn weekday(unix: i64, offset_minutes: i32) -> &'static str {
    const NAMES: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let days = (unix + i64::from(offset_minutes) * 60).div_euclid(86_400);
    usize::try_from(days.rem_euclid(7)).ok().and_then(|i| NAMES.get(i)).copied().unwrap_or("")
}

/// An offset as RFC 3339 writes it: `Z`, `+05:30`, `-08:00`. In minutes.
pub(super) fn parse_offset(text: &str) -> Option<i32> {
    if matches!(text, "Z" | "z" | "UTC") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (h, m) = rest.split_once(':')?;
    let part = |t: &str, most: i32| {
        let digits = t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| t.parse::<i32>().ok()).flatten().filter(|n| *n <= most)
    };
    Some(sign * (part(h, 23)? * 60 + part(m, 59)?))
}

/// A day's year, month and day in the proleptic Gregorian calendar, after Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400, 0), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_219_200, -480), "2026-11-20T16:00:00-08:00");
        assert_eq!(rfc3339(-1, 330), "1970-01-01T05:29:59+05:30");
        assert_eq!(weekday(0, 0), "Thursday");
        assert_eq!(weekday(-1, 0), "Wednesday");
    }

    #[test]
    fn offsets_are_read_strictly() {
        assert_eq!(parse_offset("+05:30"), Some(330));
        assert_eq!(parse_offset("-08:00"), Some(-480));
        assert_eq!(parse_offset("Z"), Some(0));
        for bad in ["", "5", "+5:30", "+24:00", "+05:60", "05:30", "+05:3a", "é"] {
            assert_eq!(parse_offset(bad), None, "{bad}");
        }
    }
}
