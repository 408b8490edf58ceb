// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes and file names of a recording.

use std::path::{Path, PathBuf};

/// `500K`, `64M`, `1G`, or a number of bytes; at least 64 KiB.
///
/// # Errors
/// A message for the user.
pub fn size(text: &str) -> Result<u64, String> {
    const LEAST: u64 = 64 << 10;
    let split = text.find(|c: char| c.is_ascii_alphabetic());
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        _ => return Err(format!("'{unit}' is not a unit of size (K, M, G)")),
    };
    let number = number.parse::<u64>();
    let number = number.map_err(|_| format!("'{text}' is not a size (64M, 1G)"))?;
    let bytes = number.checked_mul(1 << shift);
    let bytes = bytes.ok_or_else(|| format!("'{text}' is too large"))?;
    match bytes < LEAST {
        true => Err("must be at least 64K".into()),
        false => Ok(bytes),
    }
}

/// The name of the nth file of a run: `tcp.jsonl.gz`, `tcp-2.jsonl.gz`.
pub fn numbered(path: &Path, n: u64) -> PathBuf {
    let Some(name) = path.file_name().filter(|_| n > 1) else {
        return path.to_owned();
    };
    let name = name.to_string_lossy();
    // A name may begin with a dot.
    let at = name.char_indices().skip(1).find(|(_, c)| *c == '.');
    let (stem, end) = name.split_at(at.map_or(name.len(), |(at, _)| at));
    path.with_file_name(format!("{stem}-{n}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64K"), Ok(65536));
        assert_eq!(size("2m"), Ok(2 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("100000"), Ok(100_000));
        for (text, why) in [
            ("", "not a size"),
            ("1", "at least 64K"),
            ("5T", "'T'"),
            ("x", "'x'"),
            ("99999999999G", "too large"),
            ("1.5G", "'1.5G'"),
        ] {
            assert!(size(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn later_files_have_numbers() {
        let name = |path, n| numbered(Path::new(path), n).display().to_string();
        assert_eq!(name("/a/tcp.jsonl.gz", 1), "/a/tcp.jsonl.gz");
        assert_eq!(name("/a/tcp.jsonl.gz", 2), "/a/tcp-2.jsonl.gz");
        assert_eq!(name("x", 3), "x-3");
        assert_eq!(name(".x.gz", 3), ".x-3.gz");
    }
}
