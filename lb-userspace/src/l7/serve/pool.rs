//! Connections to endpoints that are kept for the next request. Each thread has its own, without locks.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use super::connect::{self, Fresh, Http2, StreamsMax};
use super::endpoint_connection::EndpointConnection;
use super::plain_answer::PlainLease;
use super::proxied::Announced;
use super::settings::{Limits, STREAMS_TO_ENDPOINT_MAX};
use super::snapshot::{InFlight, Protocol};

/// The endpoint, how it is spoken to, and for whom where it is told: a connection is then that client's alone.
type Key = (SocketAddr, Protocol, Option<Announced>);

/// Time after which an unused connection that is one client's is closed: nobody else could use it.
const ANNOUNCED_KEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct Pool {
    places: RefCell<HashMap<Key, Place, foldhash::fast::RandomState>>,
    /// Those that nobody parses, by endpoint.
    plain: RefCell<HashMap<SocketAddr, Plain, foldhash::fast::RandomState>>,
    kept_max: usize,
    kept_timeout: Duration,
    connect_timeout: Duration,
}

/// Unused connections since when, the last used at the end.
type Plain = Vec<(TcpStream, Instant)>;

/// The connections to one endpoint.
#[derive(Debug, Default)]
struct Place {
    /// The last used is the next one used: those beyond the need grow old.
    idle: Vec<(EndpointConnection, Instant)>,
    shared: Vec<Shared>,
    /// Held while a shared connection is opened, so that requests that come meanwhile wait for that one.
    opening: Rc<tokio::sync::Mutex<()>>,
}

/// An HTTP/2 connection and how many requests it has.
struct Shared {
    sender: Http2,
    streams: Rc<Cell<usize>>,
    streams_max: StreamsMax,
    used: Rc<Cell<Instant>>,
}

/// A connection for one request.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Rc<Pool>,
    key: Key,
    link: Link,
    /// Whether it carried a request before: its endpoint may have closed it meanwhile.
    pub(super) is_reused: bool,
    in_flight: InFlight,
}

#[derive(Debug)]
enum Link {
    One(EndpointConnection),
    Stream { sender: Http2, _counted: Stream },
}

#[derive(Debug)]
struct Stream {
    streams: Rc<Cell<usize>>,
    used: Rc<Cell<Instant>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
        self.used.set(Instant::now());
    }
}

/// Which connections a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A kept one, else a new one.
    Any,
    /// A new one: a kept one has just failed.
    Fresh,
}

impl Pool {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            places: RefCell::default(),
            plain: RefCell::default(),
            kept_max: limits.kept_max,
            kept_timeout: limits.kept_timeout,
            connect_timeout: limits.connect_timeout,
        }
    }

    /// A connection to an endpoint.
    pub(super) async fn lease(
        self: &Rc<Self>,
        key: Key,
        want: Want,
        in_flight: InFlight,
    ) -> io::Result<Lease> {
        let reused = if want == Want::Any { self.kept(key) } else { None };
        let reused = match reused {
            None if want == Want::Any => self.begun_anew(key).await?,
            reused => reused,
        };
        let is_reused = reused.is_some();
        let link = match reused {
            Some(link) => link,
            // Connecting is rare and takes several KiB, which the future of every request would have.
            None if matches!(key.1, Protocol::H2c | Protocol::Http2) => Box::pin(self.stream(key)).await?,
            None => Box::pin(self.open(key)).await?,
        };
        Ok(Lease { pool: Rc::clone(self), key, link, is_reused, in_flight })
    }

    fn kept(&self, key: Key) -> Option<Link> {
        let mut places = self.places.borrow_mut();
        let place = places.get_mut(&key)?;
        if let Some(shared) = place.shared.iter().find(|shared| shared.has_room()) {
            return Some(shared.stream());
        }
        let ready = place.idle.iter_mut().rposition(|(connection, _)| connection.is_ready())?;
        Some(Link::One(place.idle.remove(ready).0))
    }

    /// A kept connection that is parsed from now on.
    async fn begun_anew(&self, key: Key) -> io::Result<Option<Link>> {
        let (endpoint, Protocol::Http, None) = key else { return Ok(None) };
        match self.take_plain(endpoint) {
            Some(connection) => {
                EndpointConnection::begin(connection).await.map(|begun| Some(Link::One(begun)))
            }
            None => Ok(None),
        }
    }

    /// A stream on a connection that is opened now, or was by another request while this one waited.
    async fn stream(&self, key: Key) -> io::Result<Link> {
        let opening = Rc::clone(&self.places.borrow_mut().entry(key).or_default().opening);
        let _turn = opening.lock().await;
        match self.kept(key) {
            Some(link) => Ok(link),
            None => self.open(key).await,
        }
    }

    async fn open(&self, key: Key) -> io::Result<Link> {
        match self.in_time(connect::connect(key.0, key.1, key.2)).await? {
            Fresh::One(connection) => Ok(Link::One(connection)),
            Fresh::Shared(sender, streams_max) => {
                let used = Rc::new(Cell::new(Instant::now()));
                let shared = Shared { sender, streams: Rc::default(), streams_max, used };
                let link = shared.stream();
                self.places.borrow_mut().entry(key).or_default().shared.push(shared);
                Ok(link)
            }
        }
    }

    async fn in_time<T>(&self, opened: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
        timeout(self.connect_timeout, opened).await.map_err(|_| late())?
    }

    /// A connection to an endpoint that nobody parses.
    pub(super) async fn plain_lease(
        self: &Rc<Self>,
        endpoint: SocketAddr,
        want: Want,
        in_flight: InFlight,
    ) -> io::Result<PlainLease> {
        let reused = if want == Want::Any { self.take_plain(endpoint) } else { None };
        let is_reused = reused.is_some();
        let stream = match reused {
            Some(stream) => stream,
            None => Box::pin(self.open_plain(endpoint)).await?,
        };
        Ok(PlainLease { pool: Rc::clone(self), endpoint, stream, is_reused, _in_flight: in_flight })
    }

    /// A new connection that nobody parses.
    pub(super) async fn open_plain(&self, endpoint: SocketAddr) -> io::Result<TcpStream> {
        self.in_time(connect::open(endpoint)).await
    }

    /// A kept connection that is read as bytes.
    pub(super) fn take_plain(&self, endpoint: SocketAddr) -> Option<TcpStream> {
        let mut plain = self.plain.borrow_mut();
        let kept = plain.get_mut(&endpoint)?;
        while let Some((connection, _)) = kept.pop() {
            if is_silent(&connection) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last answer is here in full.
    pub(super) fn keep_plain(&self, endpoint: SocketAddr, connection: TcpStream) {
        let mut plain = self.plain.borrow_mut();
        let kept = plain.entry(endpoint).or_default();
        if kept.len() < self.kept_max {
            kept.push((connection, Instant::now()));
        }
    }

    fn keep(&self, key: Key, connection: EndpointConnection) {
        if connection.has_ended() {
            return;
        }
        let mut places = self.places.borrow_mut();
        let idle = &mut places.entry(key).or_default().idle;
        if idle.len() < self.kept_max {
            idle.push((connection, Instant::now()));
        }
    }

    /// Closes what was not used for long, and forgets what is closed.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.plain.borrow_mut().retain(|_, kept| {
            kept.retain(|(connection, since)| is_silent(connection) && now - *since < self.kept_timeout);
            !kept.is_empty()
        });
        self.places.borrow_mut().retain(|(_, _, announced), place| {
            let kept_timeout = match announced {
                Some(_) => self.kept_timeout.min(ANNOUNCED_KEPT_TIMEOUT),
                None => self.kept_timeout,
            };
            place.idle.retain(|(connection, since)| !connection.is_closed() && now - *since < kept_timeout);
            place.shared.retain(|shared| {
                let is_old = shared.streams.get() == 0 && now - shared.used.get() >= kept_timeout;
                !shared.sender.is_closed() && !is_old
            });
            let is_opening = Rc::strong_count(&place.opening) > 1;
            is_opening || !place.idle.is_empty() || !place.shared.is_empty()
        });
    }
}

/// Whether an unused connection is open and its endpoint has said nothing, as far as this thread has seen.
fn is_silent(connection: &TcpStream) -> bool {
    let nothing = connection.try_read(&mut [0]);
    nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Debug for Shared {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shared").field("streams", &self.streams.get()).finish_non_exhaustive()
    }
}

impl Shared {
    fn has_room(&self) -> bool {
        let streams_max = (self.streams_max)().min(STREAMS_TO_ENDPOINT_MAX);
        self.sender.is_ready() && self.streams.get() < streams_max
    }

    fn stream(&self) -> Link {
        self.streams.set(self.streams.get() + 1);
        let counted = Stream { streams: Rc::clone(&self.streams), used: Rc::clone(&self.used) };
        Link::Stream { sender: self.sender.clone(), _counted: counted }
    }
}

impl Lease {
    /// Sends the request; a fault has it back where none of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Box<Request<RequestBody>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match &mut self.link {
            Link::One(connection) => connection.send(request).await,
            Link::Stream { sender, .. } => sender.try_send_request(*request).await,
        }
    }

    /// The answer is here in full: the connection takes another request.
    pub(super) fn give_back(self) {
        if let Link::One(connection) = self.link {
            self.pool.keep(self.key, connection);
        }
    }

    /// Polls for a part of the answer, with the connection by which it comes.
    pub(super) fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &self.link {
            Link::One(connection) => connection.poll_with(cx, poll),
            Link::Stream { .. } => poll(cx),
        }
    }

    /// The connection has become a tunnel, whose request stays counted by what is returned.
    pub(super) fn into_in_flight(mut self) -> InFlight {
        if let Link::One(connection) = &mut self.link {
            connection.run_apart();
        }
        self.in_flight
    }
}
