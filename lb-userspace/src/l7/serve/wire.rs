//! What a client's HTTP/1 bytes must look like, so that no two readers of them see different requests. Pure.
//!
//! The parser behind this one is lenient where RFC 9112 lets it be: it ends lines at a bare line feed (§2.2), takes a
//! length beside a coding (§6.3) and equal lengths twice. An endpoint may read the same bytes otherwise, and what the two
//! disagree on is a request that nobody judged. So the bytes are followed once more, strictly, and the first that is
//! not plain is refused.
use memchr::{memchr, memchr2};

/// Longest line that is kept while it comes in pieces, bytes. A longer one is let through: it is longer than the
/// parser's buffer, which refuses it (431).
const LINE_BYTES_MAX: usize = super::settings::HEAD_BUFFER_BYTES;
/// Longest line with a chunk's size, bytes; extensions are seldom seen and never needed.
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Empty lines before a request (RFC 9112 §2.2 asks for one).
const EMPTY_LINES_MAX: u8 = 1;
/// Digits of a length: all that a `u64` surely holds.
const LENGTH_DIGITS_MAX: usize = 19;
/// Digits of a chunk's size, likewise.
const CHUNK_DIGITS_MAX: usize = 15;

/// Why bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A line ends without a carriage return, or has one inside.
    LineEnd,
    /// A field goes on in the next line (RFC 9112 §5.2).
    Fold,
    /// More empty lines than [`EMPTY_LINES_MAX`] before a request.
    EmptyLines,
    /// `Content-Length` that is no plain number, or a second one.
    Length,
    /// `Transfer-Encoding` other than one `chunked`.
    Coding,
    /// Both of them.
    LengthAndCoding,
    /// The size or the end of a chunk.
    Chunk,
    /// A field that frames a message, in its trailers.
    Trailer,
    /// Bytes that came before the answer to a request for an upgrade.
    Early,
}

/// Where in its requests a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before a request's first byte.
    Between,
    /// In a request's head.
    Head,
    /// In a request's body.
    Body,
    /// After a request that asks for an upgrade: [`Scanner::resume`] if it got none.
    Upgrade,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RequestLine,
    Field,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    Trailer,
    Upgrade,
}

/// What bytes of a body in chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Sizes and ends of chunks.
    Framing,
    /// The body's own.
    Data,
    /// Fields after the last chunk.
    Trailers,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    empty_lines: u8,
    length: Option<u64>,
    is_chunked: bool,
    is_upgrade: bool,
}

/// Bytes that are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// How many bytes before them are good.
    pub(super) at: usize,
    pub(super) fault: Fault,
}

impl Scanner {
    pub(super) const fn new() -> Self {
        Self {
            state: State::RequestLine,
            line: Vec::new(),
            empty_lines: 0,
            length: None,
            is_chunked: false,
            is_upgrade: false,
        }
    }

    /// Of a body in chunks.
    pub(super) fn of_chunks() -> Self {
        let mut scanner = Self::new();
        scanner.state = State::ChunkSize;
        scanner
    }

    pub(super) fn stage(&self) -> Stage {
        match self.state {
            State::RequestLine if self.line.is_empty() => Stage::Between,
            State::RequestLine | State::Field => Stage::Head,
            State::Upgrade => Stage::Upgrade,
            _ => Stage::Body,
        }
    }

    /// The request for an upgrade got an ordinary answer: another request may follow.
    pub(super) const fn resume(&mut self) {
        if matches!(self.state, State::Upgrade) {
            self.state = State::RequestLine;
        }
    }

    /// Takes the next bytes of the connection.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            at += self.step(rest).map_err(|fault| Refused { at, fault })?;
        }
        Ok(())
    }

    /// Takes some of the next bytes of a body in chunks, at least one: how many, and what they are.
    pub(super) fn take_part(&mut self, bytes: &[u8]) -> Result<(usize, Part), Fault> {
        let part = match self.state {
            State::Chunk(_) => Part::Data,
            State::Trailer => Part::Trailers,
            _ => Part::Framing,
        };
        self.step(bytes).map(|length| (length, part))
    }

    /// Takes some of `bytes`, at least one; how many.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match self.state {
            State::RequestLine | State::Field | State::ChunkSize | State::Trailer => self.line(bytes),
            State::Body(left) => Ok(self.skip(bytes, left, State::Body, State::RequestLine)),
            State::Chunk(left) => Ok(self.skip(bytes, left, State::Chunk, State::ChunkCr)),
            State::ChunkCr => self.expect(bytes, b'\r', State::ChunkLf),
            State::ChunkLf => self.expect(bytes, b'\n', State::ChunkSize),
            State::Upgrade => Err(Fault::Early),
        }
    }

    fn skip(&mut self, bytes: &[u8], left: u64, within: fn(u64) -> State, after: State) -> usize {
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - taken as u64;
        self.state = if left == 0 { after } else { within(left) };
        taken
    }

    fn expect(&mut self, bytes: &[u8], byte: u8, next: State) -> Result<usize, Fault> {
        if bytes.first() != Some(&byte) {
            return Err(Fault::Chunk);
        }
        self.state = next;
        Ok(1)
    }

    fn line(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let Some(end) = memchr(b'\n', bytes) else {
            self.keep(bytes)?;
            return Ok(bytes.len());
        };
        let piece = &bytes[..end];
        if self.line.is_empty() {
            self.judge(piece)?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(piece);
            self.judge(&line)?;
            line.clear();
            self.line = line;
        }
        Ok(end + 1)
    }

    fn keep(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let length = self.line.len() + piece.len();
        if self.state == State::ChunkSize && length > CHUNK_LINE_BYTES_MAX {
            return Err(Fault::Chunk);
        }
        if length <= LINE_BYTES_MAX {
            self.line.extend_from_slice(piece);
        }
        Ok(())
    }

    /// Judges a line without its line feed.
    fn judge(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some((b'\r', line)) = line.split_last() else { return Err(Fault::LineEnd) };
        if memchr2(b'\r', b'\n', line).is_some() {
            return Err(Fault::LineEnd);
        }
        match self.state {
            State::RequestLine => self.request_line(line),
            State::Field => self.field(line),
            State::ChunkSize => self.chunk_size(line),
            _ => self.trailer(line),
        }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.is_empty() {
            self.empty_lines += 1;
            return if self.empty_lines > EMPTY_LINES_MAX { Err(Fault::EmptyLines) } else { Ok(()) };
        }
        // What follows a CONNECT is nobody's request.
        let is_connect = line.starts_with(b"CONNECT ");
        (self.length, self.is_chunked, self.is_upgrade) = (None, false, is_connect);
        self.state = State::Field;
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(first) = line.first() else { return self.end_of_head() };
        if matches!(first, b' ' | b'\t') {
            return Err(Fault::Fold);
        }
        // A line without a colon is the parser's to refuse.
        let (name, value) = split(line);
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = plain_number(value).filter(|_| self.length.is_none());
            self.length = Some(length.ok_or(Fault::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Coding);
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.is_upgrade = true;
        }
        if self.is_chunked && self.length.is_some() { Err(Fault::LengthAndCoding) } else { Ok(()) }
    }

    fn end_of_head(&mut self) -> Result<(), Fault> {
        self.empty_lines = 0;
        self.state = match self.length {
            _ if self.is_chunked => State::ChunkSize,
            Some(length) if length > 0 => State::Body(length),
            _ if self.is_upgrade => State::Upgrade,
            _ => State::RequestLine,
        };
        Ok(())
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Fault> {
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let is_plain = !digits.is_empty()
            && digits.len() <= CHUNK_DIGITS_MAX
            && digits.iter().all(u8::is_ascii_hexdigit)
            && line.len() <= CHUNK_LINE_BYTES_MAX;
        let text = std::str::from_utf8(digits).ok().filter(|_| is_plain);
        let size = text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(Fault::Chunk)?;
        self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
        Ok(())
    }

    fn trailer(&mut self, line: &[u8]) -> Result<(), Fault> {
        match line.first() {
            None => self.state = State::RequestLine,
            Some(b' ' | b'\t') => return Err(Fault::Fold),
            Some(_) => {
                let (name, _) = split(line);
                let framing: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];
                if framing.iter().any(|field| name.eq_ignore_ascii_case(field)) {
                    return Err(Fault::Trailer);
                }
            }
        }
        Ok(())
    }
}

/// A field's name, and its value without the space around it.
fn split(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = memchr(b':', line).unwrap_or(line.len());
    let value = line.get(colon + 1..).unwrap_or_default();
    (&line[..colon], value.trim_ascii())
}

fn plain_number(value: &[u8]) -> Option<u64> {
    let is_plain = value.len() <= LENGTH_DIGITS_MAX && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_plain)?.parse().ok()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
