// SPDX-License-Identifier: MIT OR Apache-2.0
//! gzip (RFC 1952): a file is any number of members, one after another, each complete in itself.

use std::io::{self, BufRead, ErrorKind, Read};

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};

/// What each member begins with.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Deflate, no flags, no time, no name, of Unix.
const HEADER: [u8; 10] = [MAGIC[0], MAGIC[1], 8, 0, 0, 0, 0, 0, 0, 3];

/// Fast: rows are so much alike that more effort saves little.
const LEVEL: u8 = 3;

/// Whether these are the first bytes of a file of gzip's.
pub fn is_it(begin: &[u8]) -> bool {
    begin.starts_with(&MAGIC)
}

/// A member with these bytes.
pub fn member(bytes: &[u8]) -> Vec<u8> {
    let mut all = HEADER.to_vec();
    all.extend(compress_to_vec(bytes, LEVEL));
    all.extend(crc32(bytes).to_le_bytes());
    all.extend((bytes.len() as u32).to_le_bytes());
    all
}

/// The polynomial of RFC 1952, bits reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < table.len() {
        let (mut word, mut bit) = (n as u32, 0);
        while bit < 8 {
            word = (word >> 1) ^ (POLYNOMIAL * (word & 1));
            bit += 1;
        }
        table[n] = word;
        n += 1;
    }
    table
};

fn crc32(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(!0, next)
}

/// Reads what members hold. A file that ends in the middle of one, as a killed command leaves it, ends there.
pub struct Reader<R> {
    inner: R,
    state: Box<InflateState>,
    within: bool,
}

impl<R: BufRead> Reader<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            state: InflateState::new_boxed(DataFormat::Raw),
            within: false,
        }
    }

    /// Skips the head of a member. `false`: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        let mut head = [0; HEADER.len()];
        if !self.fill(&mut head)? {
            return Ok(false);
        }
        if !is_it(&head) || head[2] != HEADER[2] {
            return Err(io::Error::new(ErrorKind::InvalidData, "not gzip's"));
        }
        let flags = head[3];
        if flags & 4 != 0 {
            let mut length = [0; 2];
            let whole = self.fill(&mut length)?;
            let mut extra = vec![0; usize::from(u16::from_le_bytes(length))];
            if !whole || !self.fill(&mut extra)? {
                return Ok(false);
            }
        }
        for text in [8, 16] {
            if flags & text != 0 {
                self.inner.skip_until(0)?;
            }
        }
        if flags & 2 != 0 && !self.fill(&mut [0; 2])? {
            return Ok(false);
        }
        self.state = InflateState::new_boxed(DataFormat::Raw);
        self.within = true;
        Ok(true)
    }

    /// `false`: it ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        match self.inner.read_exact(bytes) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            result => result.map(|()| true),
        }
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            let input = self.inner.fill_buf()?;
            let is_end = input.is_empty();
            let done = inflate(&mut self.state, input, out, MZFlush::None);
            self.inner.consume(done.bytes_consumed);
            match done.status {
                Ok(MZStatus::StreamEnd) => {
                    self.within = false;
                    self.fill(&mut [0; 8])?;
                }
                _ if done.bytes_written > 0 => {}
                _ if is_end => return Ok(0),
                Ok(_) => {}
                Err(_) if done.bytes_consumed > 0 => {}
                Err(_) => return Err(io::Error::new(ErrorKind::InvalidData, "damaged")),
            }
            if done.bytes_written > 0 {
                return Ok(done.bytes_written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Reader::new(bytes).read_to_end(&mut all).map(|_| all)
    }

    #[test]
    fn members_are_read_one_after_another() {
        let long: Vec<u8> = (0..200_000u32)
            .map(|n| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        let all = [member(b"one\n"), member(b""), member(&long)].concat();
        assert_eq!(read(&all).unwrap(), [b"one\n", &long[..]].concat());
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_cut_ends_there() {
        let all = [member(b"one\n"), member(&[b'x'; 5000])].concat();
        for end in member(b"one\n").len()..all.len() {
            assert!(read(&all[..end]).unwrap().starts_with(b"one\n"), "{end}");
        }
    }

    #[test]
    fn heads_of_gzip_itself_are_read() {
        // printf 'a\n' | gzip -N, of a file "n"
        let mut named = HEADER.to_vec();
        named[3] = 8;
        named.extend(b"n\0");
        named.extend(&member(b"a\n")[HEADER.len()..]);
        assert_eq!(read(&named).unwrap(), b"a\n");
        assert!(read(b"not of gzip at all").is_err());
    }
}
