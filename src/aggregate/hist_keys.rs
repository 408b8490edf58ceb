// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--hist`: what there is one histogram for each of.

use crate::aggregate::keys::Keys;
use crate::error::Usage;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::{Column, Shown, Value};

/// What `--hist` takes besides the keys of `--by`: one for all.
pub const ALL: &[&str] = &["all"];

/// What there is one histogram for each of, from `--hist=KEY` or from `--by KEY` beside it; `None`: one for all.
///
/// # Errors
/// When both say it, or `all` is one of several keys.
pub fn per(hist: &Keys, by: Option<&Keys>) -> Result<Option<Keys>, Usage> {
    let all = hist.has(ALL[0]);
    match by {
        _ if all && hist.name() != ALL[0] => Err(Usage(
            "--hist=all is one histogram: it goes with no other key".into(),
        )),
        Some(_) if !all => Err(Usage(
            "--hist=KEY cannot be used with --by, which says the same".into(),
        )),
        by if all => Ok(by.cloned()),
        _ => Ok(Some(hist.clone())),
    }
}

/// The columns that tell what a histogram is of.
pub(super) fn columns(keys: Option<&Keys>) -> Vec<Column<()>> {
    match keys {
        Some(keys) => keys.columns(|_| Vec::new()),
        // As that of an unknown address.
        None => columns! { |row, all: ()| "raddr" JSON => Value::Unknown; },
    }
}

/// What `--describe-columns` says of its records, for each key: with these keys, too.
pub fn kinds(more: &'static [&'static str]) -> impl Iterator<Item = Kind> {
    const FIGURES: [&str; 9] = [
        "count", "sum_us", "p50_us", "p90_us", "p99_us", "max_us", "buckets", "lo_us", "hi_us",
    ];
    let kind = move |keys: Option<Keys>| {
        let columns = columns(keys.as_ref()).into_iter();
        let columns = columns.filter(|column| column.shown.has(Shown::JSON));
        let by = keys.iter().map(|_| "by");
        let all = by.chain(columns.map(|column| column.key)).chain(FIGURES);
        let all: Vec<_> = all.chain(more.iter().copied()).collect();
        Kind::sum_record("histogram", &all)
    };
    [None].into_iter().chain(Keys::each().map(Some)).map(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::by::{By, Key};

    #[test]
    fn one_flag_says_what_there_is_a_histogram_of() {
        let all = Keys::new(vec![Key::Own(ALL[0])]);
        let (comm, lport) = (Keys::of(By::Comm), Keys::of(By::Lport));
        assert_eq!(per(&all, None).unwrap(), None);
        assert_eq!(per(&all, Some(&comm)).unwrap().as_ref(), Some(&comm));
        assert_eq!(per(&lport, None).unwrap().as_ref(), Some(&lport));
        assert!(per(&lport, Some(&comm)).is_err());
        let mixed = Keys::new(vec![Key::Own(ALL[0]), Key::Shared(By::Comm)]);
        assert!(per(&mixed, None).is_err());
    }
}
