// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layouts, bad arguments, ends.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::fixture::{Fixture, HOSTS};
use crate::{tool, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::cli_contract::layouts", layouts),
        trial("tcpstates::cli_contract::bad_arguments", bad_arguments),
        trial("tcpstates::cli_contract::kernel_address", kernel_address),
    ]
}

fn layouts() -> Result<()> {
    for (flags, header, width) in [
        (
            &[][..],
            "PID     COMM       LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS",
            Some(80),
        ),
        (
            &["-s"],
            "tool,event,ts,boot_ns,netns,cookie,family,laddr,lport,raddr,rport,ifindex,ifname,pid,comm,uid,pid_source,\
             cgroup,unit,container,container_name,runtime,pod,netns_name,old_state,new_state,in_state_us",
            None,
        ),
        (
            &["-s", "-t", "--skaddr"],
            "tool,event,ts,elapsed_s,boot_ns,netns,cookie,family,laddr,lport,raddr,rport,ifindex,ifname,pid,comm,uid,\
             pid_source,cgroup,unit,container,container_name,runtime,pod,netns_name,skaddr,old_state,new_state,in_state_us",
            None,
        ),
        (
            &["--summary"],
            "STATE         LEFT P50_MS P99_MS MAX_MS   NOW TOP_PID TOP_COMM    OLD_MS OLD_PID",
            Some(80),
        ),
    ] {
        let mut fixture = Fixture::new()?;
        let inodes = fixture.net.inodes();
        let tool = Tool::start("tcpstates", &[&["--netns", &inodes], flags].concat())?;
        let session = fixture.session(HOSTS[0])?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        let run = tool.stop()?;
        ensure!(run.status.success() && run.said_nothing(), "{run:?}");
        ensure!(run.lines[0] == header, "{:?}", run.lines[0]);
        ensure!(run.lines.len() > 4, "{run:?}");
        let too_wide = run
            .lines
            .iter()
            .find(|l| width.is_some_and(|w| l.len() > w));
        ensure!(too_wide.is_none(), "{too_wide:?}");
    }
    Ok(())
}

fn bad_arguments() -> Result<()> {
    for (args, word) in [
        (&["--old", "OPEN"][..], "'OPEN'"),
        (&["--new", "time_wait"], "TIME_WAIT"),
        (&["--old", ""], "empty"),
        (&["--min-ms", "-1"], "'-1'"),
        (&["--min-ms", "nan"], "'nan'"),
        (&["--summary=0"], "'0'"),
        (&["--summary", "-Y"], "--journal"),
        (&["--summary", "--skaddr"], "--skaddr"),
    ] {
        let run = tool::run("tcpstates", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {run:?}");
        ensure!(
            run.lines.is_empty() && run.stderr.lines().count() == 1,
            "{args:?}: {run:?}"
        );
        ensure!(run.stderr.contains(word), "{args:?}: {run:?}");
    }
    Ok(())
}

/// Only on request.
fn kernel_address() -> Result<()> {
    for (flags, shown) in [(&[][..], false), (&["--skaddr"], true)] {
        let mut fixture = Fixture::new()?;
        let tool = fixture.watch(flags)?;
        fixture.session(HOSTS[0])?;
        for row in tool.stop()?.rows()? {
            let address = row["skaddr"].as_str().unwrap_or_default();
            ensure!(row.get("skaddr").is_some() == shown, "{row}");
            // The upper half begins at ff00... with five levels of page tables, at ffff8... with four.
            ensure!(
                !shown || address.len() == 16 && address.starts_with("ff"),
                "{row}"
            );
        }
    }
    Ok(())
}
