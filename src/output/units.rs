// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values from the fields of a record: numbers, text, an `Option` of these, with or without a unit.

use crate::abi::types::trim_nul;
use crate::kernel::clock::jiffy_us;
use crate::output::{address::Address, value::Value};

/// A number of a record, or none.
pub trait Number {
    /// The number; 0 for a negative one.
    fn number(self) -> Option<u64>;
}

impl<N: Number> Number for Option<N> {
    fn number(self) -> Option<u64> {
        self.and_then(N::number)
    }
}

/// Makes integers [`Number`]s, and values without a unit.
macro_rules! integers {
    ($($type:ty: $value:ident, $number:expr;)*) => {$(
        impl Number for $type {
            fn number(self) -> Option<u64> {
                Some($number(self) as u64)
            }
        }

        impl From<$type> for Value<'_> {
            fn from(value: $type) -> Self {
                Self::$value(value.into())
            }
        }
    )*};
}
integers! {
    u8: Int, u64::from;
    u16: Int, u64::from;
    u32: Int, u64::from;
    u64: Int, u64::from;
    i32: Signed, |n: i32| n.max(0);
    i64: Signed, |n: i64| n.max(0);
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<Address> for Value<'_> {
    fn from(address: Address) -> Self {
        Self::Addr(address)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Unknown, T::into)
    }
}

/// A time in jiffies, for a column; `u32::MAX`: not known.
pub fn jiffies(jiffies: u32) -> Value<'static> {
    micros(unless(jiffies, u32::MAX).map(|jiffies| u64::from(jiffies) * jiffy_us()))
}

/// `None` for the number that stands for an unknown one.
pub fn unless<T: PartialEq>(value: T, unknown: T) -> Option<T> {
    (value != unknown).then_some(value)
}

/// Bytes.
pub fn bytes(bytes: impl Number) -> Value<'static> {
    bytes.number().map(Value::Bytes).into()
}

/// Microseconds.
pub fn micros(us: impl Number) -> Value<'static> {
    us.number().map(Value::Micros).into()
}

/// Microseconds; at least so many where the beginning was not seen.
pub fn micros_since(us: impl Number, partial: bool) -> Value<'static> {
    let value = if partial {
        Value::MicrosAtLeast
    } else {
        Value::Micros
    };
    us.number().map(value).into()
}

/// Bytes per second.
pub fn rate(bytes: impl Number) -> Value<'static> {
    bytes.number().map(Value::Rate).into()
}

/// Bytes in so many microseconds as bytes per second; unknown for an interval of 0.
pub fn per_second(bytes: u64, interval_us: u64) -> Value<'static> {
    let rate = u128::from(bytes).saturating_mul(1_000_000);
    let rate = rate.checked_div(interval_us.into());
    rate.map(|rate| Value::Rate(u64::try_from(rate).unwrap_or(u64::MAX)))
        .into()
}

/// A name as the kernel pads it with NUL bytes: of a congestion control; `None` for an empty one.
pub fn kernel_name(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(trim_nul(bytes))
        .ok()
        .filter(|name| !name.is_empty())
}

/// The last measured delivery rate in bytes per second, as `net/ipv4/tcp.c: tcp_compute_delivery_rate` has it, from
/// packets, the segment size in bytes and microseconds; `None` where none was measured.
pub fn delivery_rate(delivered: u32, mss: u32, interval_us: u32) -> Option<u64> {
    let bytes = u128::from(delivered).saturating_mul(mss.into());
    let rate = bytes
        .saturating_mul(1_000_000)
        .checked_div(interval_us.into())?;
    u64::try_from(rate).ok().filter(|&rate| rate != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_has_no_unit_and_what_is_negative_is_none_of_it() {
        assert_eq!(Value::from(unless(7_u8, 7)), Value::Unknown);
        assert_eq!(Value::from(unless(8_u8, 7)), Value::Int(8));
        assert_eq!(Value::from(-8), Value::Signed(-8));
        assert_eq!((bytes(-8), rate(8_u16)), (Value::Bytes(0), Value::Rate(8)));
        assert_eq!(per_second(500, 250_000), Value::Rate(2000));
        assert_eq!(per_second(500, 0), Value::Unknown);
        assert_eq!(micros(None::<u32>), Value::Unknown);
        assert_eq!(micros_since(8_u64, false), Value::Micros(8));
        assert_eq!(micros_since(8_u64, true), Value::MicrosAtLeast(8));
    }
}
