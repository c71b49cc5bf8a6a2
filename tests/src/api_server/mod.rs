//! An API server for tests: lists with pages, watches with bookmarks, label selectors and a history
//! that can be compacted, over HTTP/1.1; creating and patching; and every way in which a real one fails, on demand.
//!
//! It keeps objects as they are put, sets their `resourceVersion`, and is strict where a client could
//! be wrong: an unknown path, parameter or selector is an error that the test sees.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

mod answer;
mod connection;
mod right;
mod store;
mod write;

pub use right::Right;
pub use store::Resource;
use store::Store;

/// The `resourceVersion` of those that take a list of any age.
const ANY_VERSION: &str = "0";

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it asks about.
    pub resource: Resource,
    /// Whether it is a watch; else a list, or a write.
    pub is_watch: bool,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// When it came.
    pub at: Instant,
}

impl Request {
    /// A query parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

/// How the server fails a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with an HTTP status, a `Status` object, and `Retry-After` in seconds where given.
    Status(u16, Option<u64>),
    /// Answers with an HTTP status and a text that is no JSON, as a proxy does.
    ProxyError(u16),
    /// Answers a watch with 200 and then an `ERROR` event of code 410.
    GoneEvent,
    /// Sends the answer up to the middle of its first line or object, and drops the connection.
    CutShort,
    /// Sends the whole answer a few bytes at a time.
    Drip,
}

/// A running server. It ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepts: JoinHandle<()>,
}

/// What the server's connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Rises with each change that a watch may have to tell.
    changed: tokio::sync::watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    store: Store,
    /// What lists of any age are answered from, once the server has fallen behind.
    cache: Option<Store>,
    requests: Vec<Request>,
    /// What clients may ask for; none is all.
    granted: Option<BTreeSet<Right>>,
    asked: BTreeSet<Right>,
    faults: BTreeMap<(Resource, bool), VecDeque<Fault>>,
    streams_lists: bool,
    refuses_old_watches: bool,
    is_away: bool,
    /// Rises when watches must end.
    disconnects: u64,
    bookmarks: u64,
}

impl State {
    /// Notes what is asked for, and says whether it is granted.
    fn grants(&mut self, asked: Right) -> bool {
        let is_granted =
            self.granted.as_ref().is_none_or(|granted| granted.iter().any(|right| right.covers(&asked)));
        self.asked.insert(asked);
        is_granted
    }

    /// Whether those that ask for a version get what the cache has.
    fn is_behind_for(&self, version: Option<&str>) -> bool {
        version == Some(ANY_VERSION) && self.cache.is_some()
    }

    /// What a list of a version is answered from.
    fn listed_from(&mut self, version: Option<&str>) -> &mut Store {
        match &mut self.cache {
            Some(cache) if version == Some(ANY_VERSION) => cache,
            _ => &mut self.store,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_watches(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl ApiServer {
    /// Starts a server on a free loopback port. It streams lists (KEP-3157) until told not to.
    ///
    /// # Panics
    /// When there is no such port.
    pub async fn start() -> Self {
        Self::serve(TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port"))
    }

    /// Starts a server on a socket that listens already, for instance in another network namespace. Must
    /// be called in a runtime.
    ///
    /// # Panics
    /// When the socket has no address.
    #[must_use]
    pub fn serve(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("the port's number");
        let state = State { streams_lists: true, ..State::default() };
        let (changed, _) = tokio::sync::watch::channel(0);
        let shared = Arc::new(Shared { state: Mutex::new(state), changed });
        let accepts = tokio::spawn(connection::accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepts }
    }

    /// `http://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates or replaces an object and returns its new version.
    ///
    /// # Panics
    /// When the object has no name.
    pub fn put(&self, resource: Resource, object: Value) -> u64 {
        let version = self.shared.lock().store.put(resource, object);
        self.shared.tell_watches();
        version
    }

    /// Deletes an object, and says whether it was there.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let existed = self.shared.lock().store.delete(resource, namespace, name);
        self.shared.tell_watches();
        existed
    }

    /// Forgets the history: a watch from an older version, and a list's next page, get a 410.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// From now on answers those that take a list of any age (`resourceVersion=0`) with the objects of this moment, and
    /// tells them nothing after it, as an API server does whose cache is behind.
    pub fn fall_behind(&self) {
        let mut state = self.shared.lock();
        state.cache = Some(state.store.clone());
    }

    /// Sends a bookmark with the current version on every watch that asked for them.
    pub fn bookmark(&self) {
        self.shared.lock().bookmarks += 1;
        self.shared.tell_watches();
    }

    /// Ends all watches.
    pub fn disconnect(&self) {
        self.shared.lock().disconnects += 1;
        self.shared.tell_watches();
    }

    /// While away, ends all watches and closes each connection without an answer.
    pub fn set_away(&self, is_away: bool) {
        self.shared.lock().is_away = is_away;
        if is_away {
            self.disconnect();
        }
    }

    /// Whether watches may ask for a list first (`sendInitialEvents`); else they get a 422 as from a
    /// server with the feature off.
    pub fn set_streams_lists(&self, streams_lists: bool) {
        self.shared.lock().streams_lists = streams_lists;
    }

    /// Whether a watch from a version that is forgotten gets a 410 as its HTTP status; else it begins
    /// and gets an event.
    pub fn set_refuses_old_watches(&self, refuses_old_watches: bool) {
        self.shared.lock().refuses_old_watches = refuses_old_watches;
    }

    /// Fails the next list of a resource. Several faults meet one request each, in order.
    pub fn fail_list(&self, resource: Resource, fault: Fault) {
        self.shared.lock().faults.entry((resource, false)).or_default().push_back(fault);
    }

    /// Fails the next watch of a resource, also one that asks for a list first.
    pub fn fail_watch(&self, resource: Resource, fault: Fault) {
        self.shared.lock().faults.entry((resource, true)).or_default().push_back(fault);
    }

    /// Faults that no request has met yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.shared.lock().faults.values().map(VecDeque::len).sum()
    }

    /// Requests for a resource so far.
    #[must_use]
    pub fn requests(&self, resource: Resource) -> Vec<Request> {
        self.shared.lock().requests.iter().filter(|request| request.resource == resource).cloned().collect()
    }

    /// Refuses from now on what these rights do not cover, with 403 as a server with RBAC does.
    pub fn allow_only(&self, granted: BTreeSet<Right>) {
        self.shared.lock().granted = Some(granted);
    }

    /// All that was asked for so far, also what was refused.
    #[must_use]
    pub fn asked(&self) -> BTreeSet<Right> {
        self.shared.lock().asked.clone()
    }

    /// Every object as it is now.
    #[must_use]
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        self.shared.lock().store.select(resource, "")
    }

    /// `namespace/name` and version of every object that a selector takes (empty takes all).
    #[must_use]
    pub fn versions(&self, resource: Resource, selector: &str) -> BTreeMap<String, String> {
        self.shared.lock().store.versions(resource, selector)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.accepts.abort();
        self.disconnect();
    }
}
