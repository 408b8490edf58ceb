// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of values over time in one line of text.

use crate::commands::tcpprobe::series::Point;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `width` characters for the time from `from` to `to`: each the highest value of its share, on a scale from 0 to the
/// highest of all; where nothing came, the value before stays. Blank before the first value.
pub fn line(points: impl Iterator<Item = Point>, from: u64, to: u64, width: usize) -> String {
    let span = to.saturating_sub(from).max(1) as u128;
    let mut slots = vec![(None, None); width];
    for (t, value) in points {
        let at = u128::from(t.saturating_sub(from)) * width as u128 / span;
        let (highest, last) = &mut slots[(at as usize).min(width - 1)];
        *highest = (*highest).max(Some(value));
        *last = Some(value);
    }
    let top = slots.iter().filter_map(|s| s.0).max().unwrap_or(0).max(1);
    let mut carried = None;
    let bar = |(highest, last): (Option<u32>, Option<u32>)| {
        let value = highest.or(carried);
        carried = last.or(carried);
        value.map_or(' ', |v| BARS[(u64::from(v) * 7 / u64::from(top)) as usize])
    };
    slots.into_iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_shows_maximum_and_gaps_carry_last_value() {
        let points = [(20, 1), (21, 7), (29, 0), (70, 3)];
        assert_eq!(line(points.into_iter(), 0, 100, 10), "  █▁▁▁▁▄▄▄");
        assert_eq!(line([].into_iter(), 5, 5, 3), "   ");
    }
}
