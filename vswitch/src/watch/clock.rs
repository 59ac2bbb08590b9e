//! Calendar times as text (RFC 3339 §5.6), in UTC with milliseconds; and such a text in local time, for people.

use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86400;

/// As in `2026-03-01T12:34:56.789Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let rest = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// What [`rfc3339`] wrote, as in `2026-03-01 13:34:56.789` where the clocks are an hour ahead. Other text stays.
pub(super) fn local(text: &str) -> String {
    let Some((seconds, fraction)) = parse(text) else { return text.to_owned() };
    let Some(time) = local_time(seconds) else { return text.to_owned() };
    let (year, month) = (time.tm_year + 1900, time.tm_mon + 1);
    let (day, hour, minute, second) = (time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction}")
}

/// The seconds since the epoch, and the digits of the fraction.
fn parse(text: &str) -> Option<(i64, &str)> {
    let (date, rest) = text.strip_suffix('Z')?.split_once('T')?;
    let (clock, fraction) = rest.split_once('.')?;
    let numbers = |text: &str, separator| -> Option<[i64; 3]> {
        let list: Vec<i64> = text.split(separator).map(|part| part.parse().ok()).collect::<Option<_>>()?;
        list.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(clock, ':')?);
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month);
    is_date.then(|| (days(year, month, day) * DAY + hour * 3600 + minute * 60 + second, fraction))
}

/// The date of a day counted from the epoch, in the Gregorian calendar. Years are counted from March, so that a leap
/// day is a year's last; 400 of them have 146,097 days.
fn civil(day: i64) -> (i64, i64, i64) {
    // From the 1st of March of the year 0.
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Of five months from March on, 153 days.
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, wrapped) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + wrapped, month, date)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

fn local_time(seconds: i64) -> Option<libc::tm> {
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to values that live through the call.
    let result = unsafe { libc::localtime_r(&seconds, time.as_mut_ptr()) };
    // SAFETY: zeros are a valid tm, and localtime_r has filled it if it returns anything.
    let time = unsafe { time.assume_init() };
    (!result.is_null()).then_some(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_what_date_says() {
        // date -u -d @N +%FT%T
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_799, "2000-02-29T23:59:59.000Z"),
            (1_772_368_496, "2026-03-01T12:34:56.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, text) in known {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
            assert_eq!(parse(text), Some((seconds as i64, "000")));
        }
    }

    #[test]
    fn every_day_of_500_years_comes_back() {
        for day in 0..182_621 {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
            assert!((1..=12).contains(&month) && (1..=31).contains(&date));
        }
    }

    #[test]
    fn text_that_is_no_time_stays() {
        for text in ["", "yesterday", "2026-03-01", "2026-13-01T00:00:00.0Z", "-1-1-1T0:0:0.0Z"] {
            assert_eq!(local(text), text);
        }
    }
}
