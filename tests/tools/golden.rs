// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written compared with files in `tests/golden/`. After a wanted change: `UPDATE_GOLDEN=1 cargo test golden`.

use std::{env, fs, path::Path};

/// Fails, with the lines that differ, unless the file has this text.
pub fn check(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("written");
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == text,
        "tests/golden/{file} differs (UPDATE_GOLDEN=1 cargo test golden):\n{}",
        difference(&golden, text)
    );
}

/// The lines between the first and the last that differ: `-` before those of the file, `+` before the new ones.
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let same =
        |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let head = same(&mut old.iter().zip(&new));
    let tail = same(&mut old[head..].iter().rev().zip(new[head..].iter().rev()));
    let lines = |sign, of: &[&str]| -> String {
        let of = &of[head..of.len() - tail];
        of.iter().map(|line| format!("{sign}{line}\n")).collect()
    };
    format!(
        "@@ line {} @@\n{}{}",
        head + 1,
        lines('-', &old),
        lines('+', &new)
    )
}
