// SPDX-License-Identifier: MIT OR Apache-2.0
//! tplist: the tracepoints of the running kernel, their fields, and which commands of the suite use them.

use std::io::Write;
use std::process::ExitCode;

use crate::cli;
use crate::error::Usage;
use crate::kernel::tracepoints::{self, Argument, Category, Field, Kernel, Tracepoint};
use crate::output::print;
use crate::suite;
use anyhow::{Result, bail};
use clap::{ArgAction, Parser};
use glob::Pattern;
use serde::Serialize;

/// List the kernel's tracepoints, and the tcptools commands that use them.
///
/// Needs neither root nor BPF. Reads tracefs if it can (usually only as root), otherwise BTF. BTF has no categories:
/// without tracefs, tracepoints outside networking are shown as '?:event'.
#[derive(Parser)]
#[command(name = "tplist")]
struct Args {
    /// Also print the fields of the record and the arguments of a BPF program
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Print one JSON object per tracepoint, with everything that --verbose shows
    #[arg(long)]
    json: bool,
    #[arg(short, long, hide = true)]
    pid: Option<String>,
    #[arg(short, long, hide = true)]
    lib: Option<String>,
    /// Show only tracepoints that match, such as 'tcp:*'; a pattern without a colon also matches the event alone
    pattern: Option<String>,
}

/// The pattern of the command line: fnmatch's `*`, `?`, `[...]` on `category:event`.
struct Wanted(Option<(Pattern, bool)>);

impl Wanted {
    fn new(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else {
            return Ok(Self(None));
        };
        // The crate gives two stars in a row a meaning for paths.
        let mut glob = text.to_owned();
        while glob.contains("**") {
            glob = glob.replace("**", "*");
        }
        match Pattern::new(&glob) {
            Ok(pattern) => Ok(Self(Some((pattern, !text.contains(':'))))),
            Err(e) => bail!(Usage(format!("'{text}' is not a pattern: {}", e.msg))),
        }
    }

    fn has(&self, tracepoint: &Tracepoint) -> bool {
        let Some((pattern, event)) = &self.0 else {
            return true;
        };
        pattern.matches(&tracepoint.full_name()) || *event && pattern.matches(&tracepoint.event)
    }
}

/// bcc's lines, and after the name the commands whose rows show the tracepoint, or why it is of no use to them.
fn text(out: &mut Vec<u8>, kernel: &Kernel, tracepoint: &Tracepoint, verbose: bool) -> Result<()> {
    let name = tracepoint.full_name();
    let tools = suite::shown_by(&tracepoint.event);
    match suite::why_unused(&tracepoint.event) {
        Some(why) => writeln!(out, "{name:<32} ({why})")?,
        None if tools.is_empty() => writeln!(out, "{name}")?,
        None => writeln!(out, "{name:<32} {}", tools.join(","))?,
    }
    if !verbose {
        return Ok(());
    }
    for field in kernel.fields(tracepoint).unwrap_or_default() {
        writeln!(out, "    {};", field.declaration())?;
    }
    if let Some(arguments) = kernel.arguments(tracepoint) {
        let list: Vec<_> = arguments.iter().map(Argument::declaration).collect();
        writeln!(out, "    tp_btf({})", list.join(", "))?;
    }
    Ok(())
}

/// A line of --json.
#[derive(Serialize)]
struct Line<'a> {
    tool: &'static str,
    event: &'static str,
    category: Option<&'a str>,
    name: &'a str,
    source: &'static str,
    shown_by: Vec<&'static str>,
    read_by: Vec<&'static str>,
    unused: Option<&'static str>,
    fields: Option<Vec<Field>>,
    args: Option<Vec<Argument>>,
}

fn json(out: &mut Vec<u8>, kernel: &Kernel, tracepoint: &Tracepoint) -> Result<()> {
    let Tracepoint { category, event } = tracepoint;
    let line = Line {
        tool: "tplist",
        event: "tracepoint",
        category: category.name(),
        name: event,
        source: match kernel.has_tracefs() && *category != Category::None {
            true => "tracefs",
            false => "btf",
        },
        shown_by: suite::shown_by(event),
        read_by: suite::read_by(event),
        unused: suite::why_unused(event),
        fields: kernel.fields(tracepoint),
        args: kernel.arguments(tracepoint),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.push(b'\n');
    Ok(())
}

/// What is unknown without tracefs, if that is anything, and what helps.
fn say_what_is_unknown(kernel: &Kernel, shown: &[Tracepoint], detail: bool) {
    let Err(error) = tracepoints::tracefs_events() else {
        return;
    };
    let unknown = shown
        .iter()
        .filter(|t| t.category == Category::Unknown)
        .count();
    let bare = |t: &&Tracepoint| detail && kernel.fields(t).is_none();
    let without = shown.iter().filter(bare).count();
    if unknown + without > 0 {
        let (why, remedy) = tracepoints::tracefs_remedy(error.kind());
        let fields = if without > 0 {
            format!(", nor the fields of {without}")
        } else {
            String::new()
        };
        crate::message!(
            "tplist: BTF does not have the category of {unknown} tracepoints{fields}, and {why}: {remedy}"
        );
    }
}

fn run(args: Args) -> Result<()> {
    if args.pid.is_some() || args.lib.is_some() {
        bail!(Usage(
            "-p and -l list USDT probes, which this suite does not use; use bcc's tplist".into()
        ));
    }
    let wanted = Wanted::new(args.pattern.as_deref())?;
    // A missing tracepoint gets a message of its own.
    libbpf_rs::set_print(None);
    let kernel = Kernel::open()?;
    let all = kernel.tracepoints()?;
    let (shown, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|t| wanted.has(t));
    if shown.is_empty() {
        say_what_is_unknown(&kernel, &others, false);
        bail!(
            "no tracepoint of this kernel matches '{}'",
            args.pattern.unwrap_or_default()
        );
    }
    let mut out = vec![];
    for tracepoint in &shown {
        match args.json {
            true => json(&mut out, &kernel, tracepoint)?,
            false => text(&mut out, &kernel, tracepoint, args.verbose > 0)?,
        }
    }
    say_what_is_unknown(&kernel, &shown, args.json || args.verbose > 0);
    print::write_all(&out)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tplist", Vec::new, run)
}
