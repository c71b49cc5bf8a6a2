//! An HTTP/1 connection to an endpoint, which whoever has a request on it runs.
//!
//! A connection with a task of its own wakes the request's task for each part of an answer and is woken by it for each
//! part of a request. A request without a body needs none of that: its own task runs the connection too. One with a
//! body may end after its answer does, so its connection gets a task until then.
use std::cell::RefCell;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt as _;
use futures::future::poll_fn;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, spawn_local};

use super::body::RequestBody;
use super::flat::Flat;
use super::settings::HEAD_BUFFER_BYTES;

/// An HTTP/1 connection to an endpoint, for one request at a time.
pub(super) struct EndpointConnection {
    sender: http1::SendRequest<RequestBody>,
    runner: Runner,
}

/// What reads and writes the socket; none once the connection has ended. Its faults are told to the request that met
/// them.
type Running = Option<Pin<Box<dyn Future<Output = ()>>>>;

/// Has a connection run.
struct Runner {
    running: Rc<RefCell<Running>>,
    /// The task that does it, where one does.
    task: Option<AbortHandle>,
}

impl Debug for EndpointConnection {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let has_task = self.runner.task.is_some();
        out.debug_struct("EndpointConnection").field("has_task", &has_task).finish_non_exhaustive()
    }
}

impl EndpointConnection {
    /// Speaks HTTP/1.1 on an open stream.
    ///
    /// # Errors
    /// None is known: nothing is sent yet.
    pub(super) async fn begin<S>(stream: S) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // An answer may have as many fields as hyper takes, which is HEADERS_MAX.
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BUFFER_BYTES)
            .handshake(TokioIo::new(Flat(stream)))
            .await
            .map_err(io::Error::other)?;
        let running: Running = Some(Box::pin(connection.with_upgrades().map(drop)));
        Ok(Self { sender, runner: Runner { running: Rc::new(RefCell::new(running)), task: None } })
    }

    /// Whether it takes a request now: its endpoint has not closed it, and has had all of the last request.
    pub(super) fn is_ready(&mut self) -> bool {
        self.runner.look();
        let is_ready = self.sender.is_ready();
        if is_ready && let Some(task) = self.runner.task.take() {
            task.abort();
        }
        is_ready
    }

    /// Whether it has ended, as far as was seen when it was last run.
    pub(super) fn has_ended(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.runner.look();
        self.has_ended()
    }

    /// Sends the request; a fault has it back where none of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        if !request.body().is_empty() {
            self.run_apart();
        }
        let mut answer = pin!(self.sender.try_send_request(*request));
        poll_fn(|cx| self.runner.poll_with(cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// Polls for a part of an answer, with the connection by which it comes.
    pub(super) fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.runner.poll_with(cx, poll)
    }

    /// Gives the connection a task, until it is ready again or ends.
    pub(super) fn run_apart(&mut self) {
        let running = Rc::clone(&self.runner.running);
        let task = spawn_local(poll_fn(move |cx| run(&running, cx)));
        self.runner.task = Some(task.abort_handle());
    }
}

impl Runner {
    /// Sees what came while nobody ran the connection.
    fn look(&self) {
        if self.task.is_none() {
            let _ = run(&self.running, &mut Context::from_waker(Waker::noop()));
        }
    }

    /// The connection and what is polled for tell each other of progress by their wakers, and here one task sees to
    /// both: they get wakers that wake nobody, or the task would be run again for what it has just seen. Only when both
    /// wait for the socket does the connection get the task's.
    fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.task.is_some() {
            return poll(cx);
        }
        let nobody = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(ready) = poll(nobody) {
            return Poll::Ready(ready);
        }
        let _ = run(&self.running, nobody);
        if let Poll::Ready(ready) = poll(nobody) {
            return Poll::Ready(ready);
        }
        let _ = run(&self.running, cx);
        poll(nobody)
    }
}

fn run(running: &RefCell<Running>, cx: &mut Context<'_>) -> Poll<()> {
    let mut running = running.borrow_mut();
    let Some(connection) = running.as_mut() else { return Poll::Ready(()) };
    let ended = connection.as_mut().poll(cx);
    if ended.is_ready() {
        *running = None;
    }
    ended
}
