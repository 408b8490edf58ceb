// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles every `src/bpf/<stem>.bpf.c`, and those of `src/bpf/support/`, into `$OUT_DIR/<stem>.skel.rs`; there is no list to edit.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;
use miniz_oxide::deflate::compress_to_vec_zlib;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let lean = env::var("PROFILE")? == "release";
    // The directory: a change in any header rebuilds every object that may include it.
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let commands = fs::read_dir("src/bpf")?;
    for entry in commands.chain(fs::read_dir("src/bpf/support")?) {
        let source = entry?.path();
        let Some(stem) = source
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".bpf.c"))
        else {
            continue;
        };
        let mut object = out.join(format!("{stem}.o"));
        SkeletonBuilder::new()
            .source(&source)
            .obj(&object)
            .clang_args([
                "-Wall",
                "-Wextra",
                // A record without padding has no byte that its program does not write.
                "-Wpadded",
                "-Wno-unused-parameter",
                "-Werror",
                "-Isrc/bpf/common",
            ])
            .build()
            .with_context(|| format!("{} does not compile", source.display()))?;
        if lean {
            object = without_lines(&object, &out.join("lean"))?;
        }
        let skeleton = out.join(format!("{stem}.skel.rs"));
        SkeletonBuilder::new()
            .obj(&object)
            .reference_obj(true)
            // Nobody reads it, and rustup's minimal profile has a rustfmt that fails. One that does not exist is left out.
            .rustfmt(out.join("no-rustfmt"))
            .generate(&skeleton)?;
        if lean {
            pack(&skeleton, &object)?;
        }
    }
    Ok(())
}

/// The object without its source lines, which only the verifier's log shows: they are a third of it, and the kernel
/// would check them at every start. Says where.
fn without_lines(object: &Path, dir: &Path) -> Result<PathBuf> {
    let mut bytes = fs::read(object)?;
    hide_lines(&mut bytes).with_context(|| format!("{}: no line information", object.display()))?;
    fs::create_dir_all(dir)?;
    let name = object.file_name().context("no name")?;
    let hidden = dir.join(name).with_extension("hidden.o");
    fs::write(&hidden, bytes)?;
    // The linker writes only what is still referred to: the lines' texts are not.
    let lean = dir.join(name);
    let mut linker = Linker::new(&lean)?;
    linker.add_file(&hidden)?;
    linker.link()?;
    Ok(lean)
}

/// Makes a skeleton take its object from a compressed copy, `Packed` of src/abi/packed.rs.
fn pack(skeleton: &Path, object: &Path) -> Result<()> {
    let packed = object.with_extension("z");
    fs::write(&packed, compress_to_vec_zlib(&fs::read(object)?, 9))?;
    let text = fs::read_to_string(skeleton)?;
    let parts = text
        .split_once("static DATA: ")
        .and_then(|(before, data)| Some((before, data.split_once(';')?.1.split_once(';')?.1)));
    let (before, after) = parts.context("libbpf-cargo writes skeletons in another way")?;
    let builder = "ObjectSkeletonConfigBuilder::new(";
    let before = before.replace(
        &format!("{builder}&DATA)"),
        &format!("{builder}DATA.object())"),
    );
    ensure!(before.contains("DATA.object()"), "the same");
    let data =
        format!("static DATA: super::Packed = super::Packed::new(include_bytes!({packed:?}));");
    Ok(fs::write(skeleton, before + &data + after)?)
}

/// Makes an object file in memory say that there is no line information in its section .BTF.ext, if it has one: what
/// follows its header (linux/btf.h: struct btf_ext_header) has the length 0.
fn hide_lines(object: &mut [u8]) -> Option<()> {
    /// Offset of `line_info_len` in that header.
    const LINE_INFO_LEN: usize = 20;
    let word = |at: usize| Some(u64::from_le_bytes(*object.get(at..)?.first_chunk()?) as usize);
    let half = |at: usize| Some(u16::from_le_bytes(*object.get(at..)?.first_chunk()?) as usize);
    // elf.h: Elf64_Ehdr has e_shoff, e_shnum, e_shstrndx; Elf64_Shdr sh_name, sh_offset and sh_size.
    let (table, count, names) = (word(0x28)?, half(0x3c)?, half(0x3e)?);
    let offset = |section: usize| word(table + section * 64 + 0x18);
    let names = offset(names)?;
    for section in 0..count {
        let name = names + (word(table + section * 64)? & 0xffff_ffff);
        if object.get(name..)?.starts_with(b".BTF.ext\0") {
            let at = offset(section)? + LINE_INFO_LEN;
            object.get_mut(at..at + 4)?.fill(0);
            break;
        }
    }
    Some(())
}
