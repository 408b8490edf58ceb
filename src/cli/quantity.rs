// SPDX-License-Identifier: MIT OR Apache-2.0
//! Times and numbers on the command line: each has bounds, and an error message that names the bound that was
//! exceeded.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest time that a flag takes: 68 years.
const MAX_TIME: Duration = Duration::from_secs(1 << 31);

/// A parser of whole numbers of a range.
pub fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: Copy + std::fmt::Display + TryFrom<u128>,
    u128: TryFrom<T>,
{
    move |text| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits {
            return Err(format!("'{text}' is not a whole number"));
        }
        // What overflows here is too large in any case.
        let number = text.parse::<u128>().unwrap_or(u128::MAX);
        let bound = |bound: T| u128::try_from(bound).unwrap_or_default();
        match T::try_from(number) {
            _ if number < bound(*range.start()) => {
                Err(format!("must be at least {}", range.start()))
            }
            Ok(value) if number <= bound(*range.end()) => Ok(value),
            _ => Err(format!("must be at most {}", range.end())),
        }
    }
}

/// Milliseconds, with a fraction, at least 0.
///
/// # Errors
/// A message for the user.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let ms = text.parse::<f64>().ok().filter(|ms| !ms.is_nan());
    let ms = ms.ok_or_else(|| format!("'{text}' is not a number of milliseconds"))?;
    if ms < 0.0 {
        return Err("must be at least 0".into());
    }
    Duration::try_from_secs_f64(ms / 1e3)
        .ok()
        .filter(|time| *time <= MAX_TIME)
        .ok_or_else(|| format!("must be at most {}", MAX_TIME.as_millis()))
}

/// `2`, `0.5`, `500ms`, `10s`, `5m`, `1h`; at least a millisecond.
///
/// # Errors
/// A message for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("'{unit}' is not a unit of time (ms, s, m, h)")),
    };
    let number = number.parse::<f64>().ok().filter(|n| !n.is_nan());
    let seconds = number.ok_or_else(|| format!("'{text}' is not a time"))? * scale;
    if seconds < 1e-3 {
        return Err("must be at least 1ms".into());
    }
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|time| *time <= MAX_TIME)
        .ok_or_else(|| format!("must be at most {}s", MAX_TIME.as_secs()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_units() {
        for (text, ms) in [("2", 2000), ("0.5", 500), ("250ms", 250), ("2m", 120_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "s", "1d", "nan", "1e99"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["0", "0.9ms", "-1", "-99999999999h"] {
            assert_eq!(duration(text).unwrap_err(), "must be at least 1ms");
        }
        for text in ["2147483649", "99999999999999999999h"] {
            assert_eq!(duration(text).unwrap_err(), "must be at most 2147483648s");
        }
    }

    #[test]
    fn milliseconds_do_not_wrap() {
        assert_eq!(milliseconds("0.5"), Ok(Duration::from_micros(500)));
        assert_eq!(milliseconds("0"), Ok(Duration::ZERO));
        for text in ["18446744073709.6", "2147483648000.1", "inf", "1e300"] {
            assert_eq!(
                milliseconds(text).unwrap_err(),
                "must be at most 2147483648000"
            );
        }
        for text in ["-0.001", "nan", ""] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn out_of_range_error_names_bound() {
        let kib = whole(64..=1u32 << 20);
        assert_eq!((kib("64"), kib("1048576")), (Ok(64), Ok(1 << 20)));
        assert_eq!(kib("63").unwrap_err(), "must be at least 64");
        for text in ["1048577", "4294967360", &"9".repeat(50)] {
            assert_eq!(kib(text).unwrap_err(), "must be at most 1048576");
        }
        for text in ["", "+64", "-1", "64.0", "x"] {
            assert!(kib(text).unwrap_err().contains("whole number"), "{text}");
        }
        assert_eq!(whole(1..=u64::MAX)("18446744073709551615"), Ok(u64::MAX));
    }

    proptest! {
        #[test]
        fn time_equals_number_of_units(number in 1..1_000_000u32, unit in 0..5usize) {
            let (unit, ms) = [("ms", 1), ("", 1000), ("s", 1000), ("m", 60_000), ("h", 3_600_000)][unit];
            let exact = Duration::from_millis(u64::from(number) * ms);
            match duration(&format!("{number}{unit}")) {
                Ok(time) => prop_assert!(time.abs_diff(exact) < Duration::from_micros(1)),
                Err(_) => prop_assert!(exact > MAX_TIME),
            }
            let parsed = milliseconds(&exact.as_millis().to_string());
            prop_assert_eq!(parsed.is_ok(), exact <= MAX_TIME);
        }

        #[test]
        fn whole_number_within_bounds_is_accepted(number: u64, low in 0..1000u16, high in 1000..=u16::MAX) {
            let number = if number % 2 == 0 { number } else { number % 70_000 };
            let within = (u64::from(low)..=u64::from(high)).contains(&number);
            prop_assert_eq!(whole(low..=high)(&number.to_string()).ok().map(u64::from), within.then_some(number));
        }

        #[test]
        fn parsers_never_panic(text in "[-+0-9.eEinfNatmsh]{0,12}|\\PC{0,12}") {
            for time in [duration(&text), milliseconds(&text)].into_iter().flatten() {
                prop_assert!(time <= MAX_TIME);
            }
            let _ = whole(0..=u64::MAX)(&text);
        }
    }
}
