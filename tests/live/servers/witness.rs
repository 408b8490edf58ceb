// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connections in a server's log, and whether rows agree.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// One end's address and port.
pub type End = (String, u64);

/// A connection as a server's log has it.
#[derive(Clone, Debug)]
pub struct Logged {
    pub pid: u64,
    /// Sent and received, where it logs that.
    pub bytes: Option<(u64, u64)>,
}

/// Connections by their clients' ends, those of one end in their order.
pub type Log = BTreeMap<End, VecDeque<Logged>>;

pub struct Server {
    pub comm: &'static str,
    pub port: u64,
    /// The process that called listen(), or has the listener.
    pub listener: u64,
    /// All that may serve.
    pub processes: Vec<u64>,
    /// It forks for each connection, and closes its own copy then. If the child is faster, it is the last to close.
    pub forks: bool,
    pub log: Log,
    /// How many connections at the most the load opens without a request, or leaves before the answer.
    pub most_unlogged: usize,
}

/// The rows of one run of tcplife, by side, each in the order of their ends.
pub struct Sessions {
    pub servers: Vec<Value>,
    pub clients: Vec<Value>,
    /// They are made of tracepoints' records, without BTF.
    pub records: bool,
}

/// How rows and a log agree.
#[derive(Debug, Default)]
struct Verdict {
    /// The process is the one that the log names, and the bytes are those that it counts, if it does.
    same: usize,
    /// The process is, but a reset came before all bytes were acknowledged, or read; without BTF also where the process
    /// is the listener's, which `pid_source` says, or the bytes are blank.
    cut: usize,
    /// The process is the one that forked, and closed the socket after its child; without BTF also where it is not known who
    /// closed it.
    parent: usize,
    /// Not in the log: nothing was asked, or not wholly. The process is one of the server's.
    unlogged: usize,
}

/// What of a verdict.
type Count = fn(&mut Verdict) -> &mut usize;

impl Server {
    /// Whether the process that forked was the last to close it.
    fn closes(&self, row: &Value) -> bool {
        self.forks && row["pid"] == self.listener && row["pid_source"] == "socket" && !is_cut(row)
    }
}

impl Sessions {
    /// The rows of servers on these ports and of their clients; there are as many as the kernel counts opens.
    pub fn new(
        rows: Vec<Value>,
        records: bool,
        ports: &[u64],
        opens: (usize, usize),
    ) -> Result<Self> {
        let serves = |row: &Value| row["lport"].as_u64().is_some_and(|p| ports.contains(&p));
        let (servers, clients): (Vec<_>, Vec<_>) = rows.into_iter().partition(serves);
        let found = (servers.len(), clients.len());
        ensure!(
            found == opens,
            "sessions of servers and of clients: {found:?}; the kernel counts passive and active opens: {opens:?}"
        );
        Ok(Self {
            servers,
            clients,
            records,
        })
    }

    /// They have this server's sessions as its log has them, but for the bytes that resets cut short.
    pub fn served(&self, server: &Server, resets: usize) -> Result<()> {
        let verdict = self.compare(server)?;
        ensure!(
            verdict.cut <= resets && verdict.parent <= verdict.same / 10,
            "{verdict:?}; the kernel counts {resets} resets"
        );
        let Verdict {
            same,
            cut,
            parent,
            unlogged,
        } = verdict;
        let way = ["with BTF", "without BTF"][usize::from(self.records)];
        println!(
            "{}, {way}: {same} sessions as it logged them, {cut} that a reset cut short, {parent} that the parent closed, {unlogged} not logged",
            server.comm
        );
        Ok(())
    }

    fn compare(&self, server: &Server) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        let mut log = server.log.clone();
        let mut strange = vec![];
        let rows = self.servers.iter();
        for row in rows.filter(|row| row["lport"] == server.port) {
            ensure!(self.is_of(row, server), "no process of the server: {row}");
            let logged = log.entry(end(row, "raddr", "rport")).or_default();
            if let Some(count) = logged
                .front()
                .and_then(|first| self.agree(row, first, server))
            {
                logged.pop_front();
                *count(&mut verdict) += 1;
            } else {
                // Ports come again: what is logged may be of the next row of these ends.
                strange.push(row);
            }
        }
        log.retain(|_, left| !left.is_empty());
        if let Some((peer, logged)) = log.first_key_value() {
            strange.retain(|row| end(row, "raddr", "rport") == *peer);
            bail!(
                "{verdict:?}, {} not found; {peer:?} is logged as {logged:?}, not as in {strange:?}",
                log.len()
            );
        }
        verdict.unlogged = strange.len();
        let (unlogged, most) = (strange.len(), server.most_unlogged);
        ensure!(
            unlogged <= most,
            "{unlogged} rows are not in the log, and {most} may be: {strange:?}"
        );
        Ok(verdict)
    }

    /// Its process is one of the server's. Who did not close it is not known without BTF: what a reset ended, and where
    /// a command of another test looked through the files just then, and so was the last to have it.
    fn is_of(&self, row: &Value, server: &Server) -> bool {
        let Some(pid) = row["pid"].as_u64() else {
            return self.records;
        };
        let right = match row["pid_source"].as_str() {
            Some("listener") => pid == server.listener && (self.records || is_cut(row)),
            _ => server.processes.contains(&pid) || server.closes(row),
        };
        right && (row["comm"] == server.comm || (self.records && row["comm"].is_null()))
    }

    /// What they agree in, if they do.
    fn agree(&self, row: &Value, logged: &Logged, server: &Server) -> Option<Count> {
        let same: Count = |verdict| &mut verdict.same;
        let cut: Count = |verdict| &mut verdict.cut;
        if server.closes(row) {
            return Some(|verdict| &mut verdict.parent);
        }
        let own = row["pid"] == logged.pid;
        let listeners = self.records && row["pid_source"] != "socket";
        if listeners && !is_cut(row) {
            return Some(|verdict| &mut verdict.parent);
        }
        if !own && !listeners {
            return None;
        }
        let Some((sent, received)) = logged.bytes else {
            return Some(if own { same } else { cut });
        };
        let (Some(tx), Some(rx)) = (row["tx_bytes"].as_u64(), row["rx_bytes"].as_u64()) else {
            return self.records.then_some(cut);
        };
        if own && (tx, rx) == (sent, received) {
            return Some(same);
        }
        (is_cut(row) && tx <= sent && rx >= received).then_some(cut)
    }

    /// What one end has sent, the other has received, unless a reset intervened.
    pub fn ends_agree(&self) -> Result<()> {
        let mut clients = BTreeMap::<End, VecDeque<&Value>>::new();
        // What was never established has no other end.
        let established = self.clients.iter().filter(|row| row["state"] != "SYN_SENT");
        for row in established {
            let rows = clients.entry(end(row, "laddr", "lport")).or_default();
            rows.push_back(row);
        }
        for server in &self.servers {
            let peer = end(server, "raddr", "rport");
            let client = clients.get_mut(&peer).and_then(VecDeque::pop_front);
            let client = client.with_context(|| format!("no other end: {server}"))?;
            let there = ["tx_bytes", "rx_bytes"].map(|key| server[key].as_u64());
            let here = ["rx_bytes", "tx_bytes"].map(|key| client[key].as_u64());
            let blank = self.records && [there, here].concat().contains(&None);
            ensure!(
                there == here || blank || is_cut(server) || is_cut(client),
                "{server}\n{client}"
            );
        }
        Ok(())
    }
}

/// A process, its name, and how many sockets are its own at the least.
pub type Owner<'n> = (u64, &'n str, usize);

/// A load that makes fewer sessions proves nothing.
pub const LEAST: usize = 50;

/// All sockets are these processes' own. A row from records may come too late for a name.
pub fn owned<'r>(
    rows: impl Iterator<Item = &'r Value>,
    owners: &[Owner<'_>],
    records: bool,
) -> Result<()> {
    let mut counts = vec![0; owners.len()];
    for row in rows {
        let owns = |(pid, comm, _): &Owner<'_>| {
            row["pid"] == *pid && (row["comm"] == *comm || (records && row["comm"].is_null()))
        };
        let owner = owners.iter().position(owns);
        counts[owner.with_context(|| format!("not of {owners:?}: {row}"))?] += 1;
    }
    let enough = owners
        .iter()
        .zip(&counts)
        .all(|(owner, count)| *count >= owner.2);
    ensure!(enough, "{owners:?} have only {counts:?}");
    Ok(())
}

/// A reset ended it; or, without BTF, what did is not known.
fn is_cut(row: &Value) -> bool {
    let reason = row["close_reason"].as_str();
    matches!(reason, None | Some("rst_sent" | "rst_received"))
}

fn end(row: &Value, addr: &str, port: &str) -> End {
    let address = row[addr].as_str().unwrap_or_default();
    (address.to_owned(), row[port].as_u64().unwrap_or_default())
}
