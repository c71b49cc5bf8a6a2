//! HTTP/2 frame by frame (RFC 9113 §4), as no library would send them.
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};

use crate::stand::{HTTP_2, Stand};

/// Frame types (RFC 9113 §6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// Flags.
pub(crate) const NONE: u8 = 0;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
/// A whole request without a body.
pub(crate) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Error codes (RFC 9113 §7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// What a client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before a frame's payload.
const HEAD_BYTES: usize = 9;

/// A frame, whatever its type says of its payload.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as literals that no table takes in (RFC 7541 §6.2.2), without Huffman coding.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        put_string(&mut bytes, name.as_bytes());
        put_string(&mut bytes, value.as_bytes());
    }
    bytes
}

/// A string with its length before it (RFC 7541 §5.1, §5.2).
pub(crate) fn put_string(bytes: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        short @ 0..127 => bytes.push(short as u8),
        mut rest => {
            bytes.push(127);
            rest -= 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend(text);
}

/// The pseudo-fields of a request.
pub(crate) fn pseudo<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "https"), (":authority", "shop.example"), (":path", path)]
}

/// A whole GET.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(&pseudo("GET", path)))
}

/// A POST whose body is to come.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&pseudo("POST", path)))
}

/// A setting (RFC 9113 §6.5.1).
pub(crate) fn setting(identifier: u16, value: u32) -> Vec<u8> {
    [&identifier.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// What comes of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The connection is over, with an error's code.
    Connection(u32),
    /// A stream is.
    Stream(u32, u32),
    /// A stream has an answer.
    Answer(u32, u16),
    /// The connection is over without a word.
    Closed,
}

/// A frame that came.
#[derive(Debug)]
struct Came {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Came {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// A client that sends what it likes.
pub(crate) struct Peer(StreamOwned<ClientConnection, TcpStream>);

impl Peer {
    /// Connected, with both sides' settings acknowledged by this one.
    pub(crate) fn dial(stand: &Stand) -> Self {
        Self::open(stand.dial_tls_blocking(HTTP_2), &[])
    }

    /// As [`dial`](Self::dial), over a connection, with settings of its own.
    pub(crate) fn open(stream: StreamOwned<ClientConnection, TcpStream>, settings: &[u8]) -> Self {
        let mut peer = Self(stream);
        peer.send(&[PREFACE, &frame(SETTINGS, NONE, 0, settings)].concat()).unwrap();
        loop {
            let came = peer.read().unwrap();
            if came.kind == SETTINGS && came.flags & ACK == 0 {
                break;
            }
        }
        peer.send(&frame(SETTINGS, ACK, 0, &[])).unwrap();
        peer
    }

    /// Connected by TLS, and nothing said.
    pub(crate) fn silent(stand: &Stand) -> Self {
        Self(stand.dial_tls_blocking(HTTP_2))
    }

    /// # Errors
    /// The other side has closed.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    fn read(&mut self) -> io::Result<Came> {
        let mut head = [0; HEAD_BYTES];
        self.0.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload)?;
        Ok(Came { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until something is over or answered.
    ///
    /// # Panics
    /// Nothing comes before the deadline.
    pub(crate) fn outcome(&mut self) -> Outcome {
        loop {
            let came = match self.read() {
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing comes"),
                Err(_) => return Outcome::Closed,
            };
            match came.kind {
                GOAWAY if came.number(4) != NO_ERROR => return Outcome::Connection(came.number(4)),
                RST_STREAM => return Outcome::Stream(came.stream, came.number(0)),
                HEADERS => return Outcome::Answer(came.stream, status(&came.payload)),
                _ => {}
            }
        }
    }

    /// Whether a ping is answered.
    pub(crate) fn is_alive(&mut self) -> bool {
        let data = *b"podway!!";
        if self.send(&frame(PING, NONE, 0, &data)).is_err() {
            return false;
        }
        loop {
            match self.read() {
                Ok(came) if came.kind == PING && came.flags & ACK != 0 => return came.payload == data,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }
}

/// The code of an answer's first field, which `:status` is: of the static table, or a literal (RFC 7541 §6, appendix A).
fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        // A change of the table's size comes before (RFC 7541 §4.2).
        [size, rest @ ..] if size >> 5 == 1 => status(rest),
        [index, ..] if index >> 7 == 1 => INDEXED[usize::from(index & 0x7f) - 8],
        [_, length, text @ ..] if length >> 7 == 1 => huffman_digits(&text[..usize::from(length & 0x7f)]),
        [_, length, text @ ..] => {
            let text = std::str::from_utf8(&text[..usize::from(*length)]).unwrap();
            text.parse().unwrap()
        }
        _ => panic!("no status: {block:?}"),
    }
}

/// Three digits in Huffman coding (RFC 7541 appendix B): 0 to 2 have five bits, the others six.
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0_u16, |number, bit| number * 2 + u16::from(*bit));
    let (mut at, mut code) = (0, 0);
    for _ in 0..3 {
        let short = number(&bits[at..at + 5]);
        let (digit, length) = if short < 3 { (short, 5) } else { (number(&bits[at..at + 6]) - 22, 6) };
        code = code * 10 + digit;
        at += length;
    }
    code
}
