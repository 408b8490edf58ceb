// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command with nothing to show sleeps, and the first event wakes it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;

use tcptools::aggregate::histograms::MAX_HISTS;

use crate::{
    missing,
    net::Netns,
    procfs,
    tool::Tool,
    tools, trial,
    wait::{self, PATIENCE},
};

/// What of a command must not wake it either.
const QUIET: [(&str, &str, &[&str]); 8] = [
    ("tcpconnect", "no_pending", &["--no-pending"]),
    ("tcpconnect", "raddr", &["--raddr", "203.0.113.7"]),
    ("tcplife", "no_scan", &["--no-scan"]),
    ("tcplife", "duration", &["--duration", "60"]),
    ("tcpconnect", "count", &["--count"]),
    ("tcpaccept", "summary", &["--summary"]),
    ("tcpstates", "summary", &["--summary"]),
    ("tcpprobe", "hist", &["--hist"]),
];

pub fn tests() -> Vec<Trial> {
    let each = tools::ALL.iter().map(|tool| {
        trial(format!("cli_contract::asleep::{tool}"), move || {
            // tcptop looks at each interval.
            let args: &[&str] = if *tool == "tcptop" {
                &["-i", "1h"]
            } else {
                &[]
            };
            sleeps(tool, args)
        })
    });
    let quiet = QUIET.iter().map(|(tool, what, args)| {
        let name = format!("cli_contract::asleep::{tool}_{what}");
        trial(name, move || sleeps(tool, args))
    });
    let events = EVENTS.iter().map(|events| {
        trial(format!("cli_contract::asleep::{}", events.name), || {
            wake(events)
        })
    });
    let loss = trial("cli_contract::asleep::loss", loss);
    each.chain(quiet).chain(events).chain([loss]).collect()
}

/// Single events, some time apart.
struct Events {
    name: &'static str,
    /// What the commands do without.
    features: &'static str,
    /// Commands that are to show them.
    readers: usize,
    rest_us: Range<u64>,
}

/// Some find it in deep sleep; the dense ones just when it decides to sleep, a millisecond after the one before.
const EVENTS: [Events; 4] = [
    Events {
        name: "single_events",
        features: "",
        readers: 1,
        rest_us: 0..60_000,
    },
    Events {
        name: "single_events_records",
        features: "btf",
        readers: 1,
        rest_us: 0..60_000,
    },
    Events {
        name: "dense_events",
        features: "",
        readers: 3,
        rest_us: 600..1_200,
    },
    Events {
        name: "dense_events_records",
        features: "btf",
        readers: 3,
        rest_us: 600..1_200,
    },
];

/// How long events are made.
const TIME: Duration = Duration::from_secs(6);

/// Traffic that a filter rejects does not wake it.
fn sleeps(tool: &str, args: &[&str]) -> Result<()> {
    missing::needs_tracepoint_of(tool)?;
    missing::needs_programs()?;
    missing::needs_tracepoint_of(tool)?;
    let elsewhere = Netns::new()?;
    let quiet = Netns::new()?;
    let netns = quiet.inode.to_string();
    let own: &[&str] = match tool {
        "sockbuf" => &["-L", "1"],
        _ if args.contains(&"--raddr") => &[],
        _ => &["--netns", &netns],
    };
    let tool = Tool::start(tool, &[own, args].concat())?;
    let before = settled(tool.child.id())?;
    let begin = Instant::now();
    for _ in 0..30 {
        elsewhere.inside(connection)?;
        thread::sleep(Duration::from_millis(100));
    }
    let woken = switches(tool.child.id())? - before;
    let seconds = begin.elapsed().as_secs();
    // Those that look for pending opens do so once a second; other processors than these look twice: see
    // src/session/loss.rs.
    let looks = if cfg!(target_arch = "x86_64") { 1 } else { 2 };
    ensure!(
        woken <= (seconds + 1) * looks,
        "woke {woken} times in {seconds} seconds"
    );
    ensure!(tool.stop()?.status.success());
    Ok(())
}

/// What is lost without a record is said soon, and not only at the end.
fn loss() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let tool = Tool::start(
        "tcpconnect",
        &["--hist=raddr", "--failed", "--netns", &ns.inode.to_string()],
    )?;
    // One histogram more than there is room for, and no event after it.
    ns.inside(|| {
        for open in 0..=MAX_HISTS {
            let at = SocketAddr::from((Ipv4Addr::from(0x7f00_0001 + open), 1));
            ensure!(TcpStream::connect(at).is_err(), "{at}");
        }
        Ok(())
    })?;
    wait::until("the loss", PATIENCE, || {
        Ok(tool.says("1 occurrences not counted so far").then_some(()))
    })?;
    tool.stop().map(drop)
}

/// How often its threads had gone to sleep when they stayed asleep for a second: a command has announced itself before
/// it has dropped its rights, which takes long on a busy host.
fn settled(pid: u32) -> Result<u64> {
    wait::until("its first sleep", PATIENCE, || {
        let before = switches(pid)?;
        thread::sleep(Duration::from_secs(1));
        Ok((switches(pid)? == before).then_some(before))
    })
}

/// How often its threads have gone to sleep.
fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    let read = |thread: &Path| fs::read_to_string(thread.join("status"));
    for status in procfs::each(&format!("/proc/{pid}/task"), read)? {
        let line = |line: &str| {
            line.strip_prefix("voluntary_ctxt_switches:")?
                .trim()
                .parse()
                .ok()
        };
        sum += status.lines().find_map(line).unwrap_or(0u64);
    }
    Ok(sum)
}

fn connection() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    listener.accept()?;
    drop(client);
    Ok(())
}

/// Each event is shown without another one that would wake the reader.
fn wake(events: &Events) -> Result<()> {
    let end = Instant::now() + TIME;
    // Without BTF, records are of the whole host, and a flood of another test may leave no room for one of ours.
    for _ in 0..5 {
        if wake_until(end, events)? {
            return Ok(());
        }
    }
    bail!("lost events again and again")
}

/// False if an event was lost, and the command says so.
fn wake_until(end: Instant, events: &Events) -> Result<bool> {
    // A port alone may be that of another test, in another namespace.
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 88, high, low), 0))?;
    let at = listener.local_addr()?;
    let (addr, port) = (at.ip().to_string(), at.port().to_string());
    let start = |_| {
        let args = ["--no-header", "--laddr", &addr, "--lport", &port];
        Tool::start_reduced(events.features, "tcpaccept", &args)
    };
    let tools = (0..events.readers).map(start).collect::<Result<Vec<_>>>()?;
    let Range { start, end: most } = events.rest_us;
    let (mut shown, mut rest) = (0, 0u64);
    while shown == 0 || Instant::now() < end {
        // Multiples of the golden ratio: spread, and the same in each run.
        rest = (rest + (most - start) * 618 / 1000) % (most - start);
        thread::sleep(Duration::from_micros(start + rest));
        let client = TcpStream::connect(at)?;
        let (server, _) = listener.accept()?;
        shown += 1;
        if !tools.iter().all(|tool| prints(tool, shown)) {
            return lost(tools, shown);
        }
        drop((client, server));
    }
    for tool in tools {
        let run = tool.stop()?;
        ensure!(run.status.success() && run.lines.len() == shown, "{run:?}");
    }
    Ok(true)
}

/// Whether it prints so many lines. Looks often: the next event is to follow at once.
fn prints(tool: &Tool, lines: usize) -> bool {
    let since = Instant::now();
    while tool.line_count() < lines {
        if since.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_micros(20));
    }
    true
}

/// Why a row does not come: a command that stops takes what is in the buffer.
fn lost(tools: Vec<Tool>, shown: usize) -> Result<bool> {
    for tool in tools {
        let before = tool.line_count();
        let run = tool.stop()?;
        let lines = run.lines.len();
        ensure!(
            lines == before,
            "slept over event {shown}: {before} rows, {lines} at the end"
        );
        let says = ["events lost", "events missed"];
        let says = says.iter().any(|says| run.stderr.contains(says));
        ensure!(says || lines == shown, "no row of event {shown}: {run:?}");
    }
    Ok(false)
}
