// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands on a kernel without type information (BTF): each runs twice at once on the same traffic, with BTF and
//! without, and whatever the second run knows must be what the first one says. Where the kernel has none, both runs are
//! without, and only what the tests themselves know is the measure.

mod btf;
mod clocks;
mod filters;
mod lockdown;
mod losses;
mod scene;
mod sockbuf;
mod statistics;
mod sums;
mod tcpaccept;
mod tcpconnect;
mod tcpinfo;
mod tcplife;
mod tcpprobe;
mod tcprcvspace;
mod tcpreset;
mod tcpretrans;
mod tcpstates;
mod unknown;

use anyhow::Result;
use libtest_mimic::Trial;
use scene::Scene;

use crate::trial;

/// What is disabled: BTF; and also the ring buffer with everything as new or newer.
const MODES: [(&str, &str); 2] = [("btf", "ring"), ("btf,ringbuf,mmap", "perf")];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        btf::tests(),
        clocks::tests(),
        filters::tests(),
        lockdown::tests(),
        losses::tests(),
        sockbuf::tests(),
        statistics::tests(),
        sums::tests(),
        tcpaccept::tests(),
        tcpconnect::tests(),
        tcpinfo::tests(),
        tcplife::tests(),
        tcpprobe::tests(),
        tcprcvspace::tests(),
        tcpreset::tests(),
        tcpretrans::tests(),
        tcpstates::tests(),
    ])
}

/// Tests that need the host for themselves.
pub fn alone() -> Vec<Trial> {
    sockbuf::alone()
}

/// One test per mode.
fn trials(name: &str, play: fn(Scene) -> Result<()>) -> Vec<Trial> {
    let one = |(without, buffer)| {
        trial(format!("fallback::{name}_{buffer}"), move || {
            play(Scene::new(without)?)
        })
    };
    MODES.map(one).into()
}
