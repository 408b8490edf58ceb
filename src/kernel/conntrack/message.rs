// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of NETLINK_NETFILTER about connection tracking: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use crate::abi::types::flow;
use crate::kernel::sock_diag::message::{ERROR, Header, messages};

/// NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, and IPCTNL_MSG_CT_NEW, which answers it.
const GET: u16 = 0x101;
const NEW: u16 = 0x100;
/// NLM_F_REQUEST
const REQUEST: u16 = 1;
/// CTA_TUPLE_ORIG, CTA_TUPLE_REPLY.
const ORIG: u16 = 1;
const REPLY: u16 = 2;
/// CTA_TUPLE_IP, CTA_TUPLE_PROTO, and what lies in them.
const IP: u16 = 1;
const PROTO: u16 = 2;
const V4: [u16; 2] = [1, 2];
const V6: [u16; 2] = [3, 4];
const NUMBER: u16 = 1;
const PORTS: [u16; 2] = [2, 3];
/// NLA_F_NESTED, and the bits of a type that are none of it.
const NESTED: u16 = 0x8000;
const FLAGS: u16 = 0xc000;
/// `struct nfgenmsg`
const GENERIC: usize = 4;
/// AF_INET, AF_INET6, IPPROTO_TCP.
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;

/// Appends an attribute, padded.
fn attribute(out: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    write(out);
    let len = out.len().saturating_sub(start) as u16;
    let header = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    if let Some(to) = out.get_mut(start..start.saturating_add(4)) {
        to.copy_from_slice(&header);
    }
    out.resize(out.len().next_multiple_of(4), 0);
}

/// IPv4 lies in the last four bytes of an address.
fn address(flow: &flow, address: [u8; 16]) -> Vec<u8> {
    let skipped = if flow.family == 4 { 12 } else { 0 };
    address.into_iter().skip(skipped).collect()
}

/// Asks for the connection that a packet from this end of a flow belongs to, in either direction.
pub(super) fn request(flow: &flow) -> Vec<u8> {
    let (family, addresses) = match flow.family {
        4 => (INET, V4),
        _ => (INET6, V6),
    };
    let mut out = vec![0; size_of::<Header>()];
    out.extend([family, 0, 0, 0]);
    attribute(&mut out, ORIG | NESTED, |out| {
        attribute(out, IP | NESTED, |out| {
            for (kind, bytes) in addresses.into_iter().zip([flow.laddr, flow.raddr]) {
                attribute(out, kind, |out| out.extend(address(flow, bytes)));
            }
        });
        attribute(out, PROTO | NESTED, |out| {
            attribute(out, NUMBER, |out| out.push(TCP));
            for (kind, port) in PORTS.into_iter().zip([flow.lport, flow.rport]) {
                attribute(out, kind, |out| out.extend(port.to_be_bytes()));
            }
        });
    });
    let header = Header {
        len: out.len() as u32,
        kind: GET,
        flags: REQUEST,
        ..Header::default()
    };
    // SAFETY: integers only, without padding: all its bytes have values.
    let header = unsafe { plain::as_bytes(&header) };
    if let Some(to) = out.get_mut(..header.len()) {
        to.copy_from_slice(header);
    }
    out
}

/// The attributes in some bytes: type and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let half = |at: usize| {
            let half = bytes.get(at..)?.first_chunk();
            half.map(|&half| u16::from_ne_bytes(half))
        };
        let (len, kind) = (usize::from(half(0)?), half(2)?);
        let value = bytes.get(4..len)?;
        let next = len.next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
        Some((kind & !FLAGS, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = attributes(bytes);
    all.find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A tuple as the flow of who sends such packets.
fn tuple(bytes: &[u8], family: u8) -> Option<flow> {
    let (ip, proto) = (find(bytes, IP)?, find(bytes, PROTO)?);
    let kinds = if family == 4 { V4 } else { V6 };
    let address = |kind| {
        let mut all = [0; 16];
        if family == 4 {
            all = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
        }
        let value = find(ip, kind)?;
        let to = all.get_mut(16usize.checked_sub(value.len())?..)?;
        to.copy_from_slice(value);
        Some(all)
    };
    let port = |kind| Some(u16::from_be_bytes(*find(proto, kind)?.first_chunk()?));
    let [from, to] = kinds;
    let [sport, dport] = PORTS;
    Some(flow {
        laddr: address(from)?,
        raddr: address(to)?,
        lport: port(sport)?,
        rport: port(dport)?,
        family,
        ..flow::default()
    })
}

/// The tuples of both directions, as the opener sends and as the other end answers, from a datagram that answers a
/// [`request`]; `None`: there is no such connection, or an error.
pub(crate) fn entry(datagram: &[u8], family: u8) -> Option<[flow; 2]> {
    let (kind, payload) = messages(datagram).find(|(kind, _)| [NEW, ERROR].contains(kind))?;
    let rest = payload.get(GENERIC..).filter(|_| kind == NEW)?;
    Some([
        tuple(find(rest, ORIG)?, family)?,
        tuple(find(rest, REPLY)?, family)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(family: u8) -> flow {
        let mut flow = flow {
            lport: 40_000,
            rport: 80,
            family,
            ..flow::default()
        };
        if family == 4 {
            flow.laddr = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\x09\0\x01";
            flow.raddr = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x07";
        } else {
            flow.laddr = *b"\xfd\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
            flow.raddr = *b"\xfd\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\x02";
        }
        flow
    }

    /// What was asked is an entry whose answer goes to the same addresses.
    fn answered(asked: &flow) -> Vec<u8> {
        let mut bytes = request(asked);
        let tuple = bytes.split_off(size_of::<Header>() + GENERIC);
        let mut reply = tuple.clone();
        reply[2..4].copy_from_slice(&(REPLY | NESTED).to_ne_bytes());
        bytes.extend(tuple);
        bytes.extend(reply);
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&NEW.to_ne_bytes());
        bytes
    }

    #[test]
    fn request_has_the_tuple() {
        for family in [4, 6] {
            let asked = flow(family);
            let bytes = request(&asked);
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(bytes[..4], (bytes.len() as u32).to_ne_bytes());
            let found = entry(&answered(&asked), family).unwrap();
            assert_eq!(found.map(|flow| flow.ends()), [asked.ends(); 2]);
        }
        // As `conntrack -G` sends it.
        let v4 = request(&flow(4));
        assert_eq!(v4.len(), 16 + 4 + 4 + (4 + 8 + 8) + (4 + 8 + 8 + 8));
    }

    #[test]
    fn error_is_no_entry() {
        let mut bytes = request(&flow(4));
        bytes[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        assert!(entry(&bytes, 4).is_none());
    }

    /// Cut off anywhere, or with any bytes and lengths.
    #[test]
    fn arbitrary_datagrams_are_safe() {
        let read = |bytes: &[u8]| {
            entry(bytes, 4);
            entry(bytes, 6);
        };
        crate::abi::noise::damage(&answered(&flow(4)), 20_000, read);
        crate::abi::noise::damage(&answered(&flow(6)), 20_000, read);
    }
}
