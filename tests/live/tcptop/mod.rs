// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptop against what the test's own processes send, TCP_INFO and ss.

pub mod hostile;
mod rates;
mod screen;
mod ss;
mod stalled;
pub mod terminal;
mod waiting;
mod without_btf;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::pair::Pair;

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        hostile::tests(),
        rates::tests(),
        screen::tests(),
        stalled::tests(),
        waiting::tests(),
        without_btf::tests(),
    ])
}

/// A test in a family of addresses.
type Play = fn(Pair, &str) -> Result<()>;

/// Whether a row is of the socket with this cookie.
fn is(row: &Value, cookie: &str) -> bool {
    row["cookie"].as_u64() == cookie.parse().ok()
}

/// All rows of the socket with this cookie.
fn rows_of<'a>(rows: &'a [Value], cookie: &'a str) -> impl Iterator<Item = &'a Value> {
    rows.iter().filter(move |row| is(row, cookie))
}

/// The sum of a field over rows.
fn sum<'a>(rows: impl Iterator<Item = &'a Value>, key: &str) -> Result<u64> {
    let number = |row: &Value| row[key].as_u64().with_context(|| format!("{key}: {row}"));
    rows.map(number).sum()
}

/// The bytes of an end, sent and received, are these over the whole run.
fn moved(rows: &[Value], cookie: &str, tx: u64, rx: u64) -> Result<()> {
    let of = || rows_of(rows, cookie);
    let found = (sum(of(), "tx_bytes")?, sum(of(), "rx_bytes")?);
    ensure!(
        found == (tx, rx),
        "{found:?}, not {:?}: {:#?}",
        (tx, rx),
        of().collect::<Vec<_>>()
    );
    Ok(())
}
