//! An endpoint's answer to a plain request: what its client gets, and where it ends. Pure.
use http::{Response, StatusCode};

use super::request::{add_via, write_field};
use crate::l7::serve::answer_fields::{self, AnswerFields, AnswerHead, End, Read, Unreadable};
use crate::l7::serve::wire::{Part, Scanner, Stage};

/// The head of an answer.
pub(super) struct Head {
    pub(super) code: StatusCode,
    pub(super) body: Framing,
    /// Whether its connection takes another request after it.
    pub(super) is_kept: bool,
    /// Bytes of the head.
    pub(super) length: usize,
}

/// Where a body ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// As its chunks say.
    Chunks(Box<Scanner>),
    /// With the connection; its client gets it in chunks.
    Close,
}

/// Of a body's bytes that come at once so many are copied behind what is written before them; more are sent from where
/// they are.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// What was passed on of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// How many of them are the answer's.
    pub(super) taken: usize,
    /// How many of those are its body's own, without what frames chunks.
    pub(super) data: usize,
    /// How many of them, from the first on, are not written: they are to be sent as they are after what is.
    pub(super) lent: usize,
}

/// How an answer is written.
#[derive(Clone, Copy)]
pub(super) struct Manner<'a> {
    /// Whether it is to a HEAD request.
    pub(super) is_head: bool,
    /// The request's name.
    pub(super) id: &'a [u8],
    /// Whether its client's connection ends with it.
    pub(super) is_last: bool,
}

/// Reads an answer's head, and writes to `out` the one that its client gets.
pub(super) fn pass(bytes: &[u8], manner: Manner<'_>, out: &mut Vec<u8>) -> Result<Read<Head>, Unreadable> {
    answer_fields::read(bytes, |head| write_head(&head, manner, out))
}

fn write_head(head: &AnswerHead<'_, '_>, manner: Manner<'_>, out: &mut Vec<u8>) -> Result<Head, Unreadable> {
    let AnswerHead { code, reason, fields, found, length } = head;
    let (code, length) = (*code, *length);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(code.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let via = write_fields(found, fields, out)?;
    add_via(via, found.version(), out);
    write_field("x-request-id", manner.id, out);
    if !found.has_date {
        write_date(out);
    }
    if let Some(length) = found.length(code) {
        write_field("content-length", length.to_string().as_bytes(), out);
    }
    let end = found.end(code, manner.is_head);
    let body = match end {
        End::Length(length) => Framing::Length(length),
        End::Chunks => Framing::Chunks(Box::new(Scanner::of_chunks())),
        End::Close => Framing::Close,
    };
    if !matches!(body, Framing::Length(_)) {
        write_field("transfer-encoding", b"chunked", out);
    }
    if manner.is_last {
        write_field("connection", b"close", out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(Head { code, body, is_kept: found.is_kept(end), length })
}

/// Writes the fields that are passed on; what `Via` is, where it is one of them.
fn write_fields<'a>(
    found: &AnswerFields<'_>,
    fields: &[httparse::Header<'a>],
    out: &mut Vec<u8>,
) -> Result<Option<&'a [u8]>, Unreadable> {
    let mut via = None;
    for field in fields {
        if field.name.eq_ignore_ascii_case("via") {
            // Two of them are one list, and joining them is not worth its while.
            if via.replace(field.value).is_some() {
                return Err(Unreadable);
            }
        } else if !field.name.eq_ignore_ascii_case("x-request-id") && !found.is_of_hop(field.name) {
            write_field(field.name, field.value, out);
        }
    }
    Ok(via)
}

impl Framing {
    /// Takes what is the body's of `bytes`, and writes what its client gets of it, but for what it lends. Trailers stay
    /// behind: nobody asked for them.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Passed, Unreadable> {
        match self {
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(Passed { taken, data: taken, lent: lend(&bytes[..taken], out) })
            }
            Self::Chunks(scanner) => {
                let (mut passed, mut chunks) = (Passed::default(), 0);
                while passed.taken < bytes.len() && scanner.stage() == Stage::Body {
                    let (length, part) = scanner.take_part(&bytes[passed.taken..]).map_err(|_| Unreadable)?;
                    passed.taken += length;
                    if part != Part::Trailers {
                        chunks = passed.taken;
                    }
                    if part == Part::Data {
                        passed.data += length;
                    }
                }
                if passed.taken > 0 && scanner.stage() == Stage::Between {
                    out.extend_from_slice(&bytes[..chunks]);
                    out.extend_from_slice(b"\r\n");
                } else {
                    passed.lent = lend(&bytes[..chunks], out);
                }
                Ok(passed)
            }
            Self::Close => {
                if !bytes.is_empty() {
                    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                    out.extend_from_slice(bytes);
                    out.extend_from_slice(b"\r\n");
                }
                Ok(Passed { taken: bytes.len(), data: bytes.len(), lent: 0 })
            }
        }
    }

    /// Whether nothing more of the body is to come.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks(scanner) => scanner.stage() == Stage::Between,
            Self::Close => false,
        }
    }
}

/// Copies a few bytes; how many there are if they are more.
fn lend(bytes: &[u8], out: &mut Vec<u8>) -> usize {
    if bytes.len() > COPIED_BYTES_MAX {
        return bytes.len();
    }
    out.extend_from_slice(bytes);
    0
}

fn write_date(out: &mut Vec<u8>) {
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    write_field("date", now.as_bytes(), out);
}

/// Writes an answer of the front-end's own.
pub(super) fn write(response: &Response<bytes::Bytes>, is_head: bool, out: &mut Vec<u8>) {
    let code = response.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(code.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(code.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in response.headers() {
        write_field(name.as_str(), value.as_bytes(), out);
    }
    write_field("content-length", response.body().len().to_string().as_bytes(), out);
    write_date(out);
    out.extend_from_slice(b"\r\n");
    if !is_head {
        out.extend_from_slice(response.body());
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
