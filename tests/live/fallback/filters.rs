// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel half of the filters decides as the half for records does: the same vectors, run in the kernel.

use std::mem::MaybeUninit;
use std::net::IpAddr;

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
    vec![
        crate::trial("filters::kernel_and_user_agree", alike),
        crate::trial("filters::random_ones_agree", random),
    ]
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
        let there = decide(&flags.filter, &vectors::subjects().collect::<Vec<_>>())?;
        ensure!(here == expected, "{args:?}: {here:?}, not {expected:?}");
        ensure!(
            there == expected,
            "{args:?} in the kernel: {there:?}, not {expected:?}"
        );
    }
    Ok(())
}

/// How many random command lines, and subjects for each.
const LINES: usize = 64;
const SUBJECTS: usize = 128;

/// The same of random filters and flows. `TCPTOOLS_SEED` repeats those of a test that failed.
fn random() -> Result<()> {
    let given = std::env::var("TCPTOOLS_SEED").ok();
    let now = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    let seed = given.map_or(Ok(now), |seed| seed.parse())?;
    let mut dice = Dice(seed | 1);
    let (mut passed, mut asked) = (0, 0);
    for _ in 0..LINES {
        let args = dice.line();
        let flags = Flags::try_parse_from(["tool".to_owned()].iter().chain(&args))?;
        let subjects: Vec<_> = (0..SUBJECTS).map(|_| dice.subject()).collect();
        let there = decide(&flags.filter, &subjects)?;
        for ((flow, owner), there) in subjects.iter().zip(there) {
            let here = flags.filter.passes(Parts {
                flow: Some(flow),
                owner: Some(owner),
                socket: None,
            });
            ensure!(
                here == there,
                "TCPTOOLS_SEED={seed}: {args:?}: {here}, in the kernel {there}: {} {} {} {} {} {:?}",
                flow.local(),
                flow.lport,
                flow.remote(),
                flow.rport,
                flow.ifindex,
                (owner.pid, owner.source, owner.comm)
            );
            passed += usize::from(here);
            asked += 1;
        }
    }
    // Neither half may say the same to everything.
    ensure!(
        passed > asked / 20 && passed < asked / 2,
        "TCPTOOLS_SEED={seed}: {passed} of {asked}"
    );
    Ok(())
}

/// Numbers without an order (xorshift64*), of which few are different ones: a filter is to match now and then.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }

    /// Ends of ranges and what is beside them, or any number up to `most`.
    fn number(&mut self, most: u64) -> u64 {
        let edges = [0, 1, 7, 8, 21, 22, 23, 255, 256, 443, most - 1, most];
        if self.roll(4) == 0 {
            self.roll(most + 1)
        } else {
            self.of(&edges)
        }
    }

    fn range(&mut self, most: u64) -> String {
        let (a, b) = (self.number(most), self.number(most));
        if self.roll(2) == 0 {
            a.to_string()
        } else {
            format!("{}-{}", a.min(b), a.max(b))
        }
    }

    fn address(&mut self) -> String {
        let last = self.of(&[0, 1, 2, 127, 128, 254, 255]);
        match self.roll(5) {
            0 => format!("10.0.{}.{last}", self.of(&[0, 1, 255])),
            1 => format!("2001:db8::{last:x}"),
            2 => format!("fe80::{last:x}"),
            3 => format!("::{last:x}"),
            _ => self
                .of(&["0.0.0.0", "255.255.255.255", "::", "127.0.0.1", "::1"])
                .to_owned(),
        }
    }

    fn network(&mut self) -> String {
        let address = self.address();
        let lengths: &[u64] = match address.contains(':') {
            true => &[0, 1, 8, 10, 32, 64, 96, 97, 120, 127, 128],
            false => &[0, 1, 8, 16, 24, 25, 31, 32],
        };
        let length = self.of(lengths);
        let zone = address.starts_with("fe80") && length >= 10 && self.roll(2) == 0;
        let zone = if zone {
            format!("%{}", 1 + self.roll(3))
        } else {
            String::new()
        };
        if self.roll(3) == 0 {
            format!("{address}{zone}")
        } else {
            format!("{address}{zone}/{length}")
        }
    }

    fn list(&mut self, mut element: impl FnMut(&mut Self) -> String) -> String {
        let all: Vec<_> = (0..1 + self.roll(6)).map(|_| element(self)).collect();
        format!("{}{}", self.of(&["", "", "!"]), all.join(","))
    }

    /// One to three filters.
    fn line(&mut self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        for _ in 0..1 + self.roll(3) {
            let flag = self.of(&[
                "-4", "-6", "--pid", "--comm", "--lport", "--rport", "--port", "--laddr",
                "--raddr", "--addr",
            ]);
            let is_family = |arg: &String| arg == "-4" || arg == "-6";
            let word = match flag {
                "-4" | "-6" if args.iter().any(is_family) => continue,
                "-4" | "-6" => flag.to_owned(),
                "--pid" => format!("{flag}={}", self.list(|dice| dice.range(u32::MAX.into()))),
                "--comm" => format!("{flag}={}", self.list(|dice| dice.of(&COMMS).to_owned())),
                "--lport" | "--rport" | "--port" => {
                    format!("{flag}={}", self.list(|dice| dice.range(65_535)))
                }
                _ => format!("{flag}={}", self.list(Self::network)),
            };
            if !args.iter().any(|arg| arg.split('=').next() == Some(flag)) {
                args.push(word);
            }
        }
        args
    }

    fn subject(&mut self) -> (flow, owner) {
        let mut ends = [self.address(), self.address()];
        while ends[0].contains(':') != ends[1].contains(':') {
            ends[1] = self.address();
        }
        let [laddr, raddr] = ends.each_ref().map(|end| match end.parse() {
            Ok(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
            Ok(IpAddr::V6(v6)) => v6.octets(),
            Err(_) => [0; 16],
        });
        let mut owner = owner::default();
        if self.roll(5) != 0 {
            (owner.pid, owner.source) = (self.number(u32::MAX.into()) as u32, pid_source::SOCKET);
            for (to, byte) in owner.comm.iter_mut().zip(self.of(&COMMS).bytes()) {
                *to = byte;
            }
        }
        let flow = flow {
            laddr,
            raddr,
            lport: self.number(65_535) as u16,
            rport: self.number(65_535) as u16,
            ifindex: self.roll(4) as u32,
            family: if ends[0].contains(':') { 6 } else { 4 },
            ..flow::default()
        };
        (flow, owner)
    }
}

const COMMS: [&str; 5] = ["curl", "cur", "curls", "a b", "123456789012345"];

/// What a program with these filters returns for each subject (`BPF_PROG_TEST_RUN`).
fn decide(filter: &Filter, subjects: &[(flow, owner)]) -> Result<Vec<bool>> {
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
    for (flow, owner) in subjects {
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
