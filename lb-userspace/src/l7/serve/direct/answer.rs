//! An endpoint's answer to a plain request: what its client gets, and where it ends. Pure.
use std::mem::MaybeUninit;

use http::{Response, StatusCode};

use super::request::{add_via, write_field};
use crate::l7::serve::forward::is_needed_text;
use crate::l7::serve::settings::HEADERS_MAX;
use crate::l7::serve::wire::{Scanner, Stage};

/// Fields that an endpoint may name in Connection.
const NAMED_MAX: usize = 8;

/// What an endpoint says that is not HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not one that can be passed on")]
pub(super) struct Unreadable;

/// What was read of an answer.
pub(super) enum Read {
    /// Not all of its head.
    Part,
    /// An interim answer (RFC 9110 §15.2), of so many bytes.
    Interim(usize),
    /// The head.
    Head(Head),
}

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

#[derive(Default)]
struct Found<'a> {
    via: Option<&'a [u8]>,
    length: Option<u64>,
    is_chunked: bool,
    is_last: bool,
    is_kept: bool,
    has_date: bool,
    named: [&'a str; NAMED_MAX],
    named_count: usize,
}

/// Reads an answer's head, and writes to `out` the one that its client gets.
pub(super) fn pass(bytes: &[u8], manner: Manner<'_>, out: &mut Vec<u8>) -> Result<Read, Unreadable> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let read = parser.parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
    let length = match read.map_err(|_| Unreadable)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(Read::Part),
    };
    let code = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Unreadable)?;
    // Nobody asked for another protocol.
    if code == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unreadable);
    }
    if code.is_informational() {
        return Ok(Read::Interim(length));
    }
    let is_old = head.version == Some(0);
    let mut found = Found::of(head.headers)?;
    if is_old && found.is_chunked {
        return Err(Unreadable);
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(code.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    found.write(head.headers, out)?;
    add_via(found.via, if is_old { "1.0" } else { "1.1" }, out);
    write_field("x-request-id", manner.id, out);
    if !found.has_date {
        write_date(out);
    }
    let body = found.framing(code, manner.is_head, out);
    if manner.is_last {
        write_field("connection", b"close", out);
    }
    out.extend_from_slice(b"\r\n");
    let is_kept = !found.is_last && (!is_old || found.is_kept) && !matches!(body, Framing::Close);
    Ok(Read::Head(Head { code, body, is_kept, length }))
}

impl<'a> Found<'a> {
    /// What the fields say of connections and lengths.
    fn of(fields: &[httparse::Header<'a>]) -> Result<Self, Unreadable> {
        let mut found = Self::default();
        for field in fields {
            let is = |other: &str| field.name.eq_ignore_ascii_case(other);
            match field.name.len() {
                4 if is("date") => found.has_date = true,
                10 if is("connection") => found.take_connection(field.value)?,
                14 if is("content-length") => {
                    let text = std::str::from_utf8(field.value).map_err(|_| Unreadable)?;
                    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                    let length = text.parse().ok().filter(|_| is_number).ok_or(Unreadable)?;
                    if found.length.replace(length).is_some_and(|before| before != length) {
                        return Err(Unreadable);
                    }
                }
                17 if is("transfer-encoding") => {
                    // What else it is coded in would have to be told, or taken away.
                    if found.is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Unreadable);
                    }
                    found.is_chunked = true;
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn take_connection(&mut self, value: &'a [u8]) -> Result<(), Unreadable> {
        let text = std::str::from_utf8(value).map_err(|_| Unreadable)?;
        for token in text.split(',').map(str::trim) {
            if token.eq_ignore_ascii_case("close") {
                self.is_last = true;
            } else if token.eq_ignore_ascii_case("keep-alive") {
                self.is_kept = true;
            } else if !token.is_empty() && !is_needed_text(token) {
                *self.named.get_mut(self.named_count).ok_or(Unreadable)? = token;
                self.named_count += 1;
            }
        }
        Ok(())
    }

    /// Writes the fields that are passed on.
    fn write(&mut self, fields: &[httparse::Header<'a>], out: &mut Vec<u8>) -> Result<(), Unreadable> {
        for field in fields {
            let is = |other: &str| field.name.eq_ignore_ascii_case(other);
            let is_left = match field.name.len() {
                2 => is("te"),
                // Two of them are one list, and joining them is not worth its while.
                3 if is("via") => {
                    if self.via.replace(field.value).is_some() {
                        return Err(Unreadable);
                    }
                    true
                }
                7 => is("upgrade"),
                10 => is("connection") || is("keep-alive"),
                12 => is("x-request-id"),
                14 => is("content-length"),
                16 => is("proxy-connection"),
                17 => is("transfer-encoding"),
                _ => false,
            };
            let named = &self.named[..self.named_count];
            if !is_left && !named.iter().any(|named| field.name.eq_ignore_ascii_case(named)) {
                write_field(field.name, field.value, out);
            }
        }
        Ok(())
    }

    /// How the body is framed (RFC 9112 §6.3); says so to the client.
    fn framing(&self, code: StatusCode, is_head: bool, out: &mut Vec<u8>) -> Framing {
        let has_none = matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = self.length.filter(|_| !self.is_chunked && !has_none);
        if let Some(length) = length {
            write_field("content-length", length.to_string().as_bytes(), out);
        }
        if is_head || has_none {
            return Framing::Length(0);
        }
        if let Some(length) = length {
            return Framing::Length(length);
        }
        write_field("transfer-encoding", b"chunked", out);
        if self.is_chunked { Framing::Chunks(Box::new(Scanner::of_chunks())) } else { Framing::Close }
    }
}

impl Framing {
    /// Takes what is the body's of `bytes`, and writes what its client gets of it; how much was taken. Trailers stay
    /// behind: nobody asked for them.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Unreadable> {
        match self {
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                out.extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }
            Self::Chunks(scanner) => {
                let (taken, chunks) = scanner.scan_body(bytes).map_err(|_| Unreadable)?;
                out.extend_from_slice(&bytes[..chunks]);
                if taken > 0 && scanner.stage() == Stage::Between {
                    out.extend_from_slice(b"\r\n");
                }
                Ok(taken)
            }
            Self::Close => {
                if !bytes.is_empty() {
                    out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                    out.extend_from_slice(bytes);
                    out.extend_from_slice(b"\r\n");
                }
                Ok(bytes.len())
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
