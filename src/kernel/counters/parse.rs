// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's tables of counters. Their names come from the tables themselves, so what a newer kernel counts is read too.

/// Calls `each` with the name of every counter of /proc/net/snmp or /proc/net/netstat, and its value. Both are pairs of
/// lines: `Udp: InDatagrams NoPorts ...`, then the values. The name is nstat(8)'s: `UdpNoPorts`. What is negative
/// is no counter.
pub(crate) fn pairs(text: &str, mut each: impl FnMut(&str, u64)) {
    let mut lines = text.lines().peekable();
    let mut full = String::new();
    while let Some((group, names)) = lines.next().map(split) {
        let Some((_, values)) = lines
            .peek()
            .map(|line| split(line))
            .filter(|l| l.0 == group)
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                full.clear();
                full.push_str(group);
                full.push_str(name);
                each(&full, value);
            }
        }
        lines.next();
    }
}

fn split(line: &str) -> (&str, &str) {
    line.split_once(':').unwrap_or((line, ""))
}

/// The same of /proc/net/snmp6, and of our own blocks: a name and a value a line.
pub(crate) fn lines(text: &str, mut each: impl FnMut(&str, u64)) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
            each(name, value);
        }
    }
}

/// What a CPU counts in /proc/net/softnet_stat (net/core/net-procfs.c: softnet_seq_show).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Softnet {
    /// Its number; before 5.10 the number of its line.
    pub cpu: usize,
    /// Packets dropped because its backlog was full: 32 bits.
    pub dropped: u32,
    /// Those of `dropped`'s kind that belong to large flows (net.core.flow_limit_cpu_bitmap): 32 bits.
    pub flow_limit: u32,
}

/// Hexadecimal numbers without names, a line per CPU.
pub(crate) fn softnet(text: &str) -> Vec<Softnet> {
    let line = |(number, line): (usize, &str)| {
        let words = line.split_whitespace();
        let words: Vec<_> = words
            .map_while(|word| u32::from_str_radix(word, 16).ok())
            .collect();
        Some(Softnet {
            cpu: words.get(12).map_or(number, |&cpu| cpu as usize),
            dropped: *words.get(1)?,
            flow_limit: words.get(10).copied().unwrap_or(0),
        })
    };
    text.lines().enumerate().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(read: impl Fn(&str, &mut dyn FnMut(&str, u64)), text: &str) -> Vec<(String, u64)> {
        let mut all = Vec::new();
        read(text, &mut |name, value| all.push((name.to_owned(), value)));
        all
    }

    #[test]
    fn names_are_those_of_the_table() {
        let text = "Tcp: RtoMin MaxConn InSegs\nTcp: 200 -1 7\nUdp: NoPorts Brand_New\nUdp: 3 18446744073709551615\n";
        let read = all(|text, each| pairs(text, each), text);
        let expected = [
            ("TcpRtoMin", 200),
            ("TcpInSegs", 7),
            ("UdpNoPorts", 3),
            ("UdpBrand_New", u64::MAX),
        ];
        assert_eq!(read, expected.map(|(name, n)| (name.to_owned(), n)));
    }

    #[test]
    fn unpaired_line_moves_nothing() {
        let text = "Odd: A B\nUdp: NoPorts\nUdp: 3\nTcp: InSegs\n\nnothing";
        let read = all(|text, each| pairs(text, each), text);
        assert_eq!(read, [("UdpNoPorts".to_owned(), 3)]);
    }

    #[test]
    fn snmp6_has_a_counter_a_line() {
        let text = "Udp6RcvbufErrors                \t12\nbroken\nUdp6MemErrors x\n";
        let read = all(|text, each| lines(text, each), text);
        assert_eq!(read, [("Udp6RcvbufErrors".to_owned(), 12)]);
    }

    #[test]
    fn softnet_is_hexadecimal_per_cpu() {
        let new =
            "061e7277 0000000a 00000009 0 0 0 0 0 0 00000000 00000002 00000000 00000005 0 0\n";
        let old = "061e7277 ffffffff 00000009\n00000000 00000001 0\n";
        let of = |cpu, dropped, flow_limit| Softnet {
            cpu,
            dropped,
            flow_limit,
        };
        assert_eq!(softnet(new), [of(5, 10, 2)]);
        assert_eq!(softnet(old), [of(0, u32::MAX, 0), of(1, 1, 0)]);
        assert_eq!(softnet("x\n"), []);
    }
}
