// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers as `format!` writes them, without its machinery, which costs more than the digits: most of a row is numbers.

pub mod append;
pub mod ip;

use std::io::Write;

/// `00` to `99`: two digits for one division.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + n as u8 / 10, b'0' + n as u8 % 10];
        n += 1;
    }
    pairs
};

/// A number.
#[inline]
pub fn integer(out: &mut Vec<u8>, value: u64) {
    match value {
        // Most counters.
        0..10 => append::all(out, &[b'0' + value as u8]),
        _ => of_two_or_more(out, value),
    }
}

fn of_two_or_more(out: &mut Vec<u8>, value: u64) {
    match value {
        0..100 => append::all(out, &PAIRS[value as usize]),
        100..10_000 => {
            let [[a, b], [c, d]] = [PAIRS[value as usize / 100], PAIRS[value as usize % 100]];
            match value {
                0..1000 => append::first(out, &[b, c, d, 0], 3),
                _ => append::all(out, &[a, b, c, d]),
            }
        }
        _ => padded(out, value, 1),
    }
}

/// A number with zeros in front, up to so many digits: `{value:0width$}`.
pub fn padded(out: &mut Vec<u8>, mut value: u64, width: usize) {
    // u64::MAX has 20 digits; what is behind them is copied, but not counted.
    let mut digits = [b'0'; 40];
    let mut left = 20;
    for pair in digits[..20].as_chunks_mut::<2>().0.iter_mut().rev() {
        if value == 0 {
            break;
        }
        *pair = PAIRS[(value % 100) as usize];
        left -= if value < 10 { 1 } else { 2 };
        value /= 100;
    }
    let left = left.min(20 - width);
    match digits[left..].first_chunk::<20>() {
        Some(number) => append::first(out, number, 20 - left),
        None => out.extend_from_slice(&digits[left..20]),
    }
}

/// A number with so many decimals: `{value:.decimals$}`.
pub fn decimal(out: &mut Vec<u8>, value: f64, decimals: usize) {
    let Some((rounded, power)) = rounded(value, decimals) else {
        let _ = write!(out, "{value:.decimals$}");
        return;
    };
    integer(out, rounded / power);
    if decimals > 0 {
        append::all(out, b".");
        padded(out, rounded % power, decimals);
    }
}

/// A number in units of its last decimal, and how many of these are one.
///
/// `None`: the standard library must do it. It rounds the value as that is in binary, but the product here is already
/// rounded: near a half that tells nothing.
fn rounded(value: f64, decimals: usize) -> Option<(u64, u64)> {
    let power = *[1_u32, 10, 100, 1000].get(decimals)?;
    let scaled = value * f64::from(power);
    let whole = scaled as u32;
    let rest = scaled - f64::from(whole);
    let clear = value.is_sign_positive() && scaled < 1e9 && (rest - 0.5).abs() > 1e-6;
    clear.then_some((u64::from(whole) + u64::from(rest > 0.5), u64::from(power)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"|".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn integers_are_those_of_format(value: u64, shift in 0..64, width in 1..=20_usize) {
            let value = value >> shift;
            prop_assert_eq!(shown(|out| integer(out, value)), format!("|{value}"));
            prop_assert_eq!(shown(|out| padded(out, value, width)), format!("|{value:0width$}"));
        }

        #[test]
        fn decimals_are_those_of_format(bits: u64, count in 0..10_000_000_u64, decimals in 0..=20_usize) {
            let count = count as f64;
            // Any float, and what units make of a count: halves among them.
            for value in [f64::from_bits(bits), count, count / 1e3, count / 1024.0, count * 8.0 / 1e6, count / 1e4, count / 1e15] {
                let expected = format!("|{value:.decimals$}");
                prop_assert_eq!(shown(|out| decimal(out, value, decimals)), expected);
            }
        }
    }

    #[test]
    fn small_integers_and_their_borders_are_those_of_format() {
        let powers = (0..20).map(|n| 10_u64.pow(n));
        let borders = powers.flat_map(|power| [power - 1, power, power + 1]);
        for value in (0..20_000).chain(borders).chain([u64::MAX]) {
            assert_eq!(shown(|out| integer(out, value)), format!("|{value}"));
        }
    }

    #[test]
    fn halves_round_as_format_rounds_them() {
        for n in 0..200_000_u32 {
            for (value, decimals) in [(f64::from(n) / 1e3, 2), (f64::from(n) / 1024.0, 3)] {
                let expected = format!("|{value:.decimals$}");
                assert_eq!(shown(|out| decimal(out, value, decimals)), expected);
            }
        }
    }
}
