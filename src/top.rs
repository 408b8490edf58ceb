// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many of the largest are shown, and saying what is not.

/// `--top`: `asked` if it was given, where 0 is all; otherwise `usual`.
pub fn limit(asked: Option<u32>, usual: usize) -> usize {
    match asked {
        Some(0) => usize::MAX,
        Some(top) => top as usize,
        None => usual,
    }
}

/// Says on standard error how many of `all` were left out, if any: the table has rows only.
pub fn say(tool: &str, (one, many): (&str, &str), all: usize, top: usize) {
    if let Some(sentence) = sentence((one, many), all, top) {
        crate::message!("{tool}: {sentence}");
    }
}

fn sentence((one, many): (&str, &str), all: usize, top: usize) -> Option<String> {
    let left = all.checked_sub(top).filter(|left| *left != 0)?;
    let what = if left == 1 { one } else { many };
    Some(format!(
        "{left} more {what} not shown (--top {top}); --top 0 shows all"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_left_out_is_told() {
        let told = |all, top| sentence(("total", "totals"), all, top);
        assert_eq!(
            (told(20, 20), told(3, 20), told(3, usize::MAX)),
            (None, None, None)
        );
        let one = told(21, 20).unwrap();
        assert_eq!(one, "1 more total not shown (--top 20); --top 0 shows all");
        assert!(told(30, 20).unwrap().starts_with("10 more totals "));
    }

    #[test]
    fn zero_is_all() {
        assert_eq!(limit(Some(0), 8), usize::MAX);
        assert_eq!((limit(Some(3), 8), limit(None, 8)), (3, 8));
    }
}
