// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many of the largest are shown, and reporting the rest.

/// `--top`: `asked` if it was given, where 0 is all; otherwise `usual`.
pub fn limit(asked: Option<u32>, usual: usize) -> usize {
    match asked {
        Some(0) => usize::MAX,
        Some(top) => top as usize,
        None => usual,
    }
}

/// Reports on standard error how many of `all` were omitted, if any; the table has only rows.
pub fn report(tool: &str, (one, many): (&str, &str), all: usize, top: usize) {
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

/// What has a rank among others, by what they are sorted by.
pub trait Rank<By> {
    /// The least comes first.
    type Rank: Ord;

    /// Its own.
    fn rank(&self, by: By) -> Self::Rank;
}

/// The first `most` of any number, in little more room.
pub struct First<T, By> {
    by: By,
    most: usize,
    kept: Vec<T>,
    all: usize,
}

impl<T: Rank<By>, By: Copy> First<T, By> {
    /// Of none yet.
    pub fn new(by: By, most: usize) -> Self {
        Self {
            by,
            most,
            kept: Vec::new(),
            all: 0,
        }
    }

    /// One more, which is kept as long as it may be among the first.
    pub fn add(&mut self, one: T) {
        self.all += 1;
        self.kept.push(one);
        if self.kept.len() >= self.most.saturating_mul(2).saturating_add(64) {
            self.keep();
        }
    }

    fn keep(&mut self) {
        let by = self.by;
        if self.kept.len() > self.most {
            self.kept
                .select_nth_unstable_by_key(self.most, |one| one.rank(by));
            self.kept.truncate(self.most);
        }
    }

    /// Those, in order, and how many there were.
    pub fn take(&mut self) -> (Vec<T>, usize) {
        self.keep();
        let by = self.by;
        let mut first = std::mem::take(&mut self.kept);
        first.sort_unstable_by_key(|one| one.rank(by));
        (first, std::mem::take(&mut self.all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Rank<()> for u64 {
        type Rank = u64;

        fn rank(&self, _by: ()) -> u64 {
            *self
        }
    }

    #[test]
    fn first_of_many_take_little_room() {
        let mut first = First::new((), 3);
        for n in 0..10_000u64 {
            first.add(n * 7919 % 10_007);
            assert!(first.kept.len() <= 70);
        }
        let mut all: Vec<_> = (0..10_000).map(|n| n * 7919 % 10_007).collect();
        all.sort_unstable();
        assert_eq!(first.take(), (all[..3].to_vec(), 10_000));
        assert_eq!(first.take(), (vec![], 0));
    }

    #[test]
    fn only_omitted_entries_are_reported() {
        let note = |all, top| sentence(("total", "totals"), all, top);
        assert_eq!(
            (note(20, 20), note(3, 20), note(3, usize::MAX)),
            (None, None, None)
        );
        let one = note(21, 20).unwrap();
        assert_eq!(one, "1 more total not shown (--top 20); --top 0 shows all");
        assert!(note(30, 20).unwrap().starts_with("10 more totals "));
    }

    #[test]
    fn zero_means_all() {
        assert_eq!(limit(Some(0), 8), usize::MAX);
        assert_eq!((limit(Some(3), 8), limit(None, 8)), (3, 8));
    }
}
