// SPDX-License-Identifier: MIT OR Apache-2.0
//! What live tests are made of: namespaces (`net`), processes that talk in them (`peer`, `agent`), commands and their
//! rows (`tool`), and how a test is run (`trial`).

pub mod agent;
pub mod cgroups;
pub mod missing;
pub mod net;
pub mod pair;
pub mod peer;
pub mod procfs;
pub mod run;
pub mod scene;
pub mod scratch;
pub mod seen;
pub mod tool;
pub mod trace;
pub mod trial;
pub mod unseen;
pub mod wait;
