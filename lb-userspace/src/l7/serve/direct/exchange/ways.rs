//! The ways of a request and its answer.
use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::poll_fn;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Exchange, Failed};
use crate::health::Signal;
use crate::l7::serve::answer_fields::{Read, Unreadable};
use crate::l7::serve::choose::choose;
use crate::l7::serve::client_stream::ClientStream;
use crate::l7::serve::direct::answer::{self, Framing, Head, Manner, Passed};
use crate::l7::serve::direct::room::poll_write;
use crate::l7::serve::refusal::Reason;
use crate::l7::serve::settings::HEAD_BUFFER_BYTES;
use crate::l7::serve::snapshot::InFlight;

/// Bytes that are read of a client beside a request that is under way.
const EARLY_BYTES: usize = 1_024;
/// The end of a body in chunks (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Exchange {
    /// Passes the request on and the answer back; whether it is the connection's last.
    pub(super) async fn pass<S>(
        &mut self,
        stream: &mut ClientStream<S>,
        closing: &watch::Receiver<()>,
    ) -> Result<bool, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut endpoint = match self.connection.take() {
            Some(connection) => connection,
            // It is rare, and takes room that the future of every request would have.
            None => Box::pin(self.connect()).await?,
        };
        let mut sent = 0;
        let passed = &self.passed;
        let all = poll_fn(|cx| poll_write(Pin::new(&mut endpoint), cx, passed, &mut sent)).await;
        if all.is_err() {
            return Err(self.lost(sent == 0));
        }
        let (mut head, mut lent, is_last) = self.head(&mut endpoint, stream, closing).await?;
        let worker = Rc::clone(&self.worker);
        let mut endpoint = Some(endpoint);
        let mut is_clean = true;
        loop {
            // It takes another request before this one's client has the answer.
            if head.body.is_done()
                && let Some(connection) = endpoint.take()
                && head.is_kept
                && is_clean
            {
                worker.pool.keep_plain(self.endpoint.address, connection);
            }
            worker.rooms.send(stream, std::mem::take(&mut lent)).await.map_err(|_| Failed::Broken)?;
            let Some(connection) = endpoint.as_mut() else { return Ok(is_last) };
            let length = self.read(connection, stream).await?;
            let mut written = worker.rooms.written.borrow_mut();
            written.clear();
            let passed = match (length, &mut head.body) {
                (0, Framing::Close) => {
                    head.body = Framing::Length(0);
                    written.extend_from_slice(LAST_CHUNK);
                    continue;
                }
                (0, _) => None,
                (_, body) => worker.rooms.with_read(length, |bytes| body.pass(bytes, &mut written)).ok(),
            };
            let Some(passed) = passed else {
                self.record.note_cut("cut-by-endpoint");
                return Err(Failed::Broken);
            };
            self.record.add_bytes(passed.data);
            lent = 0..passed.lent;
            is_clean = passed.taken == length;
        }
    }

    /// Reads an answer's head and what came with it of the body, and leaves in the thread's room what the client gets: what
    /// is written, and then these of the bytes that were read.
    async fn head<S>(
        &mut self,
        endpoint: &mut TcpStream,
        stream: &mut ClientStream<S>,
        closing: &watch::Receiver<()>,
    ) -> Result<(Head, Range<usize>, bool), Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let worker = Rc::clone(&self.worker);
        // What came of it before the last read.
        let mut before = Vec::new();
        let mut needs_more = true;
        loop {
            let length = if needs_more { self.read(endpoint, stream).await? } else { 0 };
            if needs_more && length == 0 {
                return Err(if before.is_empty() { self.lost(false) } else { self.broken() });
            }
            let is_last = self.is_last(closing);
            let manner = Manner { is_head: self.is_head, id: &self.id, is_last };
            let mut written = worker.rooms.written.borrow_mut();
            written.clear();
            let read = worker.rooms.with_read(length, |bytes| {
                let bytes = if before.is_empty() {
                    bytes
                } else {
                    before.extend_from_slice(bytes);
                    &before
                };
                let read = answer::pass(bytes, manner, &mut written)?;
                let Read::Head(mut head) = read else { return Ok((read, Passed::default())) };
                let rest = &bytes[head.length..];
                let mut passed = head.body.pass(rest, &mut written)?;
                head.is_kept &= passed.taken == rest.len();
                if !before.is_empty() {
                    written.extend_from_slice(&rest[..std::mem::take(&mut passed.lent)]);
                }
                Ok::<_, Unreadable>((Read::Head(head), passed))
            });
            match read {
                Ok((Read::Head(head), passed)) => {
                    self.record.add_bytes(passed.data);
                    self.answered(head.code);
                    let lent = head.length..head.length + passed.lent;
                    return Ok((head, lent, is_last));
                }
                Ok((part, _)) => {
                    if before.is_empty() {
                        before = worker.rooms.copy(length);
                    }
                    match part {
                        Read::Interim(interim) => drop(before.drain(..interim)),
                        _ if before.len() > HEAD_BUFFER_BYTES => return Err(self.broken()),
                        _ => {}
                    }
                    needs_more = before.is_empty() || matches!(part, Read::Part);
                }
                Err(Unreadable) => return Err(self.broken()),
            }
        }
    }

    fn answered(&mut self, code: StatusCode) {
        self.is_answered = true;
        self.signal(if code.is_server_error() { Signal::ServerError } else { Signal::Answered });
        self.note_code(code, None);
    }

    /// Reads what the endpoint says; nothing where it has hung up. A client that hangs up ends it, unless it has said
    /// what it wants next.
    async fn read<S>(
        &mut self,
        endpoint: &mut TcpStream,
        stream: &mut ClientStream<S>,
    ) -> Result<usize, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (worker, early) = (&self.worker, &mut self.early);
        poll_fn(|cx| {
            if let Poll::Ready(read) = worker.rooms.poll_read(Pin::new(&mut *endpoint), cx) {
                return Poll::Ready(Ok(read.unwrap_or(0)));
            }
            if early.is_empty() { poll_early(stream, cx, early).map(Err) } else { Poll::Pending }
        })
        .await
    }

    /// A connection to the endpoint, or to another one where none comes about.
    async fn connect(&mut self) -> Result<TcpStream, Failed> {
        let mut tried = Vec::new();
        loop {
            let error = match self.worker.pool.open_plain(self.endpoint.address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            self.worker.shared.note_unconnected(&self.service, &self.endpoint, &error, self.began_ms);
            tried.push(Arc::clone(&self.endpoint));
            if !self.may_retry() {
                return Err(Failed::Refused(Reason::ConnectFailed));
            }
            let next = choose(&self.service, &tried, |below| self.worker.draw(below));
            self.endpoint = Arc::clone(next.ok_or(Failed::Refused(Reason::ConnectFailed))?);
            self.in_flight = InFlight::begin(&self.endpoint);
        }
    }

    /// The connection ended before a byte of the answer came.
    fn lost(&mut self, is_unsent: bool) -> Failed {
        if self.is_reused && is_unsent {
            return Failed::Again;
        }
        if !self.is_reused || !self.is_repeatable {
            return self.broken();
        }
        if self.may_retry() { Failed::Again } else { Failed::Refused(Reason::Protocol) }
    }

    /// The endpoint says what is no answer.
    fn broken(&self) -> Failed {
        self.signal(Signal::ServerError);
        Failed::Refused(Reason::Protocol)
    }

    fn may_retry(&mut self) -> bool {
        let may = self.worker.may_retry(&self.service, self.retries);
        self.retries += u32::from(may);
        may
    }
}

/// Reads what the client sends before it is answered. Ready when it has hung up.
fn poll_early<S>(stream: &mut ClientStream<S>, cx: &mut Context<'_>, early: &mut Vec<u8>) -> Poll<Failed>
where
    S: AsyncRead + Unpin,
{
    let mut room = [const { MaybeUninit::uninit() }; EARLY_BYTES];
    let mut buffer = ReadBuf::uninit(&mut room);
    let read = ready!(Pin::new(stream).poll_read(cx, &mut buffer));
    if read.is_err() || buffer.filled().is_empty() {
        return Poll::Ready(Failed::Broken);
    }
    early.extend_from_slice(buffer.filled());
    Poll::Pending
}
