//! Bodies on their way through: passed on as they come, never held, with a time and a length that they may take.
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::link::Taken;
use super::pool::Lease;
use super::record::Record;
use super::refusal::Reason;
use super::timer::Deadline;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyFault {
    /// Either side hung up or broke the framing.
    #[error("the body was cut off: {0}")]
    Cut(hyper::Error),
    /// It took too long.
    #[error("the body did not come in time")]
    Late,
    /// It is longer than it may be.
    #[error("the body is too long")]
    TooLong,
}

/// How a request's body fares, for whoever sends it.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyState(Rc<Cell<Progress>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Under,
    Done,
    Failed(Reason),
}

impl BodyState {
    /// The client's fault, if it was one.
    pub(super) fn fault(&self) -> Option<Reason> {
        match self.0.get() {
            Progress::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the endpoint has all of it.
    pub(super) fn is_done(&self) -> bool {
        self.0.get() == Progress::Done
    }
}

/// A request's body.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Option<Incoming>,
    state: BodyState,
    left_bytes: u64,
    idle_timeout: Duration,
    waits_since: Option<Instant>,
    deadline: Deadline,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, bytes_max: Option<u64>, idle_timeout: Duration) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        let mut body = Self::empty();
        if incoming.is_some() {
            body.state = BodyState::default();
        }
        Self { incoming, left_bytes: bytes_max.unwrap_or(u64::MAX), idle_timeout, ..body }
    }

    pub(super) fn empty() -> Self {
        Self {
            incoming: None,
            state: BodyState(Rc::new(Cell::new(Progress::Done))),
            left_bytes: 0,
            idle_timeout: Duration::ZERO,
            waits_since: None,
            deadline: Deadline::default(),
        }
    }

    pub(super) fn state(&self) -> BodyState {
        self.state.clone()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.incoming.is_none()
    }

    fn fail(&self, reason: Reason, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.state.0.set(Progress::Failed(reason));
        Poll::Ready(Some(Err(fault)))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
        if bytes > self.left_bytes {
            return self.fail(Reason::BodyTooLong, BodyFault::TooLong);
        }
        self.left_bytes -= bytes;
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waits_since = None;
                if this.incoming.as_ref().is_some_and(Body::is_end_stream) {
                    this.state.0.set(Progress::Done);
                }
                this.take(frame)
            }
            Poll::Ready(Some(Err(error))) => this.fail(Reason::BodyBroken, BodyFault::Cut(error)),
            Poll::Ready(None) => {
                this.state.0.set(Progress::Done);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let since = *this.waits_since.get_or_insert_with(Instant::now);
                let limit = since + this.idle_timeout;
                if this.deadline.poll(cx, limit).is_ready() {
                    return this.fail(Reason::BodyTimeout, BodyFault::Late);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// An answer's body, with what is kept until its end.
#[derive(Debug)]
pub(super) struct AnswerBody {
    from: From,
    record: Record,
    /// Over HTTP/2.
    taken: Option<Rc<Taken>>,
    until: Instant,
    deadline: Deadline,
    /// The endpoint's fault, to be told once what came before it is sent.
    cut: Option<hyper::Error>,
}

#[derive(Debug)]
enum From {
    Own(Bytes),
    Endpoint(Incoming, Option<Lease>),
}

impl AnswerBody {
    pub(super) fn own(bytes: Bytes, record: Record) -> Self {
        let (until, deadline) = (Instant::now(), Deadline::default());
        Self { from: From::Own(bytes), record, taken: None, until, deadline, cut: None }
    }

    /// An endpoint's, which must end before `until`; `taken` hears when the client takes it.
    pub(super) fn of_endpoint(
        incoming: Incoming,
        lease: Lease,
        record: Record,
        taken: Option<Rc<Taken>>,
        until: Instant,
    ) -> Self {
        let (from, deadline) = (From::Endpoint(incoming, Some(lease)), Deadline::default());
        let mut body = Self { from, record, taken, until, deadline, cut: None };
        if body.is_end_stream() {
            body.give_back();
        }
        body
    }

    /// The last byte is here: the connection to the endpoint is free for another request.
    fn give_back(&mut self) {
        if let From::Endpoint(_, lease) = &mut self.from
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        if let Some(error) = this.cut.take() {
            return Poll::Ready(Some(Err(BodyFault::Cut(error))));
        }
        let (incoming, lease) = match &mut this.from {
            From::Own(bytes) if bytes.is_empty() => return Poll::Ready(None),
            From::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                this.record.add_bytes(bytes.len());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            From::Endpoint(incoming, lease) => (incoming, lease),
        };
        if let Some(taken) = &this.taken {
            taken.take();
        }
        let mut poll = |cx: &mut Context<'_>| Pin::new(&mut *incoming).poll_frame(cx);
        let polled = match lease {
            Some(lease) => lease.poll_with(cx, poll),
            None => poll(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(taken) = &this.taken {
                    taken.hand_out();
                }
                this.record.add_bytes(frame.data_ref().map_or(0, Bytes::len));
                if this.is_end_stream() {
                    this.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.record.note_cut("cut-by-endpoint");
                // The client's connection ends with the fault, and is written to when the body has nothing for it.
                this.cut = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if this.deadline.poll(cx, this.until).is_ready() {
                    this.record.note_cut(Reason::Timeout.name());
                    return Poll::Ready(Some(Err(BodyFault::Late)));
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Own(bytes) => bytes.is_empty(),
            From::Endpoint(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            From::Endpoint(incoming, _) => incoming.size_hint(),
        }
    }
}
