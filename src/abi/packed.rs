// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF objects as a release has them in its binaries: compressed, or they were a fifth of each (`build.rs`).

use std::sync::OnceLock;

/// A compressed object, and the object once somebody has asked for it.
pub struct Packed {
    deflated: &'static [u8],
    object: OnceLock<Vec<u8>>,
}

impl Packed {
    /// `deflated`: a zlib stream that `build.rs` made.
    pub const fn new(deflated: &'static [u8]) -> Self {
        Self {
            deflated,
            object: OnceLock::new(),
        }
    }

    /// The object; nothing, which libbpf refuses, if the stream is damaged.
    pub fn object(&'static self) -> &'static [u8] {
        self.object.get_or_init(|| {
            miniz_oxide::inflate::decompress_to_vec_zlib(self.deflated).unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// zlib's stream of `abc`, stored.
    const ABC: [u8; 14] = [
        0x78, 0x01, 1, 3, 0, 0xfc, 0xff, b'a', b'b', b'c', 0x02, 0x4d, 0x01, 0x27,
    ];

    #[test]
    fn packing_round_trips() {
        static PACKED: Packed = Packed::new(&ABC);
        assert_eq!(PACKED.object(), b"abc");
        assert_eq!(PACKED.object(), b"abc");
    }

    #[test]
    fn damaged_object_is_rejected() {
        static PACKED: Packed = Packed::new(&[0x78, 0x01, 1, 3, 0, 0xfc]);
        assert_eq!(PACKED.object(), b"");
    }
}
