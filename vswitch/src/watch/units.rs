//! Numbers and times for people.

use std::time::Duration;

/// A number in five characters at most, with three significant digits from 1000 on: `999`, `1.23k`, `45.6M`.
pub(super) fn scaled(number: f64) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut number = number;
    for (place, unit) in UNITS.iter().enumerate() {
        let decimals = if place == 0 { 0 } else { decimals(number) };
        let text = format!("{number:.decimals$}");
        // Rounding may have made it 1000.
        if text.len() <= 3 + usize::from(decimals > 0) && text != "1000" || place + 1 == UNITS.len() {
            return format!("{text}{unit}");
        }
        number /= 1000.0;
    }
    String::new()
}

fn decimals(number: f64) -> usize {
    match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    }
}

/// A time span in its two greatest units: `45 s`, `3 min 20 s`, `2 h 5 min`, `9 d 4 h`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |great, great_unit, small, small_unit| match small {
        0 => format!("{great} {great_unit}"),
        small => format!("{great} {great_unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86400, "d", seconds / 3600 % 24, "h"),
    }
}

/// A time span from seconds; none is shorter than nothing.
pub(super) fn span_of_seconds(seconds: f64) -> String {
    span(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

/// A count and what is counted: `1 port`, `2 ports`.
pub(super) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let cases = [
            (0.0, "0"),
            (0.4, "0"),
            (7.0, "7"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (9996.0, "10.0k"),
            (45_600_000.0, "45.6M"),
            (99_960.0, "100k"),
            (999_999.0, "1.00M"),
            (1e12, "1.00T"),
            (u64::MAX as f64, "18.4E"),
        ];
        for (number, text) in cases {
            assert_eq!(scaled(number), text);
            assert!(text.len() <= 5);
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        let cases =
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (86400 * 9, "9 d")];
        for (seconds, text) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span_of_seconds(-1.0), "0 s");
    }
}
