//! Quantities as people write them, in whole numbers: percentages, times, rates, sizes.
//!
//! Words are tc(8)'s ("Parameters"), and case does not matter: `1.5%`, `50ms`, `10mbit`, `1250kbps` (bytes a second),
//! `64k`. A number is exact: one with more digits than its unit keeps is refused. What is printed can be read again.
//!
//! Neighbours: `settings`, whose values these are.

use std::time::Duration;

use super::draw::Draws;

/// A probability, or a part of a whole, in 1/1,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// What it is counted in.
    pub const PARTS: u32 = 1_000_000_000;
    /// Never.
    pub const NONE: Self = Self(0);
    /// Always.
    pub const ALL: Self = Self(Self::PARTS);

    /// So many of [`Share::PARTS`]; more are all.
    #[must_use]
    pub fn of_parts(parts: u64) -> Self {
        Self(u32::try_from(parts).map_or(Self::PARTS, |parts| parts.min(Self::PARTS)))
    }

    /// How many of [`Share::PARTS`] it is.
    #[must_use]
    pub fn parts(self) -> u32 {
        self.0
    }

    /// Reads a percentage, with or without its sign.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts = decimal(text.strip_suffix('%').unwrap_or(text), 7)?;
        (parts <= u64::from(Self::PARTS)).then(|| Self::of_parts(parts))
    }

    /// As a percentage.
    #[must_use]
    pub fn show(self) -> String {
        format!("{}%", show_decimal(u64::from(self.0), 7))
    }

    /// Whether it comes about this time.
    #[must_use]
    pub fn happens(self, draws: &mut Draws) -> bool {
        draws.below(u64::from(Self::PARTS)) < u64::from(self.0)
    }
}

/// Reads a number without a sign, in units of 1/10^`places`.
#[must_use]
pub fn decimal(text: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let is_number = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && text.len() < 2) || !is_number(whole) || !is_number(fraction) || fraction.len() > places {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok()
}

/// The inverse of [`decimal`].
#[must_use]
pub fn show_decimal(value: u64, places: usize) -> String {
    let digits = format!("{value:0>width$}", width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
}

/// The longest time that anything may take: one day.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads a time. `unit` is meant where none is written: `s`, `ms`, `us` or `ns`.
#[must_use]
pub fn time(text: &str, unit: &str) -> Option<Duration> {
    let (number, written) = split_unit(text);
    let places = match if written.is_empty() { unit } else { &written } {
        "s" | "sec" | "secs" => 9,
        "ms" | "msec" | "msecs" => 6,
        "us" | "usec" | "usecs" => 3,
        "ns" | "nsec" | "nsecs" => 0,
        _ => return None,
    };
    decimal(number, places).map(Duration::from_nanos).filter(|time| *time <= MAX_TIME)
}

/// The inverse of [`time`].
#[must_use]
pub fn show_time(time: Duration) -> String {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    match nanoseconds {
        1_000_000_000.. => format!("{}s", show_decimal(nanoseconds, 9)),
        1_000_000.. => format!("{}ms", show_decimal(nanoseconds, 6)),
        1_000.. => format!("{}us", show_decimal(nanoseconds, 3)),
        _ => format!("{nanoseconds}ns"),
    }
}

/// Reads a rate, in bits a second: 1 to 10^13.
#[must_use]
pub fn rate(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let (prefix, bits) = match unit.strip_suffix("bit") {
        Some(prefix) => (prefix, 1),
        None => match unit.strip_suffix("bps") {
            Some(prefix) => (prefix, 8),
            None => (unit.as_str(), 1),
        },
    };
    let scale: u64 = match prefix {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return None,
    };
    let thousandths = u128::from(decimal(number, 3)?) * u128::from(scale * bits);
    u64::try_from(thousandths / 1_000).ok().filter(|rate| (1..=10_000_000_000_000).contains(rate))
}

/// The inverse of [`rate`].
#[must_use]
pub fn show_rate(rate: u64) -> String {
    match rate {
        1_000_000_000.. if rate.is_multiple_of(1_000_000) => format!("{}gbit", show_decimal(rate / 1_000_000, 3)),
        1_000_000.. if rate.is_multiple_of(1_000) => format!("{}mbit", show_decimal(rate / 1_000, 3)),
        1_000.. => format!("{}kbit", show_decimal(rate, 3)),
        _ => format!("{rate}bit"),
    }
}

/// Reads a number of bytes; `k`, `m` and `g` are 2^10, 2^20 and 2^30.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text);
    let scale: u64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return None,
    };
    decimal(number, 0)?.checked_mul(scale)
}

/// A number and the letters behind it, in lower case.
fn split_unit(text: &str) -> (&str, String) {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (&text[..end], text[end..].to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_exactly_and_printed_back() {
        for (text, parts) in [("1%", 10_000_000), ("0.1%", 1_000_000), ("100%", 1_000_000_000), ("0.0000001%", 1)] {
            let share = Share::parse(text).unwrap();
            assert_eq!((share.parts(), share.show().as_str()), (parts, text));
        }
        assert_eq!(Share::parse("2.50"), Share::parse("2.5%"));
        for (text, time_meant) in [("50ms", 50_000_000), ("1.5s", 1_500_000_000), ("7us", 7_000), ("0ns", 0)] {
            let read = time(text, "ms").unwrap();
            assert_eq!((read.as_nanos(), show_time(read).as_str()), (time_meant, text));
        }
        assert_eq!(time("5", "ms"), Some(Duration::from_millis(5)));
        assert_eq!(time("0.5", "s"), Some(Duration::from_millis(500)));
        for (text, bits) in [("10mbit", 10_000_000), ("1.5gbit", 1_500_000_000), ("64kbit", 64_000), ("300bit", 300)] {
            let read = rate(text).unwrap();
            assert_eq!((read, show_rate(read).as_str()), (bits, text));
        }
        assert_eq!(rate("125kbps"), Some(1_000_000));
        assert_eq!(rate("1Kibps"), Some(8_192));
        assert_eq!(rate("9600"), Some(9_600));
        assert_eq!(rate(&show_rate(1_234_567_891)), Some(1_234_567_891));
        assert_eq!((size("64k"), size("1MB"), size("1500")), (Some(65_536), Some(1 << 20), Some(1_500)));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "%", "-1", "101%", "1%%", "0.00000001%", ".", "1,5", "1e3", "\u{663}"] {
            assert_eq!(Share::parse(text), None, "{text}");
        }
        for text in ["", "ms", "5 ms", "1h", "86401s", "0.5ns", "99999999999999999999s", "1\u{e4}s"] {
            assert_eq!(time(text, "ms"), None, "{text}");
        }
        for text in ["", "0", "fast", "10mb", "11tbps", "18446744073709551615gbit"] {
            assert_eq!(rate(text), None, "{text}");
        }
        for text in ["", "1.5k", "k", "1t", "18446744073709551615k"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
