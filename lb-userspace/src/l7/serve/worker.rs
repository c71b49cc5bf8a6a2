//! One serving thread: its runtime, its listeners, its connections to endpoints. Threads share facts, bounds and
//! counters; nothing that a request does waits for another thread.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use ring::hmac;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, sleep, timeout_at};

use super::attempt::Budget;
use super::connection;
use super::counters::{Totals, count};
use super::direct::Rooms;
use super::pool::Pool;
use super::record::{AccessLog, UnroutedLines};
use super::settings::{SIGNALS_MAX, Settings};
use super::signal::EndpointSignal;
use super::snapshot::{BackendService, Endpoint, Snapshot};
use super::timer::Deadlines;
use super::trace::{Exporter, Tracer};
use crate::health::Signal;

/// Pause after a failed `accept()`: what it lacks (descriptors, memory) is not there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between looks at connections that are no longer used.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What all threads of a front-end share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: SharedSettings,
    pub(super) current: ArcSwap<Snapshot>,
    pub(super) totals: Arc<Totals>,
    pub(super) affinity_key: hmac::Key,
    pub(super) log: Option<AccessLog>,
    pub(super) tracer: Option<Tracer>,
    signals: Mutex<Vec<EndpointSignal>>,
    clients: Mutex<HashMap<IpAddr, u32>>,
}

/// The settings that requests look at.
#[derive(Debug)]
pub(super) struct SharedSettings {
    pub(super) limits: super::settings::Limits,
    pub(super) trusted_proxies: Vec<super::settings::Prefix>,
    proxy_protocol_from: Vec<super::settings::Prefix>,
    pub(super) reason_header: super::settings::ReasonHeader,
}

impl Shared {
    /// With the thread that sends traces, where there is one.
    pub(super) fn new(settings: Settings) -> io::Result<(Self, Option<Exporter>)> {
        let totals = Arc::<Totals>::default();
        let log = settings.access_log.map(|to| AccessLog::start(to, Arc::clone(&totals))).transpose()?;
        let tracing = settings.traces.as_ref().map(|traces| Tracer::start(traces, &totals)).transpose()?;
        let (tracer, exporter) = tracing.unzip();
        let shared = Self {
            settings: SharedSettings {
                limits: settings.limits,
                trusted_proxies: settings.trusted_proxies,
                proxy_protocol_from: settings.proxy_protocol_from,
                reason_header: settings.reason_header,
            },
            current: ArcSwap::default(),
            totals,
            affinity_key: hmac::Key::new(hmac::HMAC_SHA256, &settings.affinity_key),
            log,
            tracer,
            signals: Mutex::default(),
            clients: Mutex::default(),
        };
        Ok((shared, exporter))
    }

    pub(super) fn is_trusted(&self, address: IpAddr) -> bool {
        self.settings.trusted_proxies.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether a peer may say whose its connections are.
    pub(super) fn may_pass_on(&self, peer: IpAddr) -> bool {
        self.settings.proxy_protocol_from.iter().any(|prefix| prefix.contains(peer))
    }

    /// Notes that no connection to an endpoint came about.
    pub(super) fn note_unconnected(
        &self,
        service: &BackendService,
        endpoint: &Endpoint,
        error: &io::Error,
        began_ms: u64,
    ) {
        tracing::debug!(endpoint = %endpoint.address, %error, "cannot connect to an endpoint");
        count(&service.counters.connects_failed);
        self.signal(service, endpoint, Signal::ConnectFailed, began_ms);
    }

    /// Notes how an endpoint fared. Answers are only counted, until a failure is to be told or was.
    pub(super) fn signal(
        &self,
        service: &BackendService,
        endpoint: &Endpoint,
        signal: Signal,
        began_ms: u64,
    ) {
        let answered =
            if signal.is_failure() { Some(endpoint.note_failure()) } else { endpoint.note_answer() };
        let Some(answered) = answered else { return };
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        if signals.len() >= SIGNALS_MAX {
            count(&self.totals.signals_dropped);
            return;
        }
        let (backend_service, endpoint) = (Arc::clone(&service.name), endpoint.address);
        signals.push(EndpointSignal { backend_service, endpoint, signal, answered, began_ms });
    }

    pub(super) fn take_signals(&self) -> Vec<EndpointSignal> {
        std::mem::take(&mut self.signals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for a client's connection, if there is one.
    fn admit(self: &Arc<Self>) -> Option<Counted> {
        let limits = &self.settings.limits;
        if self.totals.connections.fetch_add(1, Ordering::Relaxed) >= limits.connections_max as u64 {
            self.totals.connections.fetch_sub(1, Ordering::Relaxed);
            count(&self.totals.connections_refused);
            return None;
        }
        Some(Counted { shared: Arc::clone(self), client: None })
    }
}

/// Who has 64 bits of IPv6 addresses has one of them as easily as another.
fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// A connection that is counted until it is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    shared: Arc<Shared>,
    client: Option<IpAddr>,
}

impl Counted {
    /// Counts it as one of that client's, if the client may have one more.
    pub(super) fn admit_client(&mut self, peer: IpAddr) -> bool {
        let shared = &self.shared;
        if shared.is_trusted(peer) {
            return true;
        }
        let client = one_client(peer);
        let mut clients = shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = clients.entry(client).or_insert(0);
        if *connections >= shared.settings.limits.connections_per_client_max {
            drop(clients);
            count(&shared.totals.client_connections_refused);
            return false;
        }
        *connections += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.totals.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = clients.get_mut(&client) {
            *connections -= 1;
            if *connections == 0 {
                clients.remove(&client);
            }
        }
    }
}

/// What a thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve what comes to these sockets as the snapshot's listener of that address.
    Listen(SocketAddr, Vec<StdListener>),
    /// Serve that listener no longer; requests under way are answered.
    Close(SocketAddr),
    /// Serve nothing more, and end at the latest then.
    Stop(std::time::Instant),
}

/// One serving thread.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pool: Rc<Pool>,
    pub(super) budget: Budget,
    pub(super) deadlines: Deadlines,
    pub(super) rooms: Rooms,
    pub(super) unrouted_lines: UnroutedLines,
    snapshots: RefCell<Cache<ArcSnapshots, Arc<Snapshot>>>,
    random: RefCell<fastrand::Rng>,
    connections: Cell<usize>,
    ended: Notify,
}

/// Where snapshots are read from, one atomic load at a time.
#[derive(Clone, Debug)]
struct ArcSnapshots(Arc<Shared>);

impl std::ops::Deref for ArcSnapshots {
    type Target = ArcSwap<Snapshot>;

    fn deref(&self) -> &ArcSwap<Snapshot> {
        &self.0.current
    }
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            pool: Rc::new(Pool::new(&shared.settings.limits)),
            budget: Budget::full(),
            deadlines: Deadlines::default(),
            rooms: Rooms::default(),
            unrouted_lines: UnroutedLines::new(Arc::clone(&shared.totals)),
            snapshots: RefCell::new(Cache::new(ArcSnapshots(Arc::clone(&shared)))),
            random: RefCell::new(fastrand::Rng::new()),
            connections: Cell::new(0),
            ended: Notify::new(),
            shared,
        }
    }

    /// The newest snapshot; whoever has an older one keeps it.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshots.borrow_mut().load())
    }

    /// Whether a request of a backend service that was tried anew that often may be once more; the retry is then spent
    /// and counted.
    pub(super) fn may_retry(&self, service: &BackendService, retries: u32) -> bool {
        let may = retries < self.shared.settings.limits.retries_max && self.budget.spend();
        if may {
            count(&service.counters.retries);
        }
        may
    }

    /// A number below `below`, which is not 0.
    pub(super) fn draw(&self, below: usize) -> usize {
        self.random.borrow_mut().usize(..below)
    }

    pub(super) fn random_u32(&self) -> u32 {
        self.random.borrow_mut().u32(..)
    }

    pub(super) fn random_u128(&self) -> u128 {
        self.random.borrow_mut().u128(..)
    }
}

/// Runs a thread's part until it is told to stop; the connections that were cut then.
pub(super) async fn run(shared: Arc<Shared>, mut commands: mpsc::UnboundedReceiver<Command>) -> usize {
    let worker = Rc::new(Worker::new(shared));
    let mut listeners: HashMap<SocketAddr, watch::Sender<()>> = HashMap::new();
    let mut sweeps = interval(SWEEP_INTERVAL);
    let stop = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(place, sockets)) => {
                    let (closing, receiver) = watch::channel(());
                    for socket in sockets {
                        match TcpListener::from_std(socket) {
                            Ok(listener) => {
                                spawn_local(accept(Rc::clone(&worker), place, listener, receiver.clone()));
                            }
                            Err(error) => tracing::error!(%place, %error, "cannot serve a listening socket"),
                        }
                    }
                    listeners.insert(place, closing);
                }
                Some(Command::Close(place)) => drop(listeners.remove(&place)),
                Some(Command::Stop(deadline)) => break Instant::from_std(deadline),
                None => break Instant::now(),
            },
            _ = sweeps.tick() => worker.pool.sweep(),
        }
    };
    drop(listeners);
    let all_ended = async {
        while worker.connections.get() > 0 {
            worker.ended.notified().await;
        }
    };
    let _ = timeout_at(stop, all_ended).await;
    worker.connections.get()
}

/// Accepts connections until `closing` is dropped, and then those that wait already: closing the socket would reset
/// them.
async fn accept(worker: Rc<Worker>, place: SocketAddr, listener: TcpListener, closing: watch::Receiver<()>) {
    let begun = Task::begin(&worker);
    let mut told = closing.clone();
    loop {
        tokio::select! {
            biased;
            _ = told.changed() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => open(&worker, place, stream, peer, &closing),
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    let waiting = listener.into_std();
    while let Some((stream, peer)) = waiting.as_ref().ok().and_then(|listener| listener.accept().ok()) {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            open(&worker, place, stream, peer, &closing);
        }
    }
    drop(begun);
}

fn open(
    worker: &Rc<Worker>,
    place: SocketAddr,
    stream: TcpStream,
    peer: SocketAddr,
    closing: &watch::Receiver<()>,
) {
    let Some(counted) = worker.shared.admit() else { return };
    let begun = Task::begin(worker);
    // Not within another future, which would have room for this one twice.
    spawn_local(connection::serve(begun, Rc::clone(worker), place, stream, peer, counted, closing.clone()));
}

/// Something that a thread that stops waits for.
#[derive(Debug)]
pub(super) struct Task(Rc<Worker>);

impl Task {
    pub(super) fn begin(worker: &Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.ended.notify_one();
    }
}
