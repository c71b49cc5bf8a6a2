//! One connection of a client, as its requests see it.
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::Client;
use super::client_stream::WireState;
use super::worker::{Counted, Worker};

/// Time over which a client's resets are counted, milliseconds.
const RESET_WINDOW_MS: u128 = 1_000;

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) worker: Rc<Worker>,
    /// The listener, by its address in the snapshot.
    pub(super) place: SocketAddr,
    pub(super) client: Client,
    pub(super) wire: Arc<WireState>,
    /// Requests under way.
    requests: Cell<u32>,
    has_asked: Cell<bool>,
    first_asked: Notify,
    last_ended: Cell<Instant>,
    is_closing: Cell<bool>,
    resets_began: Cell<Instant>,
    resets: Cell<u32>,
    /// Answers that are sent over HTTP/2.
    answers: RefCell<Vec<Weak<Taken>>>,
    /// Told when the connection must be closed at once.
    pub(super) cut: Notify,
    _counted: Counted,
}

impl Link {
    pub(super) fn new(worker: Rc<Worker>, place: SocketAddr, client: Client, counted: Counted) -> Self {
        let now = Instant::now();
        Self {
            worker,
            place,
            client,
            wire: Arc::default(),
            requests: Cell::new(0),
            has_asked: Cell::new(false),
            first_asked: Notify::new(),
            last_ended: Cell::new(now),
            is_closing: Cell::new(false),
            resets_began: Cell::new(now),
            resets: Cell::new(0),
            answers: RefCell::default(),
            cut: Notify::new(),
            _counted: counted,
        }
    }

    /// Ends once there was a request.
    pub(super) async fn asked(&self) {
        if !self.has_asked.get() {
            self.first_asked.notified().await;
        }
    }

    /// Whether there was a request.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.get()
    }

    /// The next answer is the last one.
    pub(super) fn close_with_next_answer(&self) {
        self.is_closing.set(true);
    }

    /// Whether an answer that begins now is the last one.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.get()
    }

    /// Since when there is no request, if there is none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.requests.get() == 0).then(|| self.last_ended.get())
    }

    /// Watches an answer whose client may take nothing of it for as long as it likes: HTTP/2 holds back one stream while
    /// the connection goes on.
    pub(super) fn watch(&self) -> Rc<Taken> {
        let taken = Rc::<Taken>::default();
        self.answers.borrow_mut().push(Rc::downgrade(&taken));
        taken
    }

    /// Whether an answer has waited for its client for that long.
    pub(super) fn is_stalled(&self, stall_timeout: Duration) -> bool {
        let mut is_stalled = false;
        self.answers.borrow_mut().retain(|answer| {
            let Some(answer) = answer.upgrade() else { return false };
            is_stalled |= answer.0.get().is_some_and(|since| since.elapsed() >= stall_timeout);
            true
        });
        is_stalled
    }

    /// Counts a request that its client gave up.
    fn note_reset(&self) {
        let now = Instant::now();
        if (now - self.resets_began.get()).as_millis() >= RESET_WINDOW_MS {
            self.resets_began.set(now);
            self.resets.set(0);
        }
        self.resets.set(self.resets.get() + 1);
        if self.resets.get() > self.worker.shared.settings.limits.resets_per_second_max {
            self.cut.notify_one();
        }
    }
}

/// Since when the last piece of an answer waits to be taken, if one does.
#[derive(Debug, Default)]
pub(super) struct Taken(Cell<Option<Instant>>);

impl Taken {
    pub(super) fn hand_out(&self) {
        self.0.set(Some(Instant::now()));
    }

    pub(super) fn take(&self) {
        self.0.set(None);
    }
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(Rc<Link>);

impl Busy {
    pub(super) fn begin(link: &Rc<Link>) -> Self {
        link.requests.set(link.requests.get() + 1);
        if !link.has_asked.replace(true) {
            link.first_asked.notify_one();
        }
        link.wire.begin_request();
        Self(Rc::clone(link))
    }

    /// Notes when it ends, which is now.
    pub(super) fn note_end(&self, now: Instant) {
        self.0.last_ended.set(now);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.wire.end_request();
    }
}

/// Counts a request that is dropped before it was answered: over HTTP/2 its client reset it.
#[derive(Debug)]
pub(super) struct Unanswered(Option<Rc<Link>>);

impl Unanswered {
    pub(super) fn begin(link: &Rc<Link>, version: Version) -> Self {
        Self((version == Version::HTTP_2).then(|| Rc::clone(link)))
    }

    pub(super) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(link) = &self.0 {
            link.note_reset();
        }
    }
}
