// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP, as far as a scrape needs it (RFC 9110, RFC 9112): GET and HEAD, one request per connection, no body.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use super::text::Format;

/// The longest request that is read.
pub(crate) const MOST: usize = 8192;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Its request is not complete.
    More,
    Metrics(Format),
    /// The page that says where the metrics are.
    Index,
    /// What is answered with this status.
    Wrong(Status),
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    BadRequest,
    NotFound,
    NotAllowed,
    TooLarge,
    Version,
}

impl Status {
    /// As the status line has it.
    pub(super) fn line(self) -> &'static str {
        match self {
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::Version => "505 HTTP Version Not Supported",
        }
    }
}

/// A request, and whether only the head of the answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub asked: Asked,
    pub head: bool,
}

/// Reads what has come so far.
pub(crate) fn read(bytes: &[u8]) -> Request {
    let (asked, head) = parse(bytes).unwrap_or_else(|status| (Asked::Wrong(status), false));
    Request { asked, head }
}

fn parse(bytes: &[u8]) -> Result<(Asked, bool), Status> {
    // What cannot become a request is not waited for.
    if !bytes.first().is_none_or(u8::is_ascii_uppercase) {
        return Err(Status::BadRequest);
    }
    let Some(head) = head_of(bytes) else {
        return match bytes.len() < MOST {
            true => Ok((Asked::More, false)),
            false => Err(Status::TooLarge),
        };
    };
    let head = std::str::from_utf8(head).map_err(|_| Status::BadRequest)?;
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let words: Vec<_> = first.split(' ').take(4).collect();
    let &[method, target, version] = words.as_slice() else {
        return Err(Status::BadRequest);
    };
    match version.strip_prefix("HTTP/") {
        Some("1.0" | "1.1") => {}
        Some(_) => return Err(Status::Version),
        None => return Err(Status::BadRequest),
    }
    let only_head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Status::NotAllowed),
    };
    let mut format = Format::Text;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Status::BadRequest)?;
        if name.eq_ignore_ascii_case("accept") && prefers_openmetrics(value) {
            format = Format::OpenMetrics;
        }
    }
    let path = target.split(['?', '#']).next().unwrap_or_default();
    match path {
        "/metrics" => Ok((Asked::Metrics(format), only_head)),
        "/" => Ok((Asked::Index, only_head)),
        _ => Err(Status::NotFound),
    }
}

/// The request line and the fields, without the empty line that ends them.
fn head_of(bytes: &[u8]) -> Option<&[u8]> {
    let end = |mark: &[u8]| bytes.windows(mark.len()).position(|part| part == mark);
    let end = [end(b"\r\n\r\n"), end(b"\n\n")]
        .into_iter()
        .flatten()
        .min()?;
    bytes.get(..end)
}

/// Whether a client likes OpenMetrics at least as much as plain text (RFC 9110, 12.5.1).
fn prefers_openmetrics(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let kinds = accept.split(',').filter_map(|part| {
            let mut fields = part.split(';').map(str::trim);
            let kind = fields.next()?;
            let quality = fields.find_map(|field| field.strip_prefix("q="));
            let quality: f32 = quality.map_or(Some(1.0), |q| q.parse().ok())?;
            (kind.eq_ignore_ascii_case(wanted) && quality.is_finite()).then_some(quality)
        });
        kinds.fold(0.0, f32::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= weight("text/plain")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(text: &str) -> Asked {
        read(text.as_bytes()).asked
    }

    #[test]
    fn requests() {
        let get = "GET /metrics HTTP/1.1\r\nHost: x\r\n";
        assert_eq!(asked(get), Asked::More);
        assert_eq!(asked(&format!("{get}\r\n")), Asked::Metrics(Format::Text));
        assert_eq!(asked("GET / HTTP/1.0\n\n"), Asked::Index);
        let head = read(b"HEAD /metrics?x=1 HTTP/1.1\r\n\r\n");
        assert!(head.head && head.asked == Asked::Metrics(Format::Text));
        for (text, status) in [
            ("POST /metrics HTTP/1.1\r\n\r\n", Status::NotAllowed),
            ("GET /../etc/passwd HTTP/1.1\r\n\r\n", Status::NotFound),
            ("GET /metrics HTTP/2.0\r\n\r\n", Status::Version),
            ("GET /metrics\r\n\r\n", Status::BadRequest),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Status::BadRequest),
            (
                "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
                Status::BadRequest,
            ),
            ("\u{16}\u{3}\u{1}", Status::BadRequest),
        ] {
            assert_eq!(asked(text), Asked::Wrong(status), "{text:?}");
        }
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(MOST));
        assert_eq!(asked(&long), Asked::Wrong(Status::TooLarge));
    }

    #[test]
    fn formats() {
        let of = |accept: &str| {
            asked(&format!(
                "GET /metrics HTTP/1.1\r\nAccept: {accept}\r\n\r\n"
            ))
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
            application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(of(prometheus), Asked::Metrics(Format::OpenMetrics));
        for text in [
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.1,text/plain;q=0.2",
            "application/openmetrics-text;q=nan",
        ] {
            assert_eq!(of(text), Asked::Metrics(Format::Text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes);
        }

        /// What is complete stays what it is, whatever follows.
        #[test]
        fn a_request_is_read_once(at in 0..40usize) {
            let whole = b"GET /metrics HTTP/1.1\r\nAccept: x\r\n\r\nrest";
            let request = read(&whole[..at]);
            let expected = if at < 36 { Asked::More } else { Asked::Metrics(Format::Text) };
            prop_assert_eq!(request.asked, expected);
        }
    }
}
