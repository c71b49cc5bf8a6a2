//! A plain request under way: to an endpoint, and its answer back.
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use futures::future::poll_fn;
use http::{HeaderValue, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::answer::{self, Framing, Head, Manner, Read, Unreadable};
use super::request::{self, Asked};
use super::room::poll_write;
use crate::clock;
use crate::health::Signal;
use crate::l7::serve::choose::choose;
use crate::l7::serve::client_stream::ClientStream;
use crate::l7::serve::exchange::line;
use crate::l7::serve::link::{Busy, Link};
use crate::l7::serve::record::{Record, is_sampled};
use crate::l7::serve::refusal::Reason;
use crate::l7::serve::settings::{HEAD_BUFFER_BYTES, Limits};
use crate::l7::serve::snapshot::{BackendService, Endpoint, InFlight, Site};
use crate::l7::serve::worker::Worker;

/// Bytes that are read of a client beside a request that is under way.
const EARLY_BYTES: usize = 1_024;
/// The end of a body in chunks (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A request under way.
pub(super) struct Exchange {
    worker: Rc<Worker>,
    link: Rc<Link>,
    record: Record,
    site: Arc<Site>,
    service: Arc<BackendService>,
    endpoint: Arc<Endpoint>,
    in_flight: InFlight,
    connection: Option<TcpStream>,
    /// Whether it carried a request before: its endpoint may have closed it meanwhile.
    is_reused: bool,
    is_head: bool,
    is_repeatable: bool,
    id: [u8; 32],
    /// As the client sent it.
    asked: Vec<u8>,
    /// As the endpoint gets it.
    passed: Vec<u8>,
    /// What the client sent after it.
    early: Vec<u8>,
    until: Instant,
    began_ms: u64,
    retries: Cell<u32>,
    /// Whether some of the answer may have been sent.
    is_answered: Cell<bool>,
}

/// What came of a request.
pub(super) enum Came {
    /// An answer; another request may follow.
    Whole,
    /// An answer, and these bytes of the client after its request.
    WholeAndMore(Vec<u8>),
    /// The connection's last answer.
    Last,
    /// Nothing yet, and the request may be sent anew.
    Again(Vec<u8>),
    /// Nobody is there to be answered, or the answer is cut off.
    Broken,
}

/// Why there is no whole answer.
enum Failed {
    /// The request may be sent anew.
    Again,
    /// The answer is one of the front-end's own.
    Refused(Reason),
    /// See [`Came::Broken`].
    Broken,
}

impl Exchange {
    /// Begins to pass on the request of so many bytes in the thread's room; none where it is not plain.
    pub(super) fn begin(link: &Rc<Link>, length: usize, is_between: bool) -> Option<Self> {
        let worker = &link.worker;
        // A trace needs the fields.
        if !is_between || worker.shared.tracer.is_some() {
            return None;
        }
        let snapshot = worker.snapshot();
        let listener = snapshot.listeners.get(&link.place)?;
        let limits = &worker.shared.settings.limits;
        let mut passed = worker.rooms.take();
        let begun = worker.rooms.with_read(length, |bytes| {
            let id = || worker.random_u128();
            let asked = request::pass(bytes, &link.client, listener, limits, id, &mut passed)?;
            let endpoint = choose(&asked.service, &[], |below| worker.draw(below))?;
            let endpoint = Arc::clone(endpoint);
            let mut record = Record::begin(worker.shared.log.as_ref(), Busy::begin(link));
            note(&mut record, link, &listener.site, &asked);
            let mut kept = worker.rooms.take();
            kept.extend_from_slice(bytes);
            let Asked { service, is_head, is_repeatable, is_last, id, .. } = asked;
            if is_last {
                link.close_with_next_answer();
            }
            Some((record, service, endpoint, is_head, is_repeatable, id, kept))
        });
        let Some((mut record, service, endpoint, is_head, is_repeatable, id, asked)) = begun else {
            worker.rooms.put_back(passed);
            return None;
        };
        worker.budget.earn();
        record.service = Some(Arc::clone(&service));
        let until = record.began + service.request_timeout;
        let connection = worker.pool.take_plain(endpoint.address);
        Some(Self {
            worker: Rc::clone(worker),
            link: Rc::clone(link),
            record,
            site: Arc::clone(&listener.site),
            in_flight: InFlight::begin(&endpoint),
            is_reused: connection.is_some(),
            service,
            endpoint,
            connection,
            is_head,
            is_repeatable,
            id,
            asked,
            passed,
            early: Vec::new(),
            until,
            began_ms: clock::now_ms(),
            retries: Cell::new(0),
            is_answered: Cell::new(false),
        })
    }

    /// Passes it on, and its answer back.
    pub(super) async fn run<S>(
        mut self,
        stream: &mut ClientStream<S>,
        limits: &Limits,
        closing: &watch::Receiver<()>,
    ) -> Came
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let worker = Rc::clone(&self.worker);
        let passed = worker.deadlines.within(self.until, pin!(self.pass(stream, limits, closing))).await;
        let came = match passed {
            Some(Ok(is_last)) => self.whole(is_last),
            Some(Err(Failed::Again)) => {
                self.record.service = None;
                self.record.line = None;
                Came::Again(std::mem::take(&mut self.asked))
            }
            Some(Err(Failed::Refused(reason))) => self.refuse(stream, reason, closing).await,
            Some(Err(Failed::Broken)) => Came::Broken,
            None if self.is_answered.get() => {
                self.record.note_cut(Reason::Timeout.name());
                Came::Broken
            }
            None => {
                self.signal(Signal::TimedOut);
                self.refuse(stream, Reason::Timeout, closing).await
            }
        };
        worker.rooms.put_back(self.asked);
        worker.rooms.put_back(self.passed);
        came
    }

    fn whole(&mut self, is_last: bool) -> Came {
        match (is_last, self.early.is_empty()) {
            (true, _) => Came::Last,
            (false, true) => Came::Whole,
            (false, false) => Came::WholeAndMore(std::mem::take(&mut self.early)),
        }
    }

    /// Whether the answer that begins now is the connection's last.
    fn is_last(&self, closing: &watch::Receiver<()>) -> bool {
        self.link.is_closing() || closing.has_changed().unwrap_or(true)
    }

    /// Sends an answer of the front-end's own.
    async fn refuse<S>(
        &mut self,
        stream: &mut ClientStream<S>,
        reason: Reason,
        closing: &watch::Receiver<()>,
    ) -> Came
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut response = reason.response(self.worker.shared.settings.reason_header);
        self.note_code(response.status(), Some(reason.name()));
        let is_last = self.is_last(closing);
        if is_last {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        }
        {
            let mut written = self.worker.rooms.written.borrow_mut();
            written.clear();
            answer::write(&response, self.is_head, &mut written);
        }
        self.record.add_bytes(response.body().len());
        match self.worker.rooms.send_written(stream).await {
            Ok(()) => self.whole(is_last),
            Err(_) => Came::Broken,
        }
    }

    fn signal(&self, signal: Signal) {
        self.worker.shared.signal(&self.service, &self.endpoint, signal, self.began_ms);
    }

    /// Passes the request on and the answer back; whether it is the connection's last.
    async fn pass<S>(
        &mut self,
        stream: &mut ClientStream<S>,
        limits: &Limits,
        closing: &watch::Receiver<()>,
    ) -> Result<bool, Failed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut endpoint = match self.connection.take() {
            Some(connection) => connection,
            // It is rare, and takes room that the future of every request would have.
            None => Box::pin(self.connect(limits)).await?,
        };
        let mut sent = 0;
        let passed = &self.passed;
        let all = poll_fn(|cx| poll_write(Pin::new(&mut endpoint), cx, passed, &mut sent)).await;
        if all.is_err() {
            return Err(self.lost(sent == 0));
        }
        let (mut head, is_last) = self.head(&mut endpoint, stream, closing).await?;
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
            worker.rooms.send_written(stream).await.map_err(|_| Failed::Broken)?;
            let Some(connection) = endpoint.as_mut() else { return Ok(is_last) };
            let length = self.read(connection, stream).await?;
            let mut written = worker.rooms.written.borrow_mut();
            written.clear();
            let taken = match (length, &mut head.body) {
                (0, Framing::Close) => {
                    head.body = Framing::Length(0);
                    written.extend_from_slice(LAST_CHUNK);
                    continue;
                }
                (0, _) => None,
                (_, body) => worker.rooms.with_read(length, |bytes| body.pass(bytes, &mut written)).ok(),
            };
            let Some(taken) = taken else {
                self.record.note_cut("cut-by-endpoint");
                return Err(Failed::Broken);
            };
            self.record.add_bytes(taken);
            is_clean = taken == length;
        }
    }

    /// Reads an answer's head and what came with it of the body, and leaves in the thread's room what the client gets.
    async fn head<S>(
        &mut self,
        endpoint: &mut TcpStream,
        stream: &mut ClientStream<S>,
        closing: &watch::Receiver<()>,
    ) -> Result<(Head, bool), Failed>
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
                let Read::Head(mut head) = read else { return Ok((read, 0)) };
                let rest = &bytes[head.length..];
                let taken = head.body.pass(rest, &mut written)?;
                head.is_kept &= taken == rest.len();
                Ok::<_, Unreadable>((Read::Head(head), taken))
            });
            match read {
                Ok((Read::Head(head), taken)) => {
                    self.record.add_bytes(taken);
                    self.answered(head.code);
                    return Ok((head, is_last));
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
        self.is_answered.set(true);
        self.signal(if code.is_server_error() { Signal::ServerError } else { Signal::Answered });
        self.note_code(code, None);
    }

    fn note_code(&mut self, code: StatusCode, reason: Option<&'static str>) {
        self.site.counters.note(code);
        self.record.note_code(code, reason);
        if let Some(line) = &mut self.record.line {
            line.endpoint = Some(self.endpoint.address.to_string());
            line.retries = self.retries.get();
        }
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
    async fn connect(&mut self, limits: &Limits) -> Result<TcpStream, Failed> {
        let mut tried = Vec::new();
        loop {
            let connected = async {
                let stream = TcpStream::connect(self.endpoint.address).await?;
                stream.set_nodelay(true)?;
                io::Result::Ok(stream)
            };
            let error = match timeout(limits.connect_timeout, connected).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            tracing::debug!(endpoint = %self.endpoint.address, %error, "cannot connect to an endpoint");
            self.service.counters.connects_failed.fetch_add(1, Ordering::Relaxed);
            self.signal(Signal::ConnectFailed);
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
    fn lost(&self, is_unsent: bool) -> Failed {
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

    fn may_retry(&self) -> bool {
        let retries = self.retries.get();
        let may = retries < self.worker.shared.settings.limits.retries_max && self.worker.budget.spend();
        if may {
            self.retries.set(retries + 1);
            self.service.counters.retries.fetch_add(1, Ordering::Relaxed);
        }
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

/// Notes what the access log says of a request, if it says something.
fn note(record: &mut Record, link: &Link, site: &Site, asked: &Asked<'_>) {
    if link.worker.shared.log.is_none() || !is_sampled(&asked.service, link.worker.random_u32()) {
        return;
    }
    let host = request::authority(&asked.host);
    let mut line = line(link, site, Version::HTTP_11, asked.method, host.as_bytes(), asked.path);
    line.backend_service = Some(asked.service.name.to_string());
    line.request_id = String::from_utf8_lossy(&asked.id).into_owned();
    record.line = Some(Box::new(line));
}
