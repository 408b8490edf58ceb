// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel says: netlink, tracefs, /proc, type information.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use libbpf_rs::btf::Btf;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::fallback::format::Types as Records;
use crate::fallback::owners;
use crate::kernel::btf::types::{Kind, Types};
use crate::kernel::btf::{file, subset};
use crate::kernel::cgroups::{names, process::Cgroups};
use crate::kernel::conntrack::message as conntrack_message;
use crate::kernel::counters::{block, parse};
use crate::kernel::sock_diag::message;
use crate::kernel::symbols::Symbols;
use crate::kernel::tracepoints::{KernelTypes, tracefs as formats};
use crate::kernel::trust;

/// A datagram of NETLINK_SOCK_DIAG.
pub fn inet_diag(bytes: &[u8]) {
    for (_, payload) in message::messages(bytes) {
        message::errno(payload);
        if let Some(socket) = message::socket(payload) {
            assert!(socket.info_bytes <= size_of::<message::TcpInfo>());
            assert!([4, 6].contains(&socket.flow.family));
            let _ = (socket.rests(), socket.flow.local(), socket.flow.remote());
        }
    }
    message::socket(bytes);
}

/// A datagram of NETLINK_NETFILTER.
pub fn conntrack(bytes: &[u8]) {
    for family in [4, 6] {
        for flow in conntrack_message::entry(bytes, family).iter().flatten() {
            assert_eq!(flow.family, family);
            let _ = (flow.local(), flow.remote());
        }
    }
}

/// `events/<category>/<event>/format`, and the types that are made of it.
pub fn tracefs(bytes: &[u8]) {
    // As it is read: what is not UTF-8 is no format.
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let fields = formats::parse(text);
    formats::parse_symbols(text, "reason");
    for field in &fields {
        field.declaration();
    }
    let mut types = Records::new().expect("memory");
    if types.add_record("event", &fields).is_ok() {
        let made = Types::new(types.bytes()).expect("libbpf's own types are read");
        let (_, record) = made
            .find(Kind::Struct, "record_event")
            .expect("what was added");
        assert_eq!(record.tail::<3>().count(), fields.len());
    }
}

/// /proc/kallsyms.
pub fn kallsyms(bytes: &[u8]) {
    let symbols = Symbols::read(bytes);
    for address in [0, 1, 0xffff_ffff_8100_0000, u64::MAX] {
        if let Some((name, offset)) = symbols.find(address) {
            assert!(!name.is_empty() && offset <= address);
        }
    }
}

/// Counters, sockets and cgroups in /proc, and what namespaces are told of them.
pub fn proc_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut sum = 0u64;
    let mut note = |name: &str, value: u64| {
        sum = sum.wrapping_add(value);
        assert!(!name.is_empty());
    };
    parse::pairs(&text, &mut note);
    parse::lines(&text, &mut note);
    parse::softnet(&text);
    block::decode(&text);
    for line in text.lines() {
        owners::line(line);
    }
    let cgroups = Cgroups::parse(bytes);
    for path in [cgroups.unified, cgroups.v1].into_iter().flatten() {
        let names = names::names(&path);
        names.pod.map(names::pod_uid);
        names.container.map(<[u8]>::len);
    }
}

/// What libbpf reads of an ELF file it reads with libelf, of which a fuzzer would find more than of us.
const ELF: &[u8] = b"\x7fELF";

/// A file of `--btf`: as it is checked, as fields are compared, and as ours and libbpf's types.
pub fn btf(bytes: &[u8]) {
    if bytes.starts_with(ELF) {
        return;
    }
    if let Some(types) = Types::new(bytes) {
        for one in types.iter() {
            types.name(one.name);
        }
        for (name, number) in types.named() {
            assert!(types.get(*number).is_some_and(|one| one.name == *name));
        }
        let part = subset::whole(bytes).expect("they were read before");
        Types::new(part.as_slice()).expect("a part of types is types");
    }
    let file = in_memory(bytes);
    let path = trust::path_of(&file);
    let release = file::release().unwrap_or_default();
    let _ = file::said(Path::new("kernel.bin"), &file, &release);
    let Ok(btf) = Btf::from_path(&path) else {
        return;
    };
    let types = KernelTypes::new(btf);
    types.size_of("tcp_sock");
    let events: Vec<_> = types.events().map(str::to_owned).collect();
    for event in events.iter().take(64) {
        types.arguments(event);
        for field in types.fields(event).unwrap_or_default() {
            field.declaration();
        }
    }
    for class in ["inet_sock_set_state", "tcp_event_sk_skb", "a"] {
        let fields = types.fields(class).unwrap_or_default();
        let _ = file::alike(&fields, &fields);
    }
    if let Ok(mut records) = Records::read(&path) {
        let _ = records.add_record("event", &types.fields("a").unwrap_or_default());
        records.bytes();
    }
}

fn in_memory(bytes: &[u8]) -> File {
    let file = memfd_create(c"fuzz", MFdFlags::MFD_CLOEXEC).expect("memory");
    let mut file = File::from(file);
    file.write_all(bytes).expect("memory");
    file
}
