//! The head of an endpoint's HTTP/1 answer: its fields, and what they say of its connection and of the end of its body.
//! Pure.
use std::mem::MaybeUninit;

use http::StatusCode;

use super::forward::is_needed_text;
use super::settings::HEADERS_MAX;

/// Fields that an endpoint may name in Connection.
const NAMED_MAX: usize = 8;

/// What an endpoint says that is not HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not one that can be passed on")]
pub(super) struct Unreadable;

/// What was read of an answer.
pub(super) enum Read<T> {
    /// Not all of its head.
    Part,
    /// An interim answer (RFC 9110 §15.2), of so many bytes.
    Interim(usize),
    /// What was made of the head.
    Head(T),
}

/// A head that was read in full.
pub(super) struct AnswerHead<'h, 'a> {
    pub(super) code: StatusCode,
    pub(super) reason: Option<&'a str>,
    pub(super) fields: &'h [httparse::Header<'a>],
    pub(super) found: AnswerFields<'a>,
    /// Bytes of the head.
    pub(super) length: usize,
}

/// Reads an answer's head, of which `make` makes something.
///
/// # Errors
/// It is none, or goes over to a protocol that nobody asked for; those of [`AnswerFields::of`] and of `make`.
pub(super) fn read<T>(
    bytes: &[u8],
    make: impl FnOnce(AnswerHead<'_, '_>) -> Result<T, Unreadable>,
) -> Result<Read<T>, Unreadable> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let read = parser.parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
    let length = match read.map_err(|_| Unreadable)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(Read::Part),
    };
    let code = head.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Unreadable)?;
    if code == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Unreadable);
    }
    if code.is_informational() {
        return Ok(Read::Interim(length));
    }
    let found = AnswerFields::of(&head)?;
    make(AnswerHead { code, reason: head.reason, fields: head.headers, found, length }).map(Read::Head)
}

/// What was found in an answer's fields.
#[derive(Debug, Default)]
pub(super) struct AnswerFields<'a> {
    /// Whether it is of HTTP/1.0.
    pub(super) is_old: bool,
    /// As a number, and as it was sent.
    length: Option<(u64, &'a str)>,
    is_chunked: bool,
    is_last: bool,
    is_kept: bool,
    pub(super) has_date: bool,
    named: [&'a str; NAMED_MAX],
    named_count: usize,
}

/// Where a body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After so many bytes.
    Length(u64),
    /// As its chunks say.
    Chunks,
    /// With the connection.
    Close,
}

impl<'a> AnswerFields<'a> {
    /// Of a head that was read in full.
    ///
    /// # Errors
    /// Lengths that differ or are none, and codings that the client would have to be told of.
    fn of(head: &httparse::Response<'_, 'a>) -> Result<Self, Unreadable> {
        let mut found = Self { is_old: head.version == Some(0), ..Self::default() };
        for field in &*head.headers {
            let is = |other: &str| field.name.eq_ignore_ascii_case(other);
            match field.name.len() {
                4 if is("date") => found.has_date = true,
                10 if is("connection") => found.take_connection(field.value)?,
                14 if is("content-length") => {
                    let text = std::str::from_utf8(field.value).map_err(|_| Unreadable)?;
                    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                    let length = text.parse().ok().filter(|_| is_number).ok_or(Unreadable)?;
                    let before = found.length.replace((length, text));
                    if before.is_some_and(|(before, _)| before != length) {
                        return Err(Unreadable);
                    }
                }
                17 if is("transfer-encoding") => {
                    // What else it is coded in would have to be told, or taken away.
                    if found.is_chunked || found.is_old || !field.value.eq_ignore_ascii_case(b"chunked") {
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

    /// Whether a field is for the endpoint's connection only, or frames the message (RFC 9110 §7.6.1).
    pub(super) fn is_of_hop(&self, name: &str) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let is_known = match name.len() {
            2 => is("te"),
            7 => is("upgrade"),
            10 => is("connection") || is("keep-alive"),
            14 => is("content-length"),
            16 => is("proxy-connection"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        is_known || self.named[..self.named_count].iter().any(|named| is(named))
    }

    /// The body's length in bytes, as its client is told: that of an answer to GET where the answer is to HEAD.
    pub(super) fn length(&self, code: StatusCode) -> Option<u64> {
        self.told_length(code).map(|(length, _)| length)
    }

    /// [`Self::length`] as it was sent, where that is how a number is written.
    pub(super) fn length_as_sent(&self, code: StatusCode) -> Option<&'a str> {
        let (_, text) = self.told_length(code)?;
        (text == "0" || !text.starts_with('0')).then_some(text)
    }

    fn told_length(&self, code: StatusCode) -> Option<(u64, &'a str)> {
        self.length.filter(|_| !self.is_chunked && !has_no_body(code))
    }

    /// Where the body ends.
    pub(super) fn end(&self, code: StatusCode, is_head: bool) -> End {
        if is_head || has_no_body(code) {
            return End::Length(0);
        }
        match self.length(code) {
            Some(length) => End::Length(length),
            None if self.is_chunked => End::Chunks,
            None => End::Close,
        }
    }

    /// Whether the connection takes another request after a body that ends so.
    pub(super) fn is_kept(&self, end: End) -> bool {
        !self.is_last && (!self.is_old || self.is_kept) && end != End::Close
    }

    /// As `Via` has it.
    pub(super) const fn version(&self) -> &'static str {
        if self.is_old { "1.0" } else { "1.1" }
    }
}

fn has_no_body(code: StatusCode) -> bool {
    matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}
