//! Answers of HTTP/1 endpoints to requests without a body.
//!
//! Such a request is one write, and its answer mostly one read. A connection that hyper runs keeps the state of two
//! messages for that, with a channel and wakers between it and whoever asks. Here the request's own task writes it, reads
//! the head from the thread's room, and then the body where its client takes it. The request stays whole until an answer
//! is here, so it is sent again as it is.
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::future::poll_fn;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::answer_fields::{self, AnswerHead, End, Read, Unreadable};
use super::body::RequestBody;
use super::direct::{Rooms, poll_write};
use super::forward;
use super::pool::Pool;
use super::settings::{HEAD_BUFFER_BYTES, HEADERS_MAX};
use super::snapshot::InFlight;
use super::wire::{Part, Scanner, Stage};

/// Bytes of a body that are read at a time.
const READ_BYTES: usize = 64 * 1024;

/// A connection for one request.
#[derive(Debug)]
pub(super) struct PlainLease {
    pub(super) pool: Rc<Pool>,
    pub(super) endpoint: SocketAddr,
    pub(super) stream: TcpStream,
    /// Whether it carried a request before: its endpoint may have closed it meanwhile.
    pub(super) is_reused: bool,
    /// Held as long as the connection is.
    pub(super) _in_flight: InFlight,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The connection took nothing of the request.
    Unsent,
    /// It ended before the answer's first byte.
    Closed,
    /// What came is no answer.
    Broken,
}

/// What is left of an answer's body.
#[derive(Debug)]
enum Rest {
    Done,
    /// So many bytes, one at least.
    Length(u64),
    Chunks(Box<Chunks>),
    /// All that comes.
    Close,
}

/// A body in chunks.
#[derive(Debug)]
struct Chunks {
    scanner: Scanner,
    /// What was read of its trailers.
    trailers: Vec<u8>,
}

/// An answer's body on its way.
#[derive(Debug)]
pub(super) struct PlainBody {
    /// The connection, as long as something is to come by it.
    lease: Option<PlainLease>,
    is_kept: bool,
    /// What was read and not handed out.
    read: BytesMut,
    rest: Rest,
}

impl PlainLease {
    /// Sends the request, and reads the head of its answer, whose fields go where the request's were.
    ///
    /// # Errors
    /// [`Lost::Unsent`] and [`Lost::Closed`] leave the request whole; it must not be sent again after all of them.
    pub(super) async fn ask(
        mut self,
        rooms: &Rooms,
        request: &mut Request<RequestBody>,
    ) -> Result<Response<PlainBody>, Lost> {
        let mut written = rooms.take();
        write_head(request, &mut written);
        let mut sent = 0;
        let all = poll_fn(|cx| poll_write(Pin::new(&mut self.stream), cx, &written, &mut sent)).await;
        rooms.put_back(written);
        if all.is_err() {
            return Err(if sent == 0 { Lost::Unsent } else { Lost::Closed });
        }
        let is_head = request.method() == http::Method::HEAD;
        // What came of it before the last read.
        let mut before = Vec::new();
        loop {
            let read = poll_fn(|cx| rooms.poll_read(Pin::new(&mut self.stream), cx)).await;
            let length = match read {
                Ok(length) if length > 0 => length,
                _ => return Err(if before.is_empty() { Lost::Closed } else { Lost::Broken }),
            };
            let headers = request.headers_mut();
            let read = rooms.with_read(length, |bytes| {
                if before.is_empty() {
                    return read_head(bytes, is_head, headers);
                }
                before.extend_from_slice(bytes);
                read_head(&before, is_head, headers)
            });
            match read.map_err(|Unreadable| Lost::Broken)? {
                Some((response, head)) => return Ok(response.map(|()| PlainBody::new(self, head))),
                None if before.is_empty() => before = rooms.copy(length),
                None if before.len() > HEAD_BUFFER_BYTES => return Err(Lost::Broken),
                None => {}
            }
        }
    }
}

/// Writes a request that has no body.
fn write_head(request: &Request<RequestBody>, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// A head's end: what follows it.
#[derive(Debug)]
struct Head {
    end: End,
    is_kept: bool,
    /// What came of the body with it.
    body: BytesMut,
}

/// Reads an answer's head and those of interim answers before it (RFC 9110 §15.2); none while it is not whole. `room` is
/// left as it is while there is none, and taken for the fields else.
fn read_head(
    mut bytes: &[u8],
    is_head: bool,
    room: &mut HeaderMap,
) -> Result<Option<(Response<()>, Head)>, Unreadable> {
    loop {
        match answer_fields::read(bytes, |head| response_of(&head, bytes, is_head, std::mem::take(room)))? {
            Read::Part => return Ok(None),
            Read::Interim(length) => bytes = &bytes[length..],
            Read::Head(read) => return Ok(Some(read)),
        }
    }
}

fn response_of(
    head: &AnswerHead<'_, '_>,
    bytes: &[u8],
    is_head: bool,
    room: HeaderMap,
) -> Result<(Response<()>, Head), Unreadable> {
    let AnswerHead { code, reason, fields, found, length } = head;
    let mut response = Response::new(());
    *response.status_mut() = *code;
    *response.version_mut() = if found.is_old { Version::HTTP_10 } else { Version::HTTP_11 };
    if let Some(reason) = reason.filter(|reason| Some(*reason) != code.canonical_reason()) {
        let reason = ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Unreadable)?;
        response.extensions_mut().insert(reason);
    }
    // One copy of all that came; the values of the fields are parts of it, as the body's beginning is.
    let mut body = BytesMut::from(bytes);
    let copy = body.split_to(*length).freeze();
    let value = |part: &[u8]| {
        let begin = part.as_ptr().addr() - bytes.as_ptr().addr();
        HeaderValue::from_maybe_shared(copy.slice(begin..begin + part.len())).map_err(|_| Unreadable)
    };
    let headers = response.headers_mut();
    *headers = room;
    headers.clear();
    for field in fields.iter().filter(|field| !found.is_of_hop(field.name)) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Unreadable)?;
        headers.append(name, value(field.value)?);
    }
    if let Some(length) = found.length(*code) {
        let as_sent = found.length_as_sent(*code).map(|text| value(text.as_bytes()));
        headers.insert(CONTENT_LENGTH, as_sent.unwrap_or_else(|| Ok(length.into()))?);
    }
    let end = found.end(*code, is_head);
    Ok((response, Head { end, is_kept: found.is_kept(end), body }))
}

impl PlainBody {
    fn new(lease: PlainLease, head: Head) -> Self {
        let Head { end, is_kept, body: read } = head;
        let rest = match end {
            End::Length(0) => Rest::Done,
            End::Length(length) => Rest::Length(length),
            End::Chunks => {
                Rest::Chunks(Box::new(Chunks { scanner: Scanner::of_chunks(), trailers: Vec::new() }))
            }
            End::Close => Rest::Close,
        };
        let mut body = Self { lease: Some(lease), is_kept, read, rest };
        body.give_back();
        body
    }

    /// Whether nothing of it is left to be handed out.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.rest, Rest::Done)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.rest {
            Rest::Done => SizeHint::with_exact(0),
            Rest::Length(left) => SizeHint::with_exact(left),
            Rest::Chunks(_) | Rest::Close => SizeHint::default(),
        }
    }

    /// Leaves the connection to another request once all of the answer was read from it.
    fn give_back(&mut self) {
        let left = match self.rest {
            Rest::Done => Some(0),
            Rest::Length(left) => Some(left),
            Rest::Chunks(_) | Rest::Close => None,
        };
        let read = self.read.len() as u64;
        // What comes beyond its end belongs to no answer.
        if left.is_some_and(|left| left <= read)
            && let Some(PlainLease { pool, endpoint, stream, .. }) = self.lease.take()
            && self.is_kept
            && left == Some(read)
        {
            pool.keep_plain(endpoint, stream);
        }
    }

    /// Polls for the next part; none at the end.
    ///
    /// # Errors
    /// The endpoint's connection failed or ended too early, or its chunks are none.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let next = self.next();
            self.give_back();
            if let Some(next) = next.transpose() {
                return Poll::Ready(Some(next));
            }
            let (false, Some(lease)) = (self.is_done(), &mut self.lease) else { return Poll::Ready(None) };
            let room = match self.rest {
                Rest::Length(left) => usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES)),
                _ => READ_BYTES,
            };
            self.read.reserve(room);
            let length = ready!(pin!(lease.stream.read_buf(&mut self.read)).poll(cx));
            match (length, &self.rest) {
                (Ok(0), Rest::Close) => self.rest = Rest::Done,
                (Ok(0), _) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                (Err(error), _) => return Poll::Ready(Some(Err(error))),
                (Ok(_), _) => {}
            }
        }
    }

    /// A part of what was read.
    fn next(&mut self) -> io::Result<Option<Frame<Bytes>>> {
        let length = match &mut self.rest {
            _ if self.read.is_empty() => return Ok(None),
            Rest::Done => return Ok(None),
            Rest::Close => self.read.len(),
            Rest::Length(left) => {
                let length = self.read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= length as u64;
                if *left == 0 {
                    self.rest = Rest::Done;
                }
                length
            }
            Rest::Chunks(chunks) => {
                let length = chunks.skip_to_data(&mut self.read)?;
                if chunks.scanner.stage() == Stage::Between {
                    let trailers = chunks.trailers()?;
                    self.rest = Rest::Done;
                    return Ok(trailers.map(Frame::trailers));
                }
                if length == 0 {
                    return Ok(None);
                }
                length
            }
        };
        Ok(Some(Frame::data(self.read.split_to(length).freeze())))
    }
}

impl Chunks {
    /// Takes from `read` what frames the next data; how many bytes of it are here.
    fn skip_to_data(&mut self, read: &mut BytesMut) -> io::Result<usize> {
        while !read.is_empty() && self.scanner.stage() == Stage::Body {
            let (length, part) = self.scanner.take_part(read).map_err(|_| broken_chunks())?;
            if part == Part::Data {
                return Ok(length);
            }
            let taken = read.split_to(length);
            if part == Part::Trailers {
                if self.trailers.len() + length > HEAD_BUFFER_BYTES {
                    return Err(broken_chunks());
                }
                self.trailers.extend_from_slice(&taken);
            }
        }
        Ok(0)
    }

    /// The fields after the last chunk, where there are some.
    fn trailers(&self) -> io::Result<Option<HeaderMap>> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let Ok(httparse::Status::Complete((_, fields))) =
            httparse::parse_headers(&self.trailers, &mut fields)
        else {
            return Err(broken_chunks());
        };
        let mut headers = HeaderMap::with_capacity(fields.len());
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| broken_chunks())?;
            headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| broken_chunks())?);
        }
        forward::remove_hop_by_hop(&mut headers);
        Ok((!headers.is_empty()).then_some(headers))
    }
}

fn broken_chunks() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the chunks of an answer are none")
}

#[cfg(test)]
#[path = "plain_answer_tests.rs"]
mod tests;
