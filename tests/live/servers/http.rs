// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests of HTTP share: nginx with two workers, wrk, and the access log.

use std::{collections::BTreeMap, fs, fs::File, process::Command};

use anyhow::{Context, Result, bail};

use super::{
    fixture::Fixture,
    program::{Program, find, read},
    witness::{End, Log, Logged},
};

/// nginx's port.
pub const PORT: u64 = 8080;

/// How many connections a wrk has at the same time, and so how many it leaves in the middle of an answer at its end.
pub const CONNECTIONS: usize = 8;

/// wrk looks first whether it can connect, and asks nothing then.
pub const PROBES: usize = 1;

/// Every connection serves up to four requests; every tenth answer is a file, sent by sendfile(2).
pub fn start_nginx(fixture: &Fixture) -> Result<Program> {
    let folder = fixture.folder.text();
    let [v4, v6] = fixture.servers();
    fs::write(fixture.file("large"), [b'x'; 100_000])?;
    File::create(fixture.file("huge"))?.set_len(16 << 20)?;
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let config = format!(
        "user root;
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
log_format connection '$remote_addr $remote_port $connection $pid $bytes_sent $request_length';
access_log {folder}/access.log connection;
{paths}
sendfile on;
keepalive_requests 4;
server {{
listen {v4}:{PORT};
listen [{v6}]:{PORT};
location = /large {{ root {folder}; }}
location = /huge {{ root {folder}; }}
location / {{ return 200 'small'; }}
}}
}}
"
    );
    let file = fixture.file("nginx.conf");
    fs::write(&file, config)?;
    let mut nginx = Command::new(find("nginx", "nginx")?);
    nginx.arg("-p").arg(&*fixture.folder).arg("-c").arg(file);
    let mut nginx = Program::start(&fixture.net.b, &mut nginx, fixture.file("nginx.out"))?;
    nginx.ready("nginx", || fixture.listens(PORT))?;
    Ok(nginx)
}

/// A line per request; sums per connection, by whose serial number those of one peer are in their order.
pub fn access_log(fixture: &Fixture) -> Result<Log> {
    let mut connections = BTreeMap::<u64, (End, u64, [u64; 2])>::new();
    for line in read(&fixture.file("access.log"))?.lines() {
        let mut words = line.split(' ');
        let peer = words.next().context("no address")?.to_owned();
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>()?;
        let [port, serial, pid, sent, received] = numbers[..] else {
            bail!("{line}");
        };
        let new = ((peer, port), pid, [0; 2]);
        let (_, _, [all_sent, all_received]) = connections.entry(serial).or_insert(new);
        *all_sent += sent;
        *all_received += received;
    }
    let mut log = Log::new();
    for (peer, pid, [sent, received]) in connections.into_values() {
        let bytes = Some((sent, received));
        log.entry(peer)
            .or_default()
            .push_back(Logged { pid, bytes });
    }
    Ok(log)
}

/// A second of load from `a`: requests one after the other on each connection, some of which want it closed then.
pub fn start_wrk(fixture: &Fixture, name: &str, host: &str, port: u64) -> Result<Program> {
    let script = fixture.file("wrk.lua");
    fs::write(&script, SCRIPT)?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let mut wrk = Command::new(find("wrk", "wrk")?);
    wrk.args(["--threads", "1", "--duration", "1s", "--connections"])
        .arg(CONNECTIONS.to_string())
        .arg("--script")
        .arg(script)
        .arg(format!("http://{host}:{port}/"));
    Program::start(&fixture.net.a, &mut wrk, fixture.file(name)).context("wrk")
}

/// How many sessions `start_resets` makes.
pub const RESETS: usize = 10;

/// Clients that leave when a long answer begins: what they have not read resets their sessions.
pub fn start_resets(fixture: &Fixture, name: &str, host: &str, port: u64) -> Result<Program> {
    let script = format!(
        "for ((i = 0; i < {RESETS}; i++)); do
            exec 3<>/dev/tcp/{host}/{port} &&
            printf 'GET /huge HTTP/1.1\\r\\nHost: server\\r\\n\\r\\n' >&3 &&
            read -r -n 1 <&3 || exit
            exec 3>&-
        done"
    );
    let mut bash = Command::new(find("bash", "bash")?);
    bash.arg("-c").arg(script);
    Program::start(&fixture.net.a, &mut bash, fixture.file(name))
}

/// A rest of 3 ms before each request bounds the load.
const SCRIPT: &str = r#"
local count = 0
request = function()
  count = count + 1
  local path = count % 10 == 0 and "/large" or "/"
  local headers = count % 3 == 0 and { Connection = "close" } or {}
  return wrk.format(nil, path, headers)
end
delay = function() return 3 end
"#;
