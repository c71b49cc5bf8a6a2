//! One connection of a client, as its requests see it.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

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
    resets_began: Cell<Instant>,
    resets: Cell<u32>,
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
            resets_began: Cell::new(now),
            resets: Cell::new(0),
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

    /// Since when there is no request, if there is none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.requests.get() == 0).then(|| self.last_ended.get())
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
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.last_ended.set(Instant::now());
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
