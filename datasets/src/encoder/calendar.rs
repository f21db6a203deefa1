//! Cyclic parts of instants, in UTC and the proleptic Gregorian calendar.

use super::Part;
use std::f64::consts::TAU;

const DAY: f64 = 86_400.0;

/// The cyclic `part` of an instant `seconds` after 1970-01-01T00:00Z, in [-1, 1]; 0 for parts that are not cyclic.
///
/// Hours are fractional (a phase of the day), days of the week and of the year whole. The year's
/// phase is (day - 1) / (days of that year).
pub(crate) fn cyclic(part: Part, seconds: f64) -> f64 {
    let day = (seconds / DAY).floor();
    let phase = match part {
        Part::HourSin | Part::HourCos => seconds / DAY - day,
        // 1970-01-01 was a Thursday; Monday is 0.
        Part::WeekdaySin | Part::WeekdayCos => (day + 3.0).rem_euclid(7.0) / 7.0,
        Part::YearSin | Part::YearCos => year_phase(day),
        Part::Value | Part::Null => return 0.0,
    };
    let angle = TAU * phase;
    match part {
        Part::HourSin | Part::WeekdaySin | Part::YearSin => angle.sin(),
        _ => angle.cos(),
    }
}

/// An instant `seconds` after 1970-01-01T00:00Z as ISO 8601 writes it, in UTC; beyond the years 0 to 9999 as seconds.
pub(crate) fn instant(seconds: f64) -> String {
    let day = (seconds / DAY).floor();
    // 0000-01-01 and 10000-01-01.
    if !(-719_528.0..2_932_897.0).contains(&day) {
        return format!("{seconds} s after 1970");
    }
    // The calendar repeats every 400 years.
    let cycles = (day / 146_097.0).floor();
    let (first, days) = start_of_year((day - cycles * 146_097.0) as i64);
    let (year, mut left) = (first + 400 * cycles as i64, days);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while month < 11 && left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    let date = format!("{year:04}-{:02}-{:02}", month + 1, left + 1);
    // A day has 10^11 microseconds: rounding to them loses nothing that a file holds near our time.
    let micros = ((seconds - day * DAY) * 1e6).round() as u64;
    let (clock, part) = (micros / 1_000_000, micros % 1_000_000);
    let time = format!("T{:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60);
    match (clock, part) {
        (0, 0) => date,
        (_, 0) => format!("{date}{time}Z"),
        (_, part) => format!("{date}{time}.{}Z", format!("{part:06}").trim_end_matches('0')),
    }
}

/// (day of the year - 1) / (days of the year) of day number `day` since 1970-01-01.
fn year_phase(day: f64) -> f64 {
    // The calendar repeats every 400 years = 146,097 days; this also keeps absurd instants within integers.
    let (year, days) = start_of_year(day.rem_euclid(146_097.0) as i64);
    days as f64 / (days_before(year + 1) - days_before(year)) as f64
}

/// The year of day number `day` since 1970-01-01, of 0 to 146,096, and the days from its first of January. 1970 + 400k has the calendar of 1970.
fn start_of_year(day: i64) -> (i64, i64) {
    let mut year = 1970 + day / 366;
    while days_before(year + 1) <= day {
        year += 1;
    }
    (year, day - days_before(year))
}

/// Days from 1970-01-01 to the first of January of `year` >= 1970.
fn days_before(year: i64) -> i64 {
    let leaps = |y: i64| y / 4 - y / 100 + y / 400;
    365 * (year - 1970) + leaps(year - 1) - leaps(1969)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_as_people_read_them() {
        for (seconds, text) in [
            (0.0, "1970-01-01"),
            (951_868_800.0, "2000-03-01"),
            (951_782_399.0, "2000-02-28T23:59:59Z"),
            (951_782_400.0, "2000-02-29"),
            (1_704_067_199.25, "2023-12-31T23:59:59.25Z"),
            (-1.0, "1969-12-31T23:59:59Z"),
            (-11_676_096_000.0, "1600-01-01"),
            (253_402_300_799.0, "9999-12-31T23:59:59Z"),
            (253_402_300_800.0, "253402300800 s after 1970"),
        ] {
            assert_eq!(instant(seconds), text);
        }
    }

    #[test]
    fn known_days() {
        // 2000-03-01 is day 11017 and day 61 of a leap year; 2023-12-31 is day 19722 and the last of 365.
        assert!((year_phase(11_017.0) - 60.0 / 366.0).abs() < 1e-15);
        assert!((year_phase(19_722.0) - 364.0 / 365.0).abs() < 1e-15);
        assert_eq!(year_phase(0.0), 0.0);
        // 1969-12-31, 1600-01-01 (a leap year) and an absurd instant.
        assert!((year_phase(-1.0) - 364.0 / 365.0).abs() < 1e-15);
        assert_eq!(year_phase(-135_140.0), 0.0);
        assert!((0.0..1.0).contains(&year_phase(1e15)));
    }

    #[test]
    fn phases() {
        let noon = 12.0 * 3600.0;
        assert!((cyclic(Part::HourCos, noon) + 1.0).abs() < 1e-15);
        assert!(cyclic(Part::HourSin, noon).abs() < 1e-15);
        assert!((cyclic(Part::HourSin, -18.0 * 3600.0) - 1.0).abs() < 1e-12);
        // 1970-01-05 was a Monday.
        assert_eq!(cyclic(Part::WeekdayCos, 4.0 * DAY), 1.0);
        assert_eq!(cyclic(Part::WeekdayCos, 11.0 * DAY + 5.0), 1.0);
        assert!(cyclic(Part::WeekdayCos, 5.0 * DAY) < 1.0);
    }
}
