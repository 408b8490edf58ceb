// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counters beside the rows: each is what the namespace's own table says, and none is left out.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use nix::libc::{self, SO_RCVBUF, SOL_SOCKET};
use serde_json::{Value, json};

use super::{agrees, flood, sink, udp_turn};
use crate::{
    missing,
    net::{Net, Netns, Side},
    peer::Agent,
    tool::Tool,
    wait::{self, PATIENCE},
};

/// What counts trouble, among what these tests make the kernel count.
const TROUBLE: [&str; 14] = [
    "Drop",
    "Overflow",
    "Errors",
    "Errs",
    "Fail",
    "Prune",
    "Collapsed",
    "NoRoutes",
    "NoPorts",
    "QFull",
    "Timeouts",
    "Abort",
    "PAWSEstab",
    "Discards",
];

/// The kernel's counters of a namespace, by their names in `nstat`.
pub type Counted = BTreeMap<String, u64>;

pub fn counted(net: &Netns) -> Result<Counted> {
    let text = net.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp6")?))?;
    let v6 = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    let counters = net.counters()?.into_iter();
    let v4 = counters.map(|(name, value)| (name.replace('.', ""), value));
    Ok(v4.chain(v6).collect())
}

/// What has counted trouble since.
pub fn trouble(before: &Counted, after: &Counted) -> Counted {
    let grown = after.iter().filter_map(|(name, value)| {
        let count = value.checked_sub(before.get(name).copied().unwrap_or(0))?;
        let is = count != 0 && !by_itself(name) && TROUBLE.iter().any(|sign| name.contains(sign));
        is.then(|| (name.clone(), count))
    });
    grown.collect()
}

/// What interfaces that have just been made send each other over IPv6 comes at its own time; and what is made of several
/// counters is not in the table.
fn by_itself(name: &str) -> bool {
    name.starts_with("Ip6") || name == "IpInUndelivered"
}

/// The rows of counters of a namespace, by name; those of later intervals are added.
pub fn shown(rows: &[Value], net: &Netns) -> Result<Counted> {
    let mut all = Counted::new();
    for row in rows
        .iter()
        .filter(|row| row["event"] == "counter" && row["netns"] == net.inode)
    {
        let name = row["name"].as_str().context("a name")?.to_owned();
        let count = row["count"].as_u64().context("a count")?;
        if !by_itself(&name) {
            *all.entry(name).or_default() += count;
        }
    }
    Ok(all)
}

pub fn counter<'r>(rows: &'r [Value], net: &Netns, name: &str) -> Result<&'r Value> {
    let is = |row: &&Value| row["name"] == name && row["netns"] == net.inode;
    rows.iter()
        .find(is)
        .with_context(|| format!("{name}: {rows:#?}"))
}

pub fn watch(nets: &[&Netns], without: &str, args: &[&str]) -> Result<Tool> {
    let inodes: Vec<_> = nets.iter().map(|net| net.inode.to_string()).collect();
    let list = inodes.join(",");
    // Without BTF rows have no namespace to filter by.
    let filter = if without.is_empty() {
        &["--netns", &list][..]
    } else {
        &[]
    };
    let all = [&["--summary", "--json"], filter, args].concat();
    Tool::start_reduced(without, "sockbuf", &all)
}

/// Makes trouble between two readings; the counters shown must be those of the namespace.
fn agree(net: &Netns, without: &str, make: impl FnOnce() -> Result<()>) -> Result<Vec<Value>> {
    let before = counted(net)?;
    let tool = watch(&[net], without, &[])?;
    make()?;
    let rows = tool.stop()?.rows()?;
    let (expected, shown) = (trouble(&before, &counted(net)?), shown(&rows, net)?);
    ensure!(shown == expected, "{shown:#?}, not {expected:#?}");
    Ok(rows)
}

/// With BTF, where the kernel has it, and without.
fn each_way(test: impl Fn(&str) -> Result<()>) -> Result<()> {
    for without in ["", "btf", "btf,ringbuf,mmap"] {
        if without.is_empty() && !missing::programs() {
            continue;
        }
        test(without).with_context(|| format!("without {without}"))?;
    }
    Ok(())
}

/// A listener's queue is full; no row says so.
pub fn listen_overflow() -> Result<()> {
    each_way(|without| {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let net = Netns::new()?;
            let mut agent = net.agent()?;
            let listener = agent.open(host)?;
            agent.run(&format!("bind {listener} {host}"))?;
            agent.run(&format!("listen {listener} 0"))?;
            let at = agent.run(&format!("local {listener}"))?;
            let rows = agree(&net, without, || {
                let mut fds = Vec::new();
                for _ in 0..4 {
                    let fd = agent.open(&at)?;
                    agent.run(&format!("nonblock {fd}"))?;
                    agent.fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
                    fds.push(fd);
                }
                grown(&net, "TcpExt.ListenOverflows")?;
                // No SYN is sent again.
                let close = |fd| agent.run(&format!("close {fd}")).map(drop);
                fds.into_iter().try_for_each(close)
            })?;
            let row = counter(&rows, &net, "TcpExtListenOverflows")?;
            agrees(
                row,
                &json!({"explained": 0, "see": "tcpaccept --listeners", "count_at_least": false}),
            )?;
        }
        Ok(())
    })
}

fn grown(net: &Netns, counter: &str) -> Result<()> {
    wait::until(counter, PATIENCE, || {
        Ok((net.counters()?[counter] > 0).then_some(()))
    })
}

/// A session whose reader does not read, over a cable: the writer, the reader, and both ends.
fn session(net: &Net, host: &str) -> Result<(Agent, u64, Agent, u64)> {
    let (mut writer, mut reader) = (net.a.agent()?, net.b.agent()?);
    let listener = reader.open(host)?;
    reader.option(listener, SOL_SOCKET, SO_RCVBUF, 4096)?;
    reader.run(&format!("bind {listener} {host}"))?;
    reader.run(&format!("listen {listener} 1"))?;
    let at = reader.run(&format!("local {listener}"))?;
    let fd = writer.open(&at)?;
    writer.option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    writer.run(&format!("connect {fd} {at}"))?;
    let accepted = reader.number(&format!("accept {listener}"))?;
    Ok((writer, fd, reader, accepted))
}

const ENDS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

/// Small segments take more memory than their bytes: the queue is collapsed and pruned.
pub fn pruned() -> Result<()> {
    each_way(|without| {
        for host in ENDS {
            let net = Net::new()?;
            let (mut writer, fd, _reader, _) = session(&net, host)?;
            let rows = agree(&net.b, without, || {
                wait::until("a pruned queue", PATIENCE, || {
                    writer.number(&format!("dribble {fd} 1 50"))?;
                    Ok((net.b.counters()?["TcpExt.PruneCalled"] > 0).then_some(()))
                })?;
                net.hold(Side::A)
            })?;
            let row = counter(&rows, &net.b, "TcpExtPruneCalled")?;
            agrees(row, &json!({"see": "tcprcvspace"}))?;
            // The host's memory, or a cgroup's, was not short.
            let expected = if without.is_empty() {
                json!(0)
            } else {
                json!(null)
            };
            agrees(row, &json!({"explained": expected}))?;
        }
        Ok(())
    })
}

/// The reader holds the socket, and what arrives meanwhile finds no room in its backlog.
pub fn backlog() -> Result<()> {
    missing::needs_programs()?;
    for (host, route) in ENDS.into_iter().zip(["10.9.0.2/32", "fd09::2/128"]) {
        let net = Net::new()?;
        net.a
            .ip(&format!("route add {route} dev v0 initcwnd 400"))?;
        let (mut writer, fd, mut reader, accepted) = session(&net, host)?;
        writer.run(&format!("dribble {fd} 1 1"))?;
        let rows = agree(&net.b, "", || {
            reader.run(&format!("peek {accepted}"))?;
            reader.run(&format!("hold {accepted}"))?;
            writer.run(&format!("dribble {fd} 1 400"))?;
            grown(&net.b, "TcpExt.TCPBacklogDrop")?;
            net.hold(Side::A)
        })?;
        let row = counter(&rows, &net.b, "TcpExtTCPBacklogDrop")?;
        agrees(row, &json!({"explained": 0, "see": "ss -tmn"}))?;
    }
    Ok(())
}

/// A firewall's rule drops what nothing counts; what has no way back is counted.
pub fn undelivered() -> Result<()> {
    each_way(|without| {
        let net = Net::new()?;
        net.b.nft(
            "table ip f { chain i { type filter hook input priority 0; udp dport 9 drop; }; }",
        )?;
        // A namespace that has neither a process nor a name is not found.
        let (mut agent, _there) = (net.a.agent()?, net.b.agent()?);
        let tool = watch(&[&net.b], without, &[])?;
        flood(&mut agent, libc::AF_INET, "10.9.0.2:9", 100, 17)?;
        flood(&mut agent, libc::AF_INET, "10.9.0.2:10", 100, 5)?;
        let rows = tool.stop()?.rows()?;
        let row = counter(&rows, &net.b, "IpInUndelivered")?;
        agrees(
            row,
            &json!({"count": 17, "explained": 0, "see": "nft list ruleset"}),
        )?;
        agrees(
            counter(&rows, &net.b, "UdpNoPorts")?,
            &json!({"count": 5, "see": "ss -ulnp"}),
        )
    })
}

/// Full UDP buffers without BTF: the counters are the same, and which rows explain them is not known.
pub fn udp_without_btf() -> Result<()> {
    let _turn = udp_turn();
    for without in ["btf", "btf,ringbuf,mmap"] {
        let net = Netns::new()?;
        let mut agent = net.agent()?;
        let rows = agree(&net, without, || {
            for (host, family, _) in super::HOSTS {
                let (_, at) = sink(&mut agent, host, family)?;
                flood(&mut agent, family, &at, 900, 40)?;
            }
            Ok(())
        })?;
        for name in ["UdpRcvbufErrors", "Udp6RcvbufErrors", "UdpInErrors"] {
            agrees(
                counter(&rows, &net, name)?,
                &json!({"explained": null, "see": "sockbuf"}),
            )?;
        }
    }
    Ok(())
}

/// A namespace that is made and ends while the command runs: what it counted until the last look is told as that.
pub fn ended_namespace() -> Result<()> {
    missing::needs_programs()?;
    let _turn = udp_turn();
    let tool = Tool::start("sockbuf", &["--summary", "--json"])?;
    let spare = Netns::new()?;
    let mut agent = spare.agent()?;
    let (_, at) = sink(&mut agent, "127.0.0.1:0", libc::AF_INET)?;
    flood(&mut agent, libc::AF_INET, &at, 900, 40)?;
    let errors = super::rcvbuf_errors(&spare, libc::AF_INET)?;
    // The first look may have begun before.
    let looks = rests(&tool)?;
    wait::until("two looks", PATIENCE, || {
        Ok((rests(&tool)? >= looks + 2).then_some(()))
    })?;
    let inode = spare.inode;
    drop(spare);
    agent.kill()?;
    // What has its number now, if anything has, is another one.
    let _next = Netns::new()?;
    let run = tool.stop()?;
    let rows = run.rows()?;
    let of_it = |row: &&Value| row["netns"] == inode && row["name"] == "UdpRcvbufErrors";
    let rows: Vec<_> = rows.iter().filter(of_it).collect();
    ensure!(rows.len() == 1, "{rows:#?}");
    agrees(
        rows[0],
        &json!({"count": errors, "explained": errors, "count_at_least": true}),
    )?;
    Ok(())
}

/// How often the process that visits namespaces has come to rest.
fn rests(tool: &Tool) -> Result<u64> {
    let parent = format!("PPid:\t{}\n", tool.child.id());
    let statuses = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    let status = statuses
        .filter(|text| text.starts_with("Name:\ttcptools-netns\n"))
        .find(|text| text.contains(&parent))
        .context("a process that visits namespaces")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok(line.context("switches")?.trim().parse()?)
}
