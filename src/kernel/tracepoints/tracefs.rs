// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tracepoints from tracefs: `events/<category>/<event>/format`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Field, with_dimension};

/// Where tracefs is mounted, by itself or within debugfs.
const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The directory of events, if this process may read one.
pub fn events() -> io::Result<PathBuf> {
    let mut refused = None;
    for mount in MOUNTS {
        let path = Path::new(mount).join("events");
        match fs::read_dir(&path) {
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => refused = Some(e),
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

/// What is missing for [`events`], and what helps.
pub fn remedy(kind: io::ErrorKind) -> (&'static str, &'static str) {
    match kind {
        io::ErrorKind::PermissionDenied => ("only root can read tracefs", "run it with sudo"),
        _ => (
            "tracefs is not mounted",
            "as root, mount -t tracefs nodev /sys/kernel/tracing",
        ),
    }
}

/// Category and event of every tracepoint.
pub fn list(events: &Path) -> io::Result<Vec<(String, String)>> {
    let mut all = vec![];
    for category in directories(events)? {
        let events = directories(&events.join(&category))?;
        all.extend(events.into_iter().map(|event| (category.clone(), event)));
    }
    Ok(all)
}

fn directories(path: &Path) -> io::Result<Vec<String>> {
    let mut names = vec![];
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

/// The fields of a record, those that every record has left out. `None` when there is no format, as in `ftrace:`.
pub fn fields(events: &Path, category: &str, event: &str) -> Option<Vec<Field>> {
    let path = events.join(category).join(event).join("format");
    Some(parse(&fs::read_to_string(path).ok()?))
}

/// The names that a record's own description has for the values of a field.
pub fn symbols(events: &Path, category: &str, event: &str, field: &str) -> Vec<(i64, String)> {
    let path = events.join(category).join(event).join("format");
    let format = fs::read_to_string(path).unwrap_or_default();
    parse_symbols(&format, field)
}

/// As `__print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, ...)`.
pub(crate) fn parse_symbols(format: &str, field: &str) -> Vec<(i64, String)> {
    let start = format!("__print_symbolic(REC->{field},");
    let list = format.split_once(&start).map_or("", |(_, rest)| rest);
    let list = list.split(')').next().unwrap_or_default();
    let pairs = list.split('{').skip(1).filter_map(|pair| {
        let (value, name) = pair.split_once(',')?;
        let name = name.split('"').nth(1)?;
        Some((value.trim().parse().ok()?, name.to_owned()))
    });
    pairs.collect()
}

/// Lines as `field:__u8 saddr[28]; offset:8; size:28; signed:0;`. Older kernels (5.10) spell the length of an array as in
/// the source, blanks included: `saddr[sizeof(struct sockaddr_in6)]`.
pub(crate) fn parse(format: &str) -> Vec<Field> {
    let fields = format.lines().filter_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        let named = match declaration.strip_suffix(']') {
            Some(array) => array.rfind('[')?,
            None => declaration.len(),
        };
        let (declared, _) = declaration.get(..named)?.rsplit_once(' ')?;
        let name = declaration.strip_prefix(declared)?.strip_prefix(' ')?;
        let number = |part: Option<&str>, key| part?.strip_prefix(key)?.parse().ok();
        let offset = number(parts.next(), "offset:")?;
        let size = number(parts.next(), "size:")?;
        let signed = parts.next() == Some("signed:1");
        let (name, dimension) = name.split_at(name.find('[').unwrap_or(name.len()));
        Some(Field {
            name: name.to_owned(),
            kind: with_dimension(declared, dimension),
            offset,
            size,
            signed,
        })
    });
    fields
        .filter(|field| !field.name.starts_with("common_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_parsed_into_fields() {
        let fields = parse(concat!(
            "name: x\nID: 7\nformat:\n",
            "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n",
            "\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;\n",
            "\tfield:__u8 saddr[28];\toffset:32;\tsize:28;\tsigned:0;\n",
            "\tfield:__u8 daddr[sizeof(struct sockaddr_in6)];\toffset:60;\tsize:28;\tsigned:0;\n",
            "\tfield:__data_loc char[] name;\toffset:88;\tsize:4;\tsigned:1;\n",
            "\nprint fmt: \"field:%d;\", REC->x\n"
        ));
        let shown: Vec<_> = fields.iter().map(Field::declaration).collect();
        let expected = [
            "const void * skaddr",
            "__u8 saddr[28]",
            "__u8 daddr[sizeof(struct sockaddr_in6)]",
            "__data_loc char[] name",
        ];
        assert_eq!(shown, expected);
        assert_eq!(
            (fields[1].kind.as_str(), fields[1].offset, fields[1].size),
            ("__u8[28]", 32, 28)
        );
        assert!(fields[3].signed && !fields[1].signed);
    }

    #[test]
    fn symbols_are_parsed_from_print_format() {
        let format = r#"print fmt: "%s %s", REC->state ? __print_symbolic(REC->state, { TCP_CLOSE, "TCP_CLOSE" }) : "UNKNOWN", __print_symbolic(REC->reason, { 0, "NOT_SPECIFIED" }, { 25, "MAX" })"#;
        let names = parse_symbols(format, "reason");
        assert_eq!(
            names,
            [(0, "NOT_SPECIFIED".to_owned()), (25, "MAX".to_owned())]
        );
        assert!(parse_symbols(format, "state").is_empty() && parse_symbols("", "x").is_empty());
    }
}
