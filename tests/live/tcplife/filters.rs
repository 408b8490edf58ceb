// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every filter lets through what it names and nothing else.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::scene::{End, Scene, end};
use crate::{cgroups::Groups, net::Net, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcplife::filters::ports", ports),
        trial("tcplife::filters::addresses", addresses),
        trial("tcplife::filters::owners", owners),
        trial("tcplife::filters::places", places),
        trial("tcplife::filters::cgroups", cgroups),
    ]
}

/// The three sessions of the cast, both ends: client and server over IPv4, over IPv6, and over IPv4 with IPv6 sockets.
/// Clients come from 40004, 40006 and 40046, servers are at 8000, 8080 and 9000. The `6` pair belongs to nobody.
const ALL: &str = "c4 s4 c6 s6 c46 s46";

/// A filter's arguments, and the ends that pass.
struct Case {
    args: Vec<String>,
    passes: String,
}

fn case(args: &str, passes: &str) -> Case {
    Case {
        args: args.split(' ').map(str::to_owned).collect(),
        passes: passes.to_owned(),
    }
}

/// The traffic, seen by one tcplife per case at the same time.
fn check(scene: &mut Scene, cases: &[Case]) -> Result<()> {
    let inodes = scene.net.inodes();
    let tools = cases
        .iter()
        .map(|case| {
            let mut args: Vec<&str> = vec!["--json"];
            args.extend(case.args.iter().map(String::as_str));
            if !case.args.iter().any(|arg| arg == "--netns") {
                args.extend(["--netns", &inodes]);
            }
            Tool::start("tcplife", &args)
        })
        .collect::<Result<Vec<_>>>()?;
    let cast = perform(scene)?;
    scene.net.quiet()?;
    let mut complaints = Vec::new();
    for (tool, case) in tools.into_iter().zip(cases) {
        let rows = tool.stop()?.rows()?;
        let name_of = |cookie: u64| {
            cast.iter()
                .find(|(_, end)| end.row["cookie"] == cookie)
                .map(|(name, _)| *name)
        };
        let passed: BTreeSet<&str> = rows
            .iter()
            .filter_map(|row| row["cookie"].as_u64())
            .map(|c| name_of(c).unwrap_or("?"))
            .collect();
        let wanted: BTreeSet<&str> = case.passes.split_whitespace().collect();
        if passed != wanted || rows.len() != wanted.len() {
            complaints.push(format!("{:?}: {passed:?}, not {wanted:?}", case.args));
        }
    }
    ensure!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    Ok(())
}

/// The sessions, all over when this returns.
fn perform(scene: &mut Scene) -> Result<Vec<(&'static str, End)>> {
    let mut cast = Vec::new();
    for (names, from, to) in [
        (["c4", "s4"], "10.9.0.1:40004", "10.9.0.2:8000"),
        (["c6", "s6"], "[fd09::1]:40006", "[fd09::2]:8080"),
        (
            ["c46", "s46"],
            "[::ffff:10.9.0.1]:40046",
            "[::ffff:10.9.0.2]:9000",
        ),
    ] {
        let nobody = names[0] == "c6";
        if nobody {
            for agent in [&mut scene.c, &mut scene.s] {
                agent.fork(&[])?;
                agent.run("uid 65534")?;
                agent.comm("nobody's, \"1\"")?;
            }
        }
        let (listener, at) = scene.s.listen(to)?;
        let fd = scene.c.open(from)?;
        scene.c.run(&format!("bind {fd} {from}"))?;
        scene.c.run(&format!("connect {fd} {at}"))?;
        let accepted = scene.s.number(&format!("accept {listener}"))?;
        let ends = (scene.client(fd)?, scene.server(accepted)?);
        scene.c.run(&format!("close {fd}"))?;
        scene.s.run(&format!("eof {accepted}"))?;
        scene.s.run(&format!("close {accepted}"))?;
        scene.s.run(&format!("close {listener}"))?;
        if nobody {
            scene.c.exit_child()?;
            scene.s.exit_child()?;
        }
        cast.extend([(names[0], ends.0), (names[1], ends.1)]);
    }
    Ok(cast)
}

fn ports() -> Result<()> {
    check(
        &mut Scene::new()?,
        &[
            case("--lport 8000", "s4"),
            case("-L 8000-8080", "s4 s6"),
            case("--localport 8000,9000", "s4 s46"),
            case("-L !8000", "c4 c6 s6 c46 s46"),
            case("-L !8000-8080,40046", "c4 c6 s46"),
            case("-D 8000", "c4"),
            case("--remoteport 8080,40000-40005", "c6 s4"),
            case("--rport !40000-49999", "c4 c6 c46"),
            case("--port 8080", "c6 s6"),
            case("--port !8080", "c4 s4 c46 s46"),
            case("-L 8000 -D 9000", ""),
            case("-L 40004 -D 8000-9000", "c4"),
        ],
    )
}

fn addresses() -> Result<()> {
    check(
        &mut Scene::new()?,
        &[
            case("-4", "c4 s4 c46 s46"),
            case("-6", "c6 s6"),
            case("--laddr 10.9.0.1", "c4 c46"),
            case("--laddr 10.9.0.2/32,fd09::2", "s4 s46 s6"),
            case("--raddr 10.9.0.0/24", "c4 s4 c46 s46"),
            case("--raddr 10.9.0.0/31", "s4 s46"),
            case("--raddr !10.9.0.0/31", "c4 c46 c6 s6"),
            case("--addr fd09::/64", "c6 s6"),
            case("--addr !fd09::1", "c4 s4 c46 s46"),
            case("--addr 0.0.0.0/0", "c4 s4 c46 s46"),
            case("--addr ::/0", "c6 s6"),
            case("--addr ::ffff:10.9.0.1", "c4 s4 c46 s46"),
            case("--laddr 192.0.2.0/24", ""),
        ],
    )
}

fn owners() -> Result<()> {
    let mut scene = Scene::new()?;
    let (c, s) = (scene.c.pid(), scene.s.pid());
    let mut cases = vec![
        case(&format!("-p {c}"), "c4 c46"),
        case(&format!("--pid {c},{s}"), "c4 c46 s4 s46"),
        case(&format!("-p !{c}"), "s4 s46 c6 s6"),
        case("-u 65534", "c6 s6"),
        case("--uid !65534", "c4 s4 c46 s46"),
        case("-u 0", "c4 s4 c46 s46"),
        case("--uid 1-70000", "c6 s6"),
        case("--comm client", "c4 c46"),
        case("--comm client,server", "c4 c46 s4 s46"),
        case("--comm !client", "s4 s46 c6 s6"),
        case("--comm clien", ""),
    ];
    cases.push(Case {
        args: vec!["-p".into(), "999999999".into()],
        passes: String::new(),
    });
    check(&mut scene, &cases)
}

fn places() -> Result<()> {
    let mut scene = Scene::new()?;
    let (a, b, pid) = (scene.net.a.inode, scene.net.b.inode, scene.c.pid());
    let cases = [
        case(&format!("--netns {a}"), "c4 c6 c46"),
        case(&format!("--netns {b}"), "s4 s6 s46"),
        case(&format!("--netns {}", scene.net.a.path()), "c4 c6 c46"),
        case(&format!("--netns pid:{pid}"), "c4 c6 c46"),
        case(&format!("--netns pid:{pid},{b}"), ALL),
        case(&format!("--netns {a} --lport 1-65535"), "c4 c6 c46"),
    ];
    check(&mut scene, &cases)
}

/// By the cgroup of who made the socket, or one above it.
fn cgroups() -> Result<()> {
    let groups = Groups::new()?;
    let [group, below] = [&groups.above, &groups.below];
    let net = Net::new()?;
    let arg = |value: &str| {
        Tool::start(
            "tcplife",
            &["--json", "--netns", &net.inodes(), "--cgroup", value],
        )
    };
    let tools = [arg(group)?, arg(below)?, arg(&format!("!{group}"))?];
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    c.run(&format!("cgroup {below}"))?;
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let fd = c.open(&at)?;
    c.run(&format!("connect {fd} {at}"))?;
    let accepted = s.number(&format!("accept {listener}"))?;
    let ends = (end(&mut c, &net.a, fd)?, end(&mut s, &net.b, accepted)?);
    c.run(&format!("close {fd}"))?;
    s.run(&format!("close {accepted}"))?;
    net.quiet()?;
    for (tool, want) in tools.into_iter().zip([&ends.0, &ends.0, &ends.1]) {
        let rows = tool.stop()?.rows()?;
        ensure!(
            rows.len() == 1 && rows[0]["cookie"] == want.row["cookie"],
            "{rows:?} instead of {want:?}"
        );
    }
    c.kill()
}
