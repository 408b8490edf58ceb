// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows: one column table per tool gives the table, JSON Lines and CSV.

mod column;
pub mod escape;
mod line;
mod rows;
pub mod schema;
mod stamp;
mod style;

pub use column::{
    Column, Shown, comm, common_columns, cookie, family, ifindex, ifname, laddr, lport, of_flow,
    pid, pid_source, raddr, rport, uid,
};
pub use rows::{Figures, Rows};
pub use stamp::Stamp;
pub use style::{Format, Style};

use crate::types::{Record, head};

/// A record as a row sees it: the shared head and the tool's own part.
pub struct Row<'a, E> {
    /// The shared part.
    pub head: &'a head,
    /// The whole record.
    pub body: &'a E,
}

impl<'a, E: Record> From<&'a E> for Row<'a, E> {
    fn from(body: &'a E) -> Self {
        let head = body.head();
        Self { head, body }
    }
}
