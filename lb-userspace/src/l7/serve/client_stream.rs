//! A client's bytes: watched for what two readers would read differently, and for clients that keep others waiting.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::counters::{Totals, count};
use super::flat;
use super::settings::Limits;
use super::timer::Deadline;
use super::wire::{Scanner, Stage};

/// What is put in the place of refused bytes: it is in no request, so the parser answers 400 and closes.
const REFUSED_BYTE: u8 = 0;
/// Bytes that are read from a client which is being refused, so that its system does not discard the answer for a
/// reset that unread bytes would bring.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// Time for that.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// What the requests of a connection make of it, for the stream to know.
#[derive(Debug, Default)]
pub(super) struct WireState {
    requests: AtomicU32,
    upgrade: AtomicU8,
    is_quiet: AtomicBool,
    reader: AtomicWaker,
}

/// What came of the last request for an upgrade.
const UNDECIDED: u8 = 0;
const ORDINARY: u8 = 1;
const TUNNEL: u8 = 2;

impl WireState {
    /// A request is under way: the client owes nothing.
    pub(super) fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end_request(&self) {
        self.requests.fetch_sub(1, Ordering::AcqRel);
        let _ = self.upgrade.compare_exchange(UNDECIDED, ORDINARY, Ordering::AcqRel, Ordering::Acquire);
        self.reader.wake();
    }

    /// What comes now is no HTTP.
    pub(super) fn become_tunnel(&self) {
        self.upgrade.store(TUNNEL, Ordering::Release);
        self.reader.wake();
    }

    /// Whether nothing is under way between requests: all that came was read and answered, and the answers are sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Acquire) && !self.is_busy()
    }

    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }
}

/// Who reads the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Each byte of HTTP/1 is followed.
    Http1,
    /// HTTP/2 frames its messages in one way only.
    Http2,
}

/// A client's side of a connection.
#[derive(Debug)]
pub(super) struct ClientStream<S> {
    inner: S,
    /// None once the bytes are not HTTP/1, or no longer.
    scanner: Option<Scanner>,
    state: Arc<WireState>,
    totals: Arc<Totals>,
    header_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
    is_refused: bool,
    is_first: bool,
    /// Since when the client owes the rest of a head, or a request.
    reads_since: Option<Instant>,
    was_in_head: bool,
    read_deadline: Deadline,
    writes_since: Option<Instant>,
    write_deadline: Deadline,
    lingers_since: Option<Instant>,
    lingered_bytes: usize,
}

impl<S> ClientStream<S> {
    pub(super) fn new(
        inner: S,
        dialect: Dialect,
        state: Arc<WireState>,
        totals: Arc<Totals>,
        limits: &Limits,
    ) -> Self {
        Self {
            inner,
            scanner: (dialect == Dialect::Http1).then(Scanner::new),
            state,
            totals,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            stall_timeout: limits.write_stall_timeout,
            is_refused: false,
            is_first: true,
            reads_since: None,
            was_in_head: false,
            read_deadline: Deadline::default(),
            writes_since: None,
            write_deadline: Deadline::default(),
            lingers_since: None,
            lingered_bytes: 0,
        }
    }

    /// Whether all that was read is whole requests, of which none asks for an upgrade.
    pub(super) fn is_between(&self) -> bool {
        !self.is_refused && self.scanner.as_ref().is_some_and(|scanner| scanner.stage() == Stage::Between)
    }

    /// Whether the bytes may be read now, after a request for an upgrade.
    fn poll_upgrade(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(scanner) = &mut self.scanner else { return Poll::Ready(()) };
        if self.state.upgrade.load(Ordering::Acquire) == TUNNEL {
            self.scanner = None;
            return Poll::Ready(());
        }
        if scanner.stage() != Stage::Upgrade {
            return Poll::Ready(());
        }
        self.state.reader.register(cx.waker());
        if self.state.upgrade.load(Ordering::Acquire) == ORDINARY && !self.state.is_busy() {
            scanner.resume();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Where refused bytes begin.
    fn watch(&mut self, bytes: &[u8]) -> Option<usize> {
        let scanner = self.scanner.as_mut()?;
        let scanned = scanner.scan(bytes);
        if scanner.stage() == Stage::Upgrade {
            self.state.upgrade.store(UNDECIDED, Ordering::Release);
        }
        let refused = scanned.err()?;
        tracing::debug!(fault = ?refused.fault, "bytes of a client are refused");
        count(&self.totals.bytes_refused);
        self.is_refused = true;
        Some(refused.at)
    }

    /// Ready when the client took too long for what it owes.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(scanner) = &self.scanner else { return Poll::Pending };
        let is_in_head = scanner.stage() == Stage::Head;
        let is_quiet = scanner.stage() == Stage::Between && self.writes_since.is_none();
        self.state.is_quiet.store(is_quiet, Ordering::Release);
        let owes = is_in_head || (scanner.stage() == Stage::Between && !self.state.is_busy());
        if !owes {
            self.reads_since = None;
            return Poll::Pending;
        }
        if is_in_head && !self.was_in_head && !self.is_first {
            self.reads_since = None;
        }
        self.was_in_head = is_in_head;
        let since = *self.reads_since.get_or_insert_with(Instant::now);
        let limit = if is_in_head || self.is_first { self.header_timeout } else { self.idle_timeout };
        self.read_deadline.poll(cx, since + limit)
    }

    fn poll_stall<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.writes_since = None;
            return result;
        }
        self.state.is_quiet.store(false, Ordering::Release);
        let since = *self.writes_since.get_or_insert_with(Instant::now);
        if self.write_deadline.poll(cx, since + self.stall_timeout).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    /// Reads what a client still sends that will not be served.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.lingers_since.get_or_insert_with(Instant::now);
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.lingered_bytes += buffer.filled().len();
                    if self.lingered_bytes >= LINGER_BYTES_MAX {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.read_deadline.poll(cx, since + LINGER_TIMEOUT),
            }
        }
    }

    /// Whether the client may have sent what nobody read.
    fn has_unread(&self) -> bool {
        self.is_refused || self.scanner.as_ref().is_some_and(|scanner| scanner.stage() != Stage::Between)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_refused {
            return Poll::Ready(Ok(()));
        }
        if this.poll_upgrade(cx).is_pending() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                this.state.is_quiet.store(false, Ordering::Release);
                if let Some(at) = this.watch(&buffer.filled()[before..]) {
                    buffer.filled_mut()[before + at] = REFUSED_BYTE;
                    buffer.set_filled(before + at + 1);
                }
                let is_between = this.scanner.as_ref().is_some_and(|scanner| scanner.stage() != Stage::Head);
                if is_between && buffer.filled().len() > before {
                    this.is_first = false;
                    this.was_in_head = false;
                    this.reads_since = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending if this.poll_patience(cx).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client sends nothing")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.poll_stall(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = flat::poll_write(Pin::new(&mut self.inner), cx, pieces);
        self.poll_stall(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.poll_stall(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers_since.is_none() {
            let result = Pin::new(&mut self.inner).poll_shutdown(cx);
            match self.poll_stall(cx, result) {
                Poll::Ready(Ok(())) if self.has_unread() => {}
                result => return result,
            }
        }
        self.poll_linger(cx).map(Ok)
    }
}
