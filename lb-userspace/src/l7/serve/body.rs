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
use super::plain_answer::PlainBody;
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
    /// The endpoint hung up or broke the framing.
    #[error("the answer's body was cut off: {0}")]
    CutAnswer(std::io::Error),
    /// It took too long.
    #[error("the body did not come in time")]
    Late,
    /// It is longer than it may be.
    #[error("the body is too long")]
    TooLong,
}

/// How a request's body fares, for whoever sends it; none where there is no body.
#[derive(Clone, Debug)]
pub(super) struct BodyState(Option<Rc<Cell<Progress>>>);

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
        match self.0.as_deref().map(Cell::get) {
            Some(Progress::Failed(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Whether the endpoint has all of it.
    pub(super) fn is_done(&self) -> bool {
        self.0.as_deref().is_none_or(|progress| progress.get() == Progress::Done)
    }

    fn set(&self, progress: Progress) {
        if let Some(state) = &self.0 {
            state.set(progress);
        }
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
        let state = BodyState(incoming.is_some().then(Rc::default));
        Self { incoming, state, left_bytes: bytes_max.unwrap_or(u64::MAX), idle_timeout, ..Self::empty() }
    }

    pub(super) fn empty() -> Self {
        Self {
            incoming: None,
            state: BodyState(None),
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
        self.state.set(Progress::Failed(reason));
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
                    this.state.set(Progress::Done);
                }
                this.take(frame)
            }
            Poll::Ready(Some(Err(error))) => this.fail(Reason::BodyBroken, BodyFault::Cut(error)),
            Poll::Ready(None) => {
                this.state.set(Progress::Done);
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
    cut: Option<BodyFault>,
}

#[derive(Debug)]
enum From {
    Own(Bytes),
    Endpoint(EndpointBody),
}

/// The body of an endpoint's answer, with the connection by which it comes until its last byte is here.
#[derive(Debug)]
pub(super) enum EndpointBody {
    /// By hyper.
    Parsed(Incoming, Option<Lease>),
    Plain(PlainBody),
}

impl EndpointBody {
    /// The last byte is here: the connection is free for another request.
    fn give_back(&mut self) {
        if let Self::Parsed(incoming, lease) = self
            && incoming.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let (incoming, lease) = match self {
            Self::Plain(body) => {
                return body.poll_frame(cx).map(|polled| Some(polled?.map_err(BodyFault::CutAnswer)));
            }
            Self::Parsed(incoming, lease) => (incoming, lease),
        };
        let mut poll = |cx: &mut Context<'_>| Pin::new(&mut *incoming).poll_frame(cx);
        let polled = match &*lease {
            Some(lease) => lease.poll_with(cx, poll),
            None => poll(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.give_back(),
            Poll::Ready(None) => drop(lease.take().map(Lease::give_back)),
            _ => {}
        }
        polled.map(|polled| Some(polled?.map_err(BodyFault::Cut)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Parsed(incoming, _) => incoming.is_end_stream(),
            Self::Plain(body) => body.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Parsed(incoming, _) => incoming.size_hint(),
            Self::Plain(body) => body.size_hint(),
        }
    }
}

impl AnswerBody {
    pub(super) fn own(bytes: Bytes, record: Record) -> Self {
        let (until, deadline) = (Instant::now(), Deadline::default());
        Self { from: From::Own(bytes), record, taken: None, until, deadline, cut: None }
    }

    /// An endpoint's, which must end before `until`; `taken` hears when the client takes it.
    pub(super) fn of_endpoint(
        mut body: EndpointBody,
        record: Record,
        taken: Option<Rc<Taken>>,
        until: Instant,
    ) -> Self {
        body.give_back();
        let (from, deadline) = (From::Endpoint(body), Deadline::default());
        Self { from, record, taken, until, deadline, cut: None }
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
        if let Some(fault) = this.cut.take() {
            return Poll::Ready(Some(Err(fault)));
        }
        let body = match &mut this.from {
            From::Own(bytes) if bytes.is_empty() => return Poll::Ready(None),
            From::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                this.record.add_bytes(bytes.len());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            From::Endpoint(body) => body,
        };
        if let Some(taken) = &this.taken {
            taken.take();
        }
        match body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(taken) = &this.taken {
                    taken.hand_out();
                }
                this.record.add_bytes(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(fault))) => {
                this.record.note_cut("cut-by-endpoint");
                // The client's connection ends with the fault, and is written to when the body has nothing for it.
                this.cut = Some(fault);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
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
            From::Endpoint(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            From::Endpoint(body) => body.size_hint(),
        }
    }
}
