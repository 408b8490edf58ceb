// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel half of the filters decides as the half for records does: the same vectors, run in the kernel.

use std::mem::MaybeUninit;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use libbpf_rs::ProgramInput;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libtest_mimic::Trial;
use tcptools::abi::types::{self, flow, owner, pid_source};
use tcptools::cli::filter::{Filter, Parts};

#[path = "../../../src/fallback/filter_vectors.rs"]
mod vectors;

tcptools::skeleton!("filter");

pub fn tests() -> Vec<Trial> {
    vec![crate::trial("filters::kernel_and_user_agree", alike)]
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    filter: Filter,
}

fn alike() -> Result<()> {
    for (args, expected) in vectors::cases() {
        let flags = Flags::try_parse_from(["tool"].iter().chain(&args))?;
        let here: Vec<bool> = vectors::subjects()
            .map(|(flow, owner)| {
                flags.filter.passes(Parts {
                    flow: Some(&flow),
                    owner: Some(&owner),
                    socket: None,
                })
            })
            .collect();
        let there = decide(&flags.filter)?;
        ensure!(here == expected, "{args:?}: {here:?}, not {expected:?}");
        ensure!(
            there == expected,
            "{args:?} in the kernel: {there:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// What a program with these filters returns for each subject (`BPF_PROG_TEST_RUN`).
fn decide(filter: &Filter) -> Result<Vec<bool>> {
    let mut storage = MaybeUninit::uninit();
    let mut open = bpf::FilterSkelBuilder::default().open(&mut storage)?;
    for mut map in open.open_object_mut().maps_mut() {
        if map.name() == ".rodata.config" {
            let config = map.initial_value_mut().context("no value")?;
            let config = plain::from_mut_bytes::<types::config>(config);
            filter.fill(config.ok().context("another config")?);
        }
    }
    let mut skel = open.load()?;
    let mut decisions = Vec::new();
    for (flow, owner) in vectors::subjects() {
        let data = skel.maps.bss_data.as_deref_mut().context("no .bss")?;
        data.flow = bpf::types::flow {
            laddr: flow.laddr,
            raddr: flow.raddr,
            lport: flow.lport,
            rport: flow.rport,
            family: flow.family,
            ifindex: flow.ifindex,
            ..bpf::types::flow::default()
        };
        data.owner = bpf::types::owner {
            pid: owner.pid,
            source: owner.source,
            comm: owner.comm,
            ..bpf::types::owner::default()
        };
        let output = skel.progs.decide.test_run(ProgramInput::default())?;
        decisions.push(output.return_value != 0);
    }
    Ok(decisions)
}
