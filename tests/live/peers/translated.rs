// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections whose addresses are translated, and whose other end the command has not seen: what connection tracking
//! tells. The sessions are older than the command, which does not look for them.

use anyhow::Result;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{Session, has};
use crate::{
    missing,
    net::{Net, Netns, Side},
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let client = |v6| trial(name("client", v6), move || at_client(v6));
    let server = |v6| trial(name("server", v6), move || at_server(v6));
    vec![
        client(false),
        client(true),
        server(false),
        server(true),
        trial("peers::translated_by_node", by_node),
    ]
}

fn name(end: &str, v6: bool) -> String {
    let family = if v6 { 6 } else { 4 };
    format!("peers::translated_at_{end}_v{family}")
}

const UNSEEN: [&str; 3] = ["--json", "--peer", "--no-scan"];

/// The first row that tells of the other end. The client sends, so that there are rows at both ends; nobody reads, which
/// would show the ends themselves. A question that is answered late is answered for the next row.
fn told(tool: &Tool, session: &mut Session) -> Result<Value> {
    let [c, _] = session.ends;
    wait::until("a row that knows the other end", PATIENCE, || {
        session.c.run(&format!("send {c} 1"))?;
        let rows = tool.seen()?;
        Ok(rows
            .iter()
            .find(|row| !row["peer_source"].is_null())
            .cloned())
    })
}

/// What only a socket tells is blank.
fn only_addresses() -> Value {
    json!({"peer_source": "conntrack", "peer_pid": null, "peer_comm": null, "peer_netns": null,
        "peer_cookie": null})
}

fn translate(ns: &Netns, hook: &str, priority: i32, v6: bool, from: &str, to: &str) -> Result<()> {
    let family = if v6 { "ip6" } else { "ip" };
    ns.nft(&format!(
        "table {family} service {{\n chain c {{\n type nat hook {hook} priority {priority};\n \
         {family} daddr {from} tcp dport 80 dnat to {to}\n }}\n}}\n"
    ))?;
    missing::needs_conntrack()
}

/// A service's address is translated where the client is: its row tells which server that is.
fn at_client(v6: bool) -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let (service, at, server) = match v6 {
        false => ("192.0.2.7", "10.9.0.2:8080", "10.9.0.2"),
        true => ("2001:db8::7", "[fd09::2]:8080", "fd09::2"),
    };
    net.a
        .ip(&format!("route add {service} via {server} dev v0"))?;
    translate(&net.a, "output", -100, v6, service, at)?;
    let to = if v6 {
        "[2001:db8::7]:80"
    } else {
        "192.0.2.7:80"
    };
    let mut session = Session::new([&net.a, &net.b], at, None, Some(to))?;
    let inode = net.a.inode.to_string();
    let tool = Tool::start("tcpprobe", &[&UNSEEN[..], &["--netns", &inode]].concat())?;
    let row = told(&tool, &mut session)?;
    has(&row, &only_addresses())?;
    let want = json!({"raddr": service, "rport": 80, "peer_laddr": server, "peer_lport": 8080,
        "peer_raddr": row["laddr"], "peer_rport": row["lport"]});
    has(&row, &want)
}

/// It is translated where the server is: its row tells what the client meant.
fn at_server(v6: bool) -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let (service, at) = match v6 {
        false => ("10.9.0.77", "10.9.0.2:8080"),
        true => ("fd09::77", "[fd09::2]:8080"),
    };
    let lladdr = format!("02:00:00:00:09:0{}", Side::B as u8);
    net.a.ip(&format!(
        "neigh replace {service} dev v0 lladdr {lladdr} nud permanent"
    ))?;
    translate(&net.b, "prerouting", -100, v6, service, at)?;
    let to = if v6 { "[fd09::77]:80" } else { "10.9.0.77:80" };
    let mut session = Session::new([&net.a, &net.b], at, None, Some(to))?;
    let inode = net.b.inode.to_string();
    let tool = Tool::start("tcpprobe", &[&UNSEEN[..], &["--netns", &inode]].concat())?;
    let row = told(&tool, &mut session)?;
    has(&row, &only_addresses())?;
    let want = json!({"lport": 8080, "peer_raddr": service, "peer_rport": 80,
        "peer_laddr": row["raddr"], "peer_lport": row["rport"]});
    has(&row, &want)
}

/// A node translates for its pods, in the namespace where the command runs.
fn by_node() -> Result<()> {
    missing::needs_programs()?;
    let (client, node, server) = (Netns::new()?, Netns::new()?, Netns::new()?);
    for (pod, host, link) in [(&client, "10.8.1.1", "c0"), (&server, "10.8.2.2", "s0")] {
        let net = &host[..7];
        node.ip(&format!(
            "link add {link} type veth peer name eth0 netns {}\naddr add {net}254/24 dev {link}\nlink set {link} up",
            pod.path()
        ))?;
        pod.ip(&format!(
            "addr add {host}/24 dev eth0\nlink set eth0 up\nroute add default via {net}254"
        ))?;
    }
    node.sysctl("ipv4/ip_forward", "1")?;
    translate(
        &node,
        "prerouting",
        -100,
        false,
        "10.8.9.9",
        "10.8.2.2:8080",
    )?;
    let to = Some("10.8.9.9:80");
    let mut session = Session::new([&client, &server], "10.8.2.2:8080", None, to)?;
    let inode = client.inode.to_string();
    let args = [&UNSEEN[..], &["--netns", &inode]].concat();
    let tool = Tool::start_in(&node, "tcpprobe", &args)?;
    let row = told(&tool, &mut session)?;
    has(&row, &only_addresses())?;
    has(
        &row,
        &json!({"raddr": "10.8.9.9", "peer_laddr": "10.8.2.2", "peer_lport": 8080}),
    )
}
