// SPDX-License-Identifier: MIT OR Apache-2.0
//! What /proc says of sockets and processes.

use std::net::Ipv6Addr;

use super::*;

const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0
   1: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0 20 4 30 10 -1
   2: 0100007F:1F90 0300007F:C350 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
";

fn flow_to(d: u8) -> flow {
    let mapped = |d| {
        std::net::Ipv4Addr::new(127, 0, 0, d)
            .to_ipv6_mapped()
            .octets()
    };
    flow {
        laddr: mapped(1),
        lport: 8080,
        raddr: mapped(d),
        rport: 50_000,
        ..flow::default()
    }
}

fn snapshot(owners: &[(u64, u32)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.read(TABLE, &owners.iter().copied().collect());
    snapshot.taken_ns = 10;
    snapshot
}

#[test]
fn owners_come_from_proc() {
    let mut snapshot = snapshot(&[(77, 1), (78, 2)]);
    let found = snapshot.find(&flow_to(2), 10).unwrap();
    assert_eq!((found.owner.pid, found.owner.source), (2, pid_source::SCAN));
    assert!(snapshot.find(&flow_to(2), 9).is_none(), "not at that time");
    assert!(snapshot.find(&flow_to(3), 10).is_none(), "TIME_WAIT");
    assert_eq!(snapshot.listeners(8080)[0].holder.owner.pid, 1);
    snapshot.close(&flow_to(2));
    assert!(snapshot.find(&flow_to(2), 10).is_none());
    snapshot.close_listener(&flow_to(2));
    assert!(snapshot.listeners(8080).is_empty());
}

#[test]
fn ambiguous_flow_has_no_owner() {
    let mut snapshot = snapshot(&[(77, 1), (78, 2)]);
    snapshot.read(TABLE, &HashMap::from([(77, 3), (78, 4)]));
    assert_eq!(
        snapshot.find(&flow_to(2), 10).unwrap().owner.source,
        pid_source::UNKNOWN
    );
    snapshot.close_listener(&flow_to(2));
    assert_eq!(
        snapshot.listeners(8080).len(),
        2,
        "which one it was is not known"
    );
}

#[test]
fn ipv6_address_is_four_words() {
    let (addr, port) = end("B80D0120000000000000000001000000:0050").unwrap();
    assert_eq!(
        Ipv6Addr::from(addr),
        "2001:db8::1".parse::<Ipv6Addr>().unwrap()
    );
    assert_eq!(port, 80);
    assert!(end("xyz:0050").is_none() && end("0050").is_none());
    crate::abi::noise::damage(TABLE.as_bytes(), 5000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        text.lines().for_each(|row| {
            line(row);
        });
        end(&text);
    });
}

#[test]
fn own_process_is_no_kernel_thread() {
    let own = look(std::process::id());
    assert!(own.start_time > 0 && !own.kernel && own.comm == comm_of(std::process::id()));
    assert!(!look(u32::MAX).kernel);
    assert!(
        look(2).kernel
            || std::fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n")
    );
}
