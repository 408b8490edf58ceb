// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of NETLINK_SOCK_DIAG: `include/uapi/linux/{netlink,inet_diag,tcp}.h`.

use std::net::Ipv4Addr;

use plain::Plain;

use crate::abi::types::flow;

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Header {
    pub len: u32,
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub pid: u32,
}

/// `struct inet_diag_sockid`: ports and addresses in network order.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SocketId {
    pub sport: [u8; 2],
    pub dport: [u8; 2],
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub interface: u32,
    pub cookie: [u32; 2],
}

/// A request for all sockets of a family in some states: `struct nlmsghdr`, `struct inet_diag_req_v2`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Request {
    pub header: Header,
    pub family: u8,
    pub protocol: u8,
    pub ext: u8,
    pub pad: u8,
    pub states: u32,
    pub id: SocketId,
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    family: u8,
    state: u8,
    timer: u8,
    retrans: u8,
    id: SocketId,
    expires: u32,
    rqueue: u32,
    wqueue: u32,
    uid: u32,
    inode: u32,
}

/// `struct nlattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attribute {
    len: u16,
    kind: u16,
}

/// `struct tcp_info` as far as it is read: what a kernel does not have yet is 0.
#[allow(missing_docs)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    /// The other end's in the lower four bits.
    pub wscale: u8,
    /// Bit 0: delivery_rate_app_limited.
    pub flags: u8,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub fackets: u32,
    pub last_data_sent: u32,
    pub last_ack_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_rtt: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub pacing_rate: u64,
    pub max_pacing_rate: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivery_rate: u64,
    pub busy_time: u64,
    pub rwnd_limited: u64,
    pub sndbuf_limited: u64,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub rcv_ooopack: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    pub rehash: u32,
    pub total_rto: u16,
    pub total_rto_recoveries: u16,
    pub total_rto_time: u32,
}

// SAFETY: `repr(C)` structs of integers and arrays of them, without padding: every bit pattern is a value.
unsafe impl Plain for Header {}
// SAFETY: as above.
unsafe impl Plain for Request {}
// SAFETY: as above.
unsafe impl Plain for Message {}
// SAFETY: as above.
unsafe impl Plain for Attribute {}
// SAFETY: as above.
unsafe impl Plain for TcpInfo {}

/// NLMSG_ERROR, NLMSG_DONE, SOCK_DIAG_BY_FAMILY.
pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;
pub const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST | NLM_F_DUMP.
pub const DUMP: u16 = 0x301;
/// INET_DIAG_INFO.
pub const INFO: u16 = 2;
/// INET_DIAG_SKMEMINFO, and SK_MEMINFO_DROPS (include/uapi/linux/sock_diag.h), the place of a word in it.
pub const SKMEMINFO: u16 = 7;
const MEMINFO_DROPS: usize = 8;
/// AF_INET6.
const INET6: u8 = 10;

/// A TCP socket, as the kernel describes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiagSocket {
    /// What `sock_cookie` is in the records of tracepoints.
    pub cookie: u64,
    /// `TCP_ESTABLISHED` and so on.
    pub state: u8,
    /// Both ends.
    pub flow: flow,
    /// Inode number of its network namespace; 0: not known.
    pub netns: u32,
    /// The user who made it.
    pub uid: u32,
    /// Inode number of its file in /proc/PID/fd; 0: it has none, as before accept().
    pub inode: u32,
    /// Received bytes that were not read, including a FIN; of a listener: connections in the accept queue.
    pub rqueue: u32,
    /// Bytes that are written and not acknowledged: `write_seq - snd_una`; of a listener: the limit of its queue.
    pub wqueue: u32,
    /// The timer that is pending (include/uapi/linux/inet_diag.h), see [`DiagSocket::rests`].
    pub timer: u8,
    /// Until it is due, in milliseconds.
    pub expires: u32,
    /// `sk_drops`, if it was asked for.
    pub drops: Option<u32>,
    /// Its statistics, if they were asked for.
    pub info: TcpInfo,
    /// Size of `info` in this kernel; 0: not sent.
    pub info_bytes: usize,
}

impl DiagSocket {
    /// Whether it is the small socket that is left in TIME_WAIT, or in FIN_WAIT2 when it was closed
    /// (net/ipv4/inet_diag.c: inet_twsk_diag_fill).
    pub fn rests(&self) -> bool {
        self.timer == 3
    }
}

/// Where what follows begins: NLMSG_ALIGN, NLA_ALIGN.
fn aligned(len: usize) -> usize {
    len.checked_next_multiple_of(4).unwrap_or(len)
}

/// The messages in a datagram, each with type and payload.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let mut header = Header::default();
        plain::copy_from_bytes(&mut header, bytes).ok()?;
        let len = header.len as usize;
        let payload = bytes.get(size_of::<Header>()..len)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some((header.kind, payload))
    })
}

/// The error in the payload of a message of the kind [`ERROR`], and, since 4.20, of [`DONE`].
pub fn errno(payload: &[u8]) -> i32 {
    let number = payload
        .first_chunk()
        .map(|&bytes| i32::from_ne_bytes(bytes));
    number.unwrap_or_default().wrapping_neg()
}

/// `None` for a payload that is too short.
pub fn socket(payload: &[u8]) -> Option<DiagSocket> {
    let mut message = Message::default();
    plain::copy_from_bytes(&mut message, payload).ok()?;
    let id = &message.id;
    let mut described = DiagSocket {
        cookie: u64::from(id.cookie[1]) << 32 | u64::from(id.cookie[0]),
        state: message.state,
        flow: flow_of(&message),
        uid: message.uid,
        inode: message.inode,
        rqueue: message.rqueue,
        wqueue: message.wqueue,
        timer: message.timer,
        expires: message.expires,
        ..DiagSocket::default()
    };
    let mut rest = payload.get(size_of::<Message>()..)?;
    let mut attribute = Attribute::default();
    while plain::copy_from_bytes(&mut attribute, rest).is_ok() {
        let len = usize::from(attribute.len);
        let Some(value) = rest.get(size_of::<Attribute>()..len) else {
            break;
        };
        if attribute.kind == INFO {
            // SAFETY: integers only, so its bytes may be written one by one.
            let bytes = unsafe { plain::as_mut_bytes(&mut described.info) };
            described.info_bytes = value.len().min(bytes.len());
            for (to, from) in bytes.iter_mut().zip(value) {
                *to = *from;
            }
        }
        if attribute.kind == SKMEMINFO {
            described.drops = word(value, MEMINFO_DROPS);
        }
        rest = rest.get(aligned(len)..).unwrap_or_default();
    }
    Some(described)
}

/// One of an array of words.
fn word(words: &[u8], index: usize) -> Option<u32> {
    let (words, _) = words.as_chunks();
    words.get(index).map(|&word| u32::from_ne_bytes(word))
}

fn flow_of(message: &Message) -> flow {
    let id = &message.id;
    let addr = |bytes: [u8; 16]| match message.family {
        INET6 => bytes,
        _ => {
            let [a, b, c, d, ..] = bytes;
            Ipv4Addr::new(a, b, c, d).to_ipv6_mapped().octets()
        }
    };
    let (laddr, raddr) = (addr(id.src), addr(id.dst));
    let mapped = std::net::Ipv6Addr::from(raddr).to_ipv4_mapped().is_some();
    flow {
        laddr,
        raddr,
        lport: u16::from_be_bytes(id.sport),
        rport: u16::from_be_bytes(id.dport),
        family: if mapped { 4 } else { 6 },
        ..flow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: u8, info: &[u8]) -> Vec<u8> {
        let id = SocketId {
            sport: 80u16.to_be_bytes(),
            dport: 50_000u16.to_be_bytes(),
            src: [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            dst: [10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            cookie: [7, 1],
            ..SocketId::default()
        };
        let body = Message {
            family,
            state: 1,
            id,
            ..Message::default()
        };
        let attribute = |kind, value: &[u8]| {
            let len = (4 + value.len()) as u16;
            let mut bytes = [len.to_ne_bytes(), u16::to_ne_bytes(kind)].concat();
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        // SAFETY: integers only, without padding.
        let mut bytes = unsafe { plain::as_bytes(&body) }.to_vec();
        bytes.extend(attribute(10, &[6])); // INET_DIAG_PROTOCOL, which is padded
        let memory: Vec<u8> = (20..29u32).flat_map(u32::to_ne_bytes).collect();
        bytes.extend(attribute(SKMEMINFO, &memory));
        bytes.extend(attribute(INFO, info));
        bytes
    }

    #[test]
    fn message_becomes_socket() {
        let mut info = [0; 300];
        info[68..72].copy_from_slice(&99u32.to_ne_bytes());
        info[200..208].copy_from_slice(&12345u64.to_ne_bytes());
        let socket = socket(&message(2, &info)).unwrap();
        assert_eq!((socket.cookie, socket.state), (1 << 32 | 7, 1));
        assert_eq!(socket.flow.local().to_string(), "10.0.0.1");
        assert_eq!(socket.flow.remote().to_string(), "10.0.0.2");
        assert_eq!((socket.flow.lport, socket.flow.rport), (80, 50_000));
        assert_eq!((socket.info.rtt, socket.info.bytes_sent), (99, 12345));
        assert_eq!(socket.info_bytes, size_of::<TcpInfo>());
        assert_eq!(socket.drops, Some(28));
        assert_eq!(word(&[0; 35], 8), None);
    }

    #[test]
    fn missing_attributes_are_known() {
        let socket = socket(&message(10, &[0xff; 104])).unwrap();
        assert_eq!((socket.info_bytes, socket.flow.family), (104, 6));
        assert_eq!(socket.info.total_retrans, u32::MAX);
        assert_eq!(socket.info.pacing_rate, 0);
    }

    /// Whatever the kernel, or somebody in its place, sends: cut off anywhere, or with any bytes and lengths.
    #[test]
    fn arbitrary_datagrams_are_safe() {
        let read = |bytes: &[u8]| {
            for (_, payload) in messages(bytes) {
                errno(payload);
                socket(payload);
            }
            socket(bytes);
        };
        crate::abi::noise::damage(&message(2, &[7; 280]), 20_000, read);
    }

    #[test]
    fn datagram_holds_messages() {
        let part = |kind: u16, payload: &[u8]| {
            let header = Header {
                len: (16 + payload.len()) as u32,
                kind,
                ..Header::default()
            };
            // SAFETY: integers only, without padding.
            let mut bytes = unsafe { plain::as_bytes(&header) }.to_vec();
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let error = (-2i32).to_ne_bytes();
        let all = [part(BY_FAMILY, &[1]), part(ERROR, &error)].concat();
        let found: Vec<_> = messages(&all).collect();
        assert_eq!(found, [(BY_FAMILY, &[1][..]), (ERROR, &error[..])]);
        assert_eq!(errno(found[1].1), 2);
        assert_eq!(messages(&all[..15]).count(), 0);
        assert!(socket(&[0; 71]).is_none());
    }
}
