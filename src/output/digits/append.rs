// SPDX-License-Identifier: MIT OR Apache-2.0
//! Short texts at the end of a row. A call of memcpy for each costs more than the few bytes that most have: here as many
//! bytes as fit are copied, by an instruction or two, and those behind the text are not counted.

/// Adds the first `len` of these bytes: all of them, if it is more.
#[inline(always)]
pub fn first<const N: usize>(out: &mut Vec<u8>, bytes: &[u8; N], len: usize) {
    out.reserve(N);
    let end = out.len();
    // SAFETY: there is room for N bytes behind the last one, all of them are written, and no more are counted. An array of
    // bytes may lie anywhere.
    unsafe {
        out.as_mut_ptr().add(end).cast::<[u8; N]>().write(*bytes);
        out.set_len(end + len.min(N));
    }
}

/// Adds all of these bytes.
#[inline(always)]
pub fn all<const N: usize>(out: &mut Vec<u8>, bytes: &[u8; N]) {
    first(out, bytes, N);
}

/// Adds so many blanks.
#[inline(always)]
pub fn blanks(out: &mut Vec<u8>, count: usize) {
    const SOME: [u8; 16] = [b' '; 16];
    match count {
        0..=16 => first(out, &SOME, count),
        _ => out.resize(out.len() + count, b' '),
    }
}

/// A text that many rows have.
pub struct Piece {
    text: String,
    /// Its beginning.
    first: [u8; 32],
}

impl Piece {
    /// Of this text.
    pub fn new(text: String) -> Self {
        let mut first = [0; 32];
        first
            .iter_mut()
            .zip(text.bytes())
            .for_each(|(to, byte)| *to = byte);
        Self { text, first }
    }

    /// Adds it.
    #[inline(always)]
    pub fn add(&self, out: &mut Vec<u8>) {
        match self.text.len() {
            len @ 0..=32 => first(out, &self.first, len),
            _ => out.extend_from_slice(self.text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever room there is.
        #[test]
        fn what_is_added_is_all_that_is_added(before in ".{0,20}", text in ".{0,70}", bytes: [u8; 32], len in 0..=40_usize, blank in 0..=40_usize) {
            let mut out = before.clone().into_bytes();
            out.shrink_to_fit();
            let mut expected = out.clone();

            Piece::new(text.clone()).add(&mut out);
            expected.extend_from_slice(text.as_bytes());
            prop_assert_eq!(&out, &expected);

            first(&mut out, &bytes, len);
            expected.extend_from_slice(&bytes[..len.min(32)]);
            prop_assert_eq!(&out, &expected);

            all(&mut out, &bytes);
            expected.extend_from_slice(&bytes);
            prop_assert_eq!(&out, &expected);

            blanks(&mut out, blank);
            expected.resize(expected.len() + blank, b' ');
            prop_assert_eq!(&out, &expected);
        }
    }
}
