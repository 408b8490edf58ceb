// SPDX-License-Identifier: MIT OR Apache-2.0
//! One value of a row, and how each output format writes it.

use std::fmt::Arguments;
use std::io::Write;

use crate::abi::types::trim_nul;
use crate::kernel::symbols;
use crate::output::address::{Address, Link};
use crate::output::digits::{self, append, integer};
use crate::output::escape;
use crate::output::whose::Whose;

/// A value with its unit; the format decides how the unit is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// Not known: `-`, an empty CSV field, or JSON's `null`.
    Unknown,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a unit.
    Int(u64),
    /// Text of our own or the kernel's.
    Text(&'a str),
    /// A kernel address: hexadecimal, as a string in JSON, whose numbers are not exact so far up.
    Hex(u64),
    /// A name that a process chose, [escaped](escape::name) as `--comm` takes it.
    Comm(&'a [u8]),
    /// The same, padded with zeros, where it is not the row's own.
    Name([u8; 16]),
    /// Such a process: its PID (0: unknown) and its name.
    Process(u32, [u8; 16]),
    /// An address.
    Addr(Address),
    /// The name of a link: not known in other network namespaces.
    Link(Link),
    /// Bytes: KiB for people, bytes in JSON.
    Bytes(u64),
    /// Microseconds: ms for people, µs in JSON.
    Micros(u64),
    /// A lower bound of microseconds.
    MicrosAtLeast(u64),
    /// Bytes per second: Mbit/s for people, bytes/s in JSON.
    Rate(u64),
    /// A number that may be negative.
    Signed(i64),
    /// An address with its port, for a table.
    Endpoint(Address, u16),
    /// A share of a hundred.
    Percent(f64),
    /// A number with decimals, without a unit.
    Number(f64),
    /// The flags of a TCP header, as `SYN|ACK`.
    TcpFlags(u16),
    /// Whose the socket is.
    Whose(Whose),
    /// A kernel stack, innermost first, up to its first zero: a line per function in a table.
    Stack(&'a [u64]),
}

/// The bits of a TCP header's flags (RFC 9293, 3168, 9768), from the lowest.
const TCP_FLAGS: [&str; 9] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "AE"];

impl Value<'_> {
    /// Whether it is shown in ASCII for sure, a byte a character: numbers and addresses are.
    pub fn is_ascii(&self) -> bool {
        match *self {
            Self::Text(_) | Self::Comm(_) | Self::Name(_) | Self::Process(..) => false,
            Self::Link(_) | Self::Stack(_) => false,
            Self::Addr(address) | Self::Endpoint(address, _) => !address.has_link(),
            _ => true,
        }
    }

    /// As a table shows it: at most five characters for a measure below 100,000.
    pub fn table(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Unknown => append::all(out, b"-"),
            Self::Bytes(bytes) => short(out, bytes as f64 / 1024.0),
            Self::Micros(us) => short(out, us as f64 / 1e3),
            Self::MicrosAtLeast(us) => {
                out.push(b'>');
                short(out, us as f64 / 1e3);
            }
            Self::Rate(bytes) => short(out, bytes as f64 * 8.0 / 1e6),
            Self::Percent(value) | Self::Number(value) => short(out, value),
            Self::Stack(stack) => {
                frames(stack, |_, frame| print(out, format_args!("\n    {frame}")))
            }
            _ => self.plain(out),
        }
    }

    /// As a field of a CSV record (RFC 4180): JSON's value, without quotes that are not needed; empty where it is not
    /// known.
    #[inline]
    pub fn csv(&self, out: &mut Vec<u8>) {
        match *self {
            // As in JSON.
            Self::Int(n)
            | Self::Bytes(n)
            | Self::Micros(n)
            | Self::MicrosAtLeast(n)
            | Self::Rate(n) => integer(out, n),
            Self::Unknown => {}
            _ => self.csv_of_others(out),
        }
    }

    fn csv_of_others(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Addr(address) if !address.has_link() => address.write(out),
            Self::Stack(_)
            | Self::Whose(_)
            | Self::Name(_)
            | Self::Process(..)
            | Self::Text(_)
            | Self::Comm(_)
            | Self::Addr(_)
            | Self::Link(_) => {
                let start = out.len();
                self.bare(out);
                quote(out, start);
            }
            _ => self.plain(out),
        }
    }

    /// As CSV has it, without quotes: nothing where it is not known.
    pub fn bare(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Stack(stack) => frames(stack, |first, frame| {
                print(out, format_args!("{}{frame}", if first { "" } else { ";" }));
            }),
            Self::Link(link) if link.name().is_none() => {}
            Self::Whose(whose) => whose.with(|text| {
                out.extend_from_slice(text.map_or("", |text| &text.plain).as_bytes());
            }),
            _ => match self.number() {
                Some(number) => integer(out, number),
                None => self.plain(out),
            },
        }
    }

    /// The number, if it is one without decimals and sign, in base units.
    pub fn number(&self) -> Option<u64> {
        match *self {
            Self::Int(n)
            | Self::Bytes(n)
            | Self::Micros(n)
            | Self::MicrosAtLeast(n)
            | Self::Rate(n) => Some(n),
            _ => None,
        }
    }

    /// As a JSON value, in base units.
    #[inline]
    pub fn json(&self, out: &mut Vec<u8>) {
        match *self {
            // Most of a row: the call of what writes all others costs more than their digits.
            Self::Int(n)
            | Self::Bytes(n)
            | Self::Micros(n)
            | Self::MicrosAtLeast(n)
            | Self::Rate(n) => integer(out, n),
            Self::Unknown => append::all(out, b"null"),
            _ => self.json_of_others(out),
        }
    }

    fn json_of_others(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Text(text) => escape::json(out, text),
            Self::Link(link) => match link.name() {
                Some(name) => escape::json(out, &name),
                None => append::all(out, b"null"),
            },
            Self::Whose(whose) => whose.with(|text| {
                out.extend_from_slice(text.map_or("null", |text| &text.json).as_bytes());
            }),
            Self::Comm(_) | Self::Name(_) | Self::Process(..) => {
                escape::json_of(out, |out| self.plain(out));
            }
            Self::Addr(address) | Self::Endpoint(address, _) if address.has_link() => {
                escape::json_of(out, |out| self.plain(out));
            }
            Self::Hex(_) | Self::Addr(_) | Self::Endpoint(..) | Self::TcpFlags(_) => {
                append::all(out, b"\"");
                self.plain(out);
                append::all(out, b"\"");
            }
            Self::Stack(stack) => {
                out.push(b'[');
                frames(stack, |first, frame| {
                    if !first {
                        out.push(b',');
                    }
                    escape::json(out, frame);
                });
                out.push(b']');
            }
            _ => self.plain(out),
        }
    }

    fn plain(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Bool(true) => append::all(out, b"true"),
            Self::Bool(false) => append::all(out, b"false"),
            Self::Int(value) => integer(out, value),
            Self::Text(text) => out.extend_from_slice(escape::text(text).as_bytes()),
            Self::Hex(value) => print(out, format_args!("{value:x}")),
            Self::Comm(bytes) => escape::name(out, bytes),
            Self::Name(bytes) => escape::name(out, trim_nul(&bytes)),
            Self::Process(pid, bytes) => {
                match pid {
                    0 => out.push(b'-'),
                    _ => integer(out, pid.into()),
                }
                out.push(b'/');
                escape::name(out, trim_nul(&bytes));
            }
            Self::Addr(addr) => addr.write(out),
            Self::Signed(value) => print(out, format_args!("{value}")),
            Self::Endpoint(addr, port) => addr.write_with_port(out, port),
            Self::Link(link) => match link.name() {
                Some(name) => out.extend_from_slice(name.as_bytes()),
                None => Self::Unknown.table(out),
            },
            Self::Whose(whose) => whose.with(|text| {
                out.extend_from_slice(text.map_or("-", |text| &text.plain).as_bytes());
            }),
            Self::Percent(value) | Self::Number(value) => decimal(out, value),
            Self::TcpFlags(flags) => tcp_flags(out, flags),
            _ => {}
        }
    }
}

fn tcp_flags(out: &mut Vec<u8>, flags: u16) {
    let set = |&(bit, _): &(usize, &&str)| flags >> bit & 1 != 0;
    for (n, (_, name)) in TCP_FLAGS.iter().enumerate().filter(set).enumerate() {
        print(out, format_args!("{}{name}", if n == 0 { "" } else { "|" }));
    }
}

/// Calls `each` with whether a frame of a stack is the first, and its text: a module may call its functions anything.
pub fn frames(stack: &[u64], mut each: impl FnMut(bool, &str)) {
    for (n, frame) in symbols::frames(stack).enumerate() {
        each(n == 0, &escape::text(&frame.to_string()));
    }
}

/// Writing to memory does not fail.
fn print(out: &mut Vec<u8>, args: Arguments<'_>) {
    let _ = out.write_fmt(args);
}

/// Three decimals, or as many as it takes for three digits: a small value is not nothing.
fn decimal(out: &mut Vec<u8>, value: f64) {
    let decimals = match value {
        v if v > 0.0 && v < 0.001 => (2.0 - v.log10().floor()).min(300.0) as usize,
        _ => 3,
    };
    digits::decimal(out, value, decimals);
}

/// A measure with as many decimals as five characters hold. What these cannot show is still not nothing.
fn short(out: &mut Vec<u8>, value: f64) {
    if value > 0.0 && value < 0.0005 {
        return out.extend_from_slice(b"<.001");
    }
    let decimals = match value {
        v if v < 9.9995 => 3,
        v if v < 99.995 => 2,
        v if v < 999.95 => 1,
        _ => 0,
    };
    digits::decimal(out, value, decimals);
}

/// Quotes the CSV field that begins at `start`, if it needs quotes.
fn quote(out: &mut Vec<u8>, start: usize) {
    let field = out.get(start..).unwrap_or_default();
    if !field.iter().any(|b| b",\"\r\n".contains(b)) {
        return;
    }
    let field = field.to_vec();
    out.truncate(start);
    out.push(b'"');
    for byte in field {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: Value<'_>) -> [String; 3] {
        let mut outs = [vec![], vec![], vec![]];
        value.table(&mut outs[0]);
        value.csv(&mut outs[1]);
        value.json(&mut outs[2]);
        outs.map(|o| String::from_utf8(o).unwrap())
    }

    #[test]
    fn table_scales_units_and_json_does_not() {
        assert_eq!(shown(Value::Bytes(1536)), ["1.500", "1536", "1536"]);
        assert_eq!(shown(Value::Micros(123_456)), ["123.5", "123456", "123456"]);
        assert_eq!(
            shown(Value::MicrosAtLeast(2_000_000)),
            [">2000", "2000000", "2000000"]
        );
        assert_eq!(
            shown(Value::Rate(1_250_000)),
            ["10.00", "1250000", "1250000"]
        );
        assert_eq!(shown(Value::Unknown), ["-", "", "null"]);
    }

    #[test]
    fn tcp_flags_endpoints_and_stacks_are_text() {
        assert_eq!(shown(Value::TcpFlags(0x12))[2], r#""SYN|ACK""#);
        assert_eq!(shown(Value::TcpFlags(0x100))[0], "AE");
        let v6 = Value::Endpoint(
            "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().into(),
            80,
        );
        assert_eq!(shown(v6)[0], "[2001:db8::1]:80");
        assert_eq!(shown(Value::Signed(-16)), ["-16", "-16", "-16"]);
        assert_eq!(shown(Value::Percent(12.5)), ["12.50", "12.500", "12.500"]);
        let stack = shown(Value::Stack(&[16, 32, 0, 48]));
        assert_eq!(
            stack,
            ["\n    0x10\n    0x20", "0x10;0x20", r#"["0x10","0x20"]"#]
        );
    }

    #[test]
    fn small_values_are_not_zero() {
        for (value, table, json) in [
            (0.0, "0.000", "0.000"),
            (2.0 / 7.0, "0.286", "0.286"),
            (0.0005, "0.001", "0.000500"),
            (0.000_123_4, "<.001", "0.000123"),
            (1e-9, "<.001", "0.00000000100"),
        ] {
            for shown in [shown(Value::Number(value)), shown(Value::Percent(value))] {
                assert_eq!(shown, [table, json, json]);
            }
        }
        assert_eq!(shown(Value::Rate(50))[0], "<.001");
        assert_eq!(shown(Value::Bytes(1))[0], "0.001");
    }

    #[test]
    fn values_to_99999_fit_five_characters() {
        for value in [
            0.0, 1e-300, 0.0005, 0.001, 9.9994, 9.9996, 99.994, 99.996, 999.94, 999.96, 99_999.0,
        ] {
            let mut out = vec![];
            short(&mut out, value);
            assert!(
                out.len() <= 5,
                "{value} is {}",
                String::from_utf8(out).unwrap()
            );
        }
    }

    #[test]
    fn control_bytes_are_escaped() {
        let evil = Value::Comm(b"\x1b[31mE\x9b\xc2\x9b\n\\,\"");
        let [table, csv, json] = shown(evil);
        assert_eq!(table, r#"\x1b[31mE\x9b\xc2\x9b\x0a\\\x2c""#);
        assert_eq!(csv, r#""\x1b[31mE\x9b\xc2\x9b\x0a\\\x2c""""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), table);
        assert_eq!(shown(Value::Comm("Сервер".as_bytes()))[0], "Сервер");
    }
}
