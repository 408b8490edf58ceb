// SPDX-License-Identifier: MIT OR Apache-2.0
//! The SQL of docs/queries, asked of recordings of three hosts whose traffic is known (tests/fixtures/hosts/record.py):
//! by SQLite and by DuckDB, which must agree.

#![allow(clippy::print_stderr)] // a test that did not run is named

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HOSTS: [&str; 3] = ["web1", "web2", "db"];

/// A run that lost something, which no recording of the three did.
const LOSS: &str = r#"{"tool":"tcpdrop","event":"summary","ts":"2026-01-02T03:04:05.000000006Z","host":"web2","lost":5,"untracked":0,"uncounted":0,"skipped":2}"#;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// Every row of all hosts.
fn recordings() -> String {
    let all = HOSTS.map(|host| read(&format!("tests/fixtures/hosts/{host}.jsonl")));
    format!("{}{LOSS}\n", all.concat())
}

/// The queries, without the scripts that make their table.
fn queries() -> Vec<String> {
    let files = fs::read_dir(root("docs/queries"))
        .expect("a folder")
        .flatten();
    let names = files.map(|file| file.file_name().into_string().expect("a name"));
    let names = names.filter_map(|name| Some(name.strip_suffix(".sql")?.to_owned()));
    let mut names: Vec<_> = names
        .filter(|name| name != "duckdb" && name != "sqlite")
        .collect();
    names.sort();
    names
}

/// The rows of each query, in its order.
type Answers = BTreeMap<String, Vec<Vec<String>>>;

/// A file of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("tcptools-queries-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a program prints that reads this; `None` where it is not installed, or says so by status 77.
fn output(command: &mut Command, input: &str) -> Option<String> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.ok()?;
    let mut pipe = child.stdin.take()?;
    // One that ends at once does not read.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    if output.status.code() == Some(77) {
        return None;
    }
    assert!(output.status.success(), "{command:?}: {output:?}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

fn cells(text: &str) -> Vec<Vec<String>> {
    let row = |line: &str| line.split('|').map(str::to_owned).collect();
    text.lines().map(row).collect()
}

/// As docs/logs.md does it: the recordings through a pipe, then each query.
fn sqlite() -> Option<Answers> {
    let database = Scratch::new("sqlite");
    let sqlite = |script: &str, input: &str| {
        let mut command = Command::new("sqlite3");
        command
            .args(["-bail", "-list", "-noheader"])
            .arg(&database.0);
        output(command.arg(script).current_dir(root("docs/queries")), input)
    };
    sqlite(".read sqlite.sql", &recordings())?;
    let answers = queries().into_iter().map(|query| {
        let text = sqlite(&format!(".read {query}.sql"), "").expect("sqlite3");
        (query, cells(&text))
    });
    Some(answers.collect())
}

const DUCKDB: &str = "
import sys
try:
    import duckdb
except ImportError:
    sys.exit(77)
files, folder, *names = sys.argv[1:]
database = duckdb.connect()
database.execute(f\"SET VARIABLE files = ['{files}']\")
database.execute(open(f'{folder}/duckdb.sql').read())
for name in names:
    for row in database.execute(open(f'{folder}/{name}.sql').read()).fetchall():
        print(name, *('' if cell is None else cell for cell in row), sep='|')
";

/// By the Python package: compressed, as `tcptools record` writes them, if gzip is there.
fn duckdb() -> Option<Answers> {
    let mut file = Scratch::new("rows.jsonl");
    fs::write(&file.0, recordings()).expect("written");
    if Command::new("gzip")
        .arg("-kf")
        .arg(&file.0)
        .status()
        .is_ok_and(|status| status.success())
    {
        let packed = file.0.with_extension("jsonl.gz");
        let packed = match packed.exists() {
            true => packed,
            false => PathBuf::from(format!("{}.gz", file.0.display())),
        };
        fs::remove_file(&file.0).expect("removed");
        file = Scratch(packed);
    }
    let target = std::env::var("CARGO_TARGET_DIR");
    let target = target.unwrap_or_else(|_| root("target").display().to_string());
    let mut command = Command::new("python3");
    command
        .args(["-c", DUCKDB])
        .arg(&file.0)
        .arg(root("docs/queries"));
    command
        .args(queries())
        .env("PYTHONPATH", format!("{target}/python"));
    let text = output(&mut command, "")?;
    let mut answers: Answers = queries()
        .into_iter()
        .map(|name| (name, Vec::new()))
        .collect();
    for mut row in cells(&text) {
        let name = row.remove(0);
        answers.get_mut(&name).expect("a query").push(row);
    }
    Some(answers)
}

/// The rows of a query, as text without the cells of these columns: what differs with the run.
fn without(rows: &[Vec<String>], columns: &[usize]) -> Vec<String> {
    let row = |row: &Vec<String>| {
        let cells = row.iter().enumerate();
        let cells = cells
            .filter(|(n, _)| !columns.contains(n))
            .map(|(_, cell)| cell.as_str());
        cells.collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(row).collect()
}

fn has(rows: &[String], expected: &[&str]) {
    for row in expected {
        assert!(rows.iter().any(|is| is == row), "no '{row}' in {rows:#?}");
    }
}

fn number(cell: &str) -> f64 {
    cell.parse()
        .unwrap_or_else(|_| panic!("'{cell}' is no number"))
}

/// What tests/fixtures/hosts/record.py did.
fn are_true(answers: &Answers) {
    let of = |query: &str| &answers[query][..];
    // Two that the timer sent again after 200 and 400 ms, and a SYN.
    let sent_again = without(of("retransmits"), &[7]);
    has(
        &sent_again,
        &[
            "web1 app 10.9.0.3 5434 3 2 1",
            "web2 app 10.9.0.3 5436 1 0 1",
        ],
    );
    has(
        &without(of("resets"), &[]),
        &[
            "db sent  10.9.0.2 5999 NO_SOCKET 5",
            "web2 sent  10.9.0.1 5999 NO_SOCKET 3",
            "web2 received app 10.9.0.3 5999  5",
            "web1 received worker 10.9.0.2 5999  3",
        ],
    );
    // The four without room in the queue, until they were given up, then the lost SYN.
    let slow = without(of("handshakes"), &[0, 6]);
    assert_eq!(slow[4], "web2 app 10.9.0.3 5436 established 1", "{slow:#?}");
    assert!(
        slow[..4]
            .iter()
            .all(|row| row.starts_with("web1 crowd 10.9.0.3 5435 aborted "))
    );
    assert!((1000.0..1300.0).contains(&number(&of("handshakes")[4][6])));
    has(
        &without(of("failures"), &[6, 7]),
        &[
            "10.9.0.3 5999 refused ECONNREFUSED 5 1",
            "10.9.0.2 5999 refused ECONNREFUSED 3 1",
            "10.9.0.3 5435 aborted  4 1",
        ],
    );
    let talkers = without(of("talkers"), &[]);
    has(
        &talkers,
        &[
            "web1 app 10.9.0.3 5432 10 1000 500000",
            "db database 10.9.0.1 5432 10 500000 1000",
            "web2 app fd09::3 5433 4 400 800000",
            "db database fd09::2 5433 4 800000 400",
        ],
    );
    assert!(
        talkers[..2].iter().all(|row| row.contains(" 5433 4 ")),
        "{talkers:#?}"
    );
    let overflows = without(of("listeners"), &[6, 7]);
    assert_eq!(overflows, ["db busy 0.0.0.0 5435 2 1"]);
    assert!(
        number(&of("listeners")[0][6]) >= 4.0,
        "each of four SYNs, and those sent again"
    );
    has(
        &without(of("services"), &[4, 5]),
        &["web1 c0ffeec0ffee 3 3", "web2 app 5 5", "web1 crowd 4 0"],
    );
    has(
        &without(of("both-ends"), &[10]),
        &[
            "web1 app db database 5432 10 fin_local fin_remote 1000 1000",
            "web2 app db database 5433 4 fin_local fin_remote 400 400",
            "web1 crowd db busy 5435 2 fin_local rst_sent 0 0",
        ],
    );
    has(
        &without(of("both-ends"), &[]),
        &["web1 app db database 5434 1 fin_local fin_remote 100 100 3"],
    );
    // The clock of db was made to be so far ahead.
    for row in of("clocks") {
        assert!(
            row[1] == "db" && (number(&row[3]) - 250.0).abs() < 1.0,
            "{row:?}"
        );
    }
    assert_eq!(of("clocks").len(), 2);
    has(
        &without(of("drops"), &[]),
        &[
            "db received NO_SOCKET tcp_v4_rcv 5999 5 1",
            "web2 received NO_SOCKET tcp_v4_rcv 5999 3 1",
            "db received NETFILTER_DROP nft_do_chain 5434 3 1",
            "db received NETFILTER_DROP nft_do_chain 5436 1 1",
        ],
    );
    let stalls: Vec<_> = without(of("stalls"), &[3, 6]);
    has(
        &stalls,
        &[
            "web1 pusher 10.9.0.3 zero_window 1",
            "db stuck 10.9.0.1 unread 1",
        ],
    );
    assert_eq!(without(of("losses"), &[]), ["web2 tcpdrop 5 0 0 2"]);
}

#[test]
fn queries_tell_what_happened() {
    let (sqlite, duckdb) = (sqlite(), duckdb());
    for (name, answers) in [("sqlite3", &sqlite), ("the Python package duckdb", &duckdb)] {
        match answers {
            Some(answers) => are_true(answers),
            None => eprintln!("NOT RUN: the queries of docs/queries: {name} is not installed"),
        }
    }
    let (Some(sqlite), Some(duckdb)) = (sqlite, duckdb) else {
        return;
    };
    // An unknown value is the first to one, and the last to the other.
    let sorted = |answers: &Answers, query: &str| {
        let mut rows = without(&answers[query], &[]);
        rows.sort();
        rows
    };
    for query in queries() {
        assert_eq!(sorted(&sqlite, &query), sorted(&duckdb, &query), "{query}");
    }
}

/// A key that goes would leave a column of nothing.
#[test]
fn columns_are_keys_of_records() {
    let schema = read("docs/schema/tcptools-1.json");
    let sqlite = read("docs/queries/sqlite.sql");
    let keys: Vec<_> = sqlite.split("line ->> '").skip(1).collect();
    let keys: Vec<_> = keys
        .iter()
        .filter_map(|rest| rest.split('\'').next())
        .collect();
    assert!(keys.len() > 40, "{keys:?}");
    let duckdb = read("docs/queries/duckdb.sql");
    for key in keys {
        assert!(
            schema.contains(&format!("\"{key}\":")),
            "no record has {key}"
        );
        let both =
            duckdb.contains(&format!("{key}: '")) || duckdb.contains(&format!("\"{key}\": '"));
        assert!(both, "duckdb.sql has no {key}");
    }
}

#[test]
fn each_query_is_in_the_page() {
    let page = read("docs/logs.md");
    assert!(queries().len() >= 10);
    for query in queries() {
        assert!(
            page.contains(&format!("queries/{query}.sql")),
            "docs/logs.md lacks {query}.sql"
        );
        let text = read(&format!("docs/queries/{query}.sql"));
        assert!(
            text.starts_with("-- ") && text.lines().all(|line| line.len() <= 120),
            "{query}"
        );
    }
}
