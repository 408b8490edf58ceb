// SPDX-License-Identifier: MIT OR Apache-2.0
//! Untrusted text: process names, arguments, names of files and interfaces. It must not move the cursor, reverse a
//! line, hide, or pass for something else (docs/principles.md 8).

use std::borrow::Cow;
use std::io::Write;

use super::digits::append;

/// Whether a character shows as itself: neither a control or format character, a separator other than the blank, nor one
/// that is not assigned. `first`: nothing is before it that a combining mark could combine with.
fn is_plain(c: char, first: bool) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // The standard library knows the categories; of a string it escapes marks only at the beginning.
    let mut text = String::from(if first { "" } else { "a" });
    text.push(c);
    let mut shown = text.escape_debug().skip(usize::from(!first));
    shown.next() == Some(c) && !is_invisible(c)
}

/// Letters and marks that do not show: fillers and variation selectors (Default_Ignorable_Code_Point).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

/// Writes `bytes`, with `\xNN` for each byte of what [is not plain](is_plain), is not UTF-8, or `special` says of a
/// character and its place; a backslash becomes two.
fn write(out: &mut Vec<u8>, bytes: &[u8], special: impl Fn(usize, char) -> bool) {
    let (mut at, mut first) = (0, true);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut utf8 = [0; 4];
            let encoded = c.encode_utf8(&mut utf8).as_bytes();
            let escaped = special(at, c) || !is_plain(c, first);
            match escaped {
                true if c == '\\' => out.extend_from_slice(b"\\\\"),
                true => hex(out, encoded),
                false => out.extend_from_slice(encoded),
            }
            first = escaped;
            at += encoded.len();
        }
        hex(out, chunk.invalid());
        first |= !chunk.invalid().is_empty();
        at += chunk.invalid().len();
    }
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// A process's name, in the form that `--comm` takes: [`parse_names`] makes the same bytes of it.
///
/// Escaped is, beside what does not show, what would be something else in a list (`\`, `,`, a leading `!`, blanks at
/// the ends) and what makes a spreadsheet's formula of a cell (a leading `=`, `+`, `-` or `@`).
pub fn name(out: &mut Vec<u8>, bytes: &[u8]) {
    // Most names are of such characters only.
    if bytes.iter().all(u8::is_ascii_alphanumeric) {
        return out.extend_from_slice(bytes);
    }
    let last = bytes.len().saturating_sub(1);
    write(out, bytes, |at, c| match c {
        '\\' | ',' => true,
        ' ' => at == 0 || at == last,
        '!' | '=' | '+' | '-' | '@' => at == 0,
        _ => false,
    });
}

/// Names separated by commas, with the escapes `\xNN`, `\\`, `\,` and `\!`; blanks around a name are not part of it.
///
/// # Errors
/// A message for the user.
pub fn parse_names(list: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut names = Vec::new();
    let mut rest = list;
    loop {
        let (raw, after) = up_to_comma(rest);
        names.push(unescape(raw.trim_ascii())?);
        match after {
            Some(after) => rest = after,
            None => return Ok(names),
        }
    }
}

fn up_to_comma(list: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut escaped = false;
    let comma = list.iter().position(|&byte| {
        let found = byte == b',' && !escaped;
        escaped = byte == b'\\' && !escaped;
        found
    });
    match comma.and_then(|at| list.split_at_checked(at)) {
        Some((name, after)) => (name, after.strip_prefix(b",")),
        None => (list, None),
    }
}

fn unescape(raw: &[u8]) -> Result<Vec<u8>, String> {
    let mut name = Vec::new();
    let mut rest = raw;
    while let [first, after @ ..] = rest {
        let (byte, after) = match after {
            _ if *first != b'\\' => (*first, after),
            [b'x', hi, lo, after @ ..] if hi.is_ascii_hexdigit() && lo.is_ascii_hexdigit() => {
                let digit = |d: &u8| char::from(*d).to_digit(16).unwrap_or_default() as u8;
                (digit(hi) << 4 | digit(lo), after)
            }
            [byte @ (b'\\' | b',' | b'!'), after @ ..] => (*byte, after),
            _ => {
                let name = String::from_utf8_lossy(raw);
                return Err(format!(
                    r"'{name}' has a '\' that begins no escape: write \\ for a backslash, \xNN for a byte, \, for a comma"
                ));
            }
        };
        name.push(byte);
        rest = after;
    }
    Ok(name)
}

/// Whether these are printable ASCII characters: nothing is escaped in a text of them.
fn is_printable(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| (b' '..=b'~').contains(b))
}

/// Text from the kernel or from an argument: escapes what does not show, but not the backslash.
pub fn text(text: &str) -> Cow<'_, str> {
    if is_printable(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 16);
    write(&mut out, text.as_bytes(), |_, _| false);
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The bytes that stand for themselves in a JSON string: in a table, as each byte of a row's texts is looked up.
const IS_BARE: [bool; 256] = {
    let mut bare = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        bare[byte] = matches!(byte as u8, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~');
        byte += 1;
    }
    bare
};

/// A JSON string with its quotes; what does not show is `\uXXXX`, which decodes to the same.
pub fn json(out: &mut Vec<u8>, text: &str) {
    json_of(out, |out| out.extend_from_slice(text.as_bytes()));
}

/// The same of the text that `write` adds.
pub fn json_of(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    append::all(out, b"\"");
    write(out);
    let text = out.get(start + 1..).unwrap_or_default();
    if text.iter().all(|&byte| IS_BARE[usize::from(byte)]) {
        return append::all(out, b"\"");
    }
    let text = String::from_utf8_lossy(text).into_owned();
    out.truncate(start);
    json_escaped(out, &text);
}

fn json_escaped(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    let _ = serde_json::to_writer(&mut *out, text);
    if is_printable(text.as_bytes()) {
        return;
    }
    let quoted = String::from_utf8_lossy(&out.split_off(start)).into_owned();
    for c in quoted.chars() {
        let mut units = [0; 2];
        match is_plain(c, false) {
            true => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            false => c.encode_utf16(&mut units).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}");
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn json_strings_round_trip(text: String) {
            let mut out = vec![];
            json(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    fn named(bytes: &[u8]) -> String {
        let mut out = vec![];
        name(&mut out, bytes);
        String::from_utf8(out).expect("what is shown is text")
    }

    /// Every name of one or two bytes, characters in the middle of one, and names that were met.
    fn names() -> impl Iterator<Item = Vec<u8>> {
        let two = (1..=u16::MAX).map(|n| n.to_be_bytes().into_iter().filter(|&b| b != 0).collect());
        let char = |c: char| format!("a{c}b").into_bytes();
        let met: [&[u8]; 6] = [
            b"123456789012345",
            b"abcdefghijklmn\xc3",
            b" a, b ",
            b"\\x41",
            b"!\\,!",
            b"-=+@",
        ];
        let chars = ('\u{1}'..'\u{3000}').chain(('\u{3000}'..=char::MAX).step_by(101));
        two.chain(chars.map(char)).chain(met.map(<[u8]>::to_vec))
    }

    #[test]
    fn shown_names_parse_as_filters() {
        for bytes in names() {
            let shown = named(&bytes);
            assert_eq!(parse_names(shown.as_bytes()), Ok(vec![bytes]), "{shown}");
        }
        let list = [&b"a,b"[..], b" c\\", b"!"].map(named).join(", ");
        let parsed: Vec<&[u8]> = vec![b"a,b", b" c\\", b"!"];
        assert_eq!(parse_names(list.as_bytes()).unwrap(), parsed);
    }

    #[test]
    fn invisible_characters_are_escaped() {
        let hidden = "\u{7f}\u{85}\u{9b}\u{a0}\u{ad}\u{34f}\u{61c}\u{3164}\u{200b}\u{200d}\u{200e}\u{2028}\u{2029}\
                      \u{202a}\u{202e}\u{2060}\u{2066}\u{3000}\u{fe0f}\u{feff}\u{e000}\u{e0041}\u{e01ef}\u{10ffff}";
        for c in hidden.chars().chain('\0'..' ') {
            for shown in [
                named(format!("a{c}b").as_bytes()),
                text(&format!("a{c}b")).into_owned(),
            ] {
                assert!(shown.starts_with("a\\x") && shown.is_ascii(), "{c:?}");
            }
            let mut out = vec![];
            json(&mut out, &format!("a{c}"));
            assert!(out.is_ascii(), "{c:?}");
            assert_eq!(
                serde_json::from_slice::<String>(&out).unwrap(),
                format!("a{c}")
            );
        }
    }

    #[test]
    fn visible_characters_are_kept() {
        for seen in [
            "Сервер",
            "服务",
            "te\u{301}st",
            "naïve",
            "🦀",
            "\u{fffd}",
            "a b",
            "(sd-pam)",
            "a\"b'",
        ] {
            assert_eq!(
                (named(seen.as_bytes()).as_str(), &*text(seen)),
                (seen, seen)
            );
        }
        assert_eq!(text(r"C:\x"), r"C:\x");
        // A mark combines with nothing that was there before.
        assert_eq!(named("\u{301}".as_bytes()), r"\xcc\x81");
        assert_eq!(named(b"\xff\xcc\x81"), r"\xff\xcc\x81");
    }

    #[test]
    fn cells_are_no_formulas() {
        for bytes in [&b"=1+1"[..], b"+1", b"-1", b"@SUM(A1)", b"\t=1", b"\r=1"] {
            assert!(named(bytes).starts_with("\\x"), "{bytes:?}");
        }
    }

    #[test]
    fn invalid_escapes_are_rejected() {
        for list in [r"a\b", r"\", r"\x4", r"\x+1", r"a,\xg0"] {
            assert!(
                parse_names(list.as_bytes()).unwrap_err().contains(r"\xNN"),
                "{list}"
            );
        }
    }
}
