//! The front-end as its owner sees it.
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc;

use super::counters::Totals;
use super::listen;
use super::settings::Settings;
use super::signal::EndpointSignal;
use super::snapshot::Snapshot;
use super::trace::Exporter;
use super::worker::{Command, Shared, run};

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}; it is tried again with the next snapshot")]
pub struct ListenFault {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub error: io::Error,
}

/// Listening sockets, by the addresses of their listeners: what one front-end gives another.
pub type ListeningSockets = HashMap<SocketAddr, Vec<TcpListener>>;

/// Serves snapshots to clients, until it is stopped or dropped.
#[derive(Debug)]
pub struct FrontEnd {
    shared: Arc<Shared>,
    threads: Vec<Serving>,
    exporter: Option<Exporter>,
    places: Mutex<Places>,
}

/// The addresses that are listened on.
#[derive(Debug, Default)]
struct Places {
    bound: HashMap<SocketAddr, Bound>,
    /// Given by another front-end, and in no snapshot yet.
    adopted: ListeningSockets,
}

#[derive(Debug)]
struct Bound {
    address: SocketAddr,
    /// The threads' sockets once more, for a front-end that takes over.
    sockets: Vec<TcpListener>,
}

#[derive(Debug)]
struct Serving {
    commands: mpsc::UnboundedSender<Command>,
    thread: JoinHandle<usize>,
}

impl FrontEnd {
    /// Starts the threads, which serve nothing yet.
    ///
    /// # Errors
    ///
    /// No thread or runtime could be had: the node lacks memory or descriptors.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let wanted = settings.threads;
        let count = if wanted == 0 { thread::available_parallelism()?.get() } else { wanted };
        let (shared, exporter) = Shared::new(settings)?;
        let shared = Arc::new(shared);
        let threads =
            (0..count).map(|index| Serving::start(index, &shared)).collect::<io::Result<Vec<Serving>>>()?;
        Ok(Self { shared, threads, exporter, places: Mutex::default() })
    }

    /// Serves `snapshot` from now on; requests that have begun keep the one before. Connections of listeners that are
    /// not in it are closed once their requests are answered. Addresses that cannot be listened on are returned: the
    /// others are served.
    pub fn swap(&self, snapshot: Arc<Snapshot>) -> Vec<ListenFault> {
        let places: HashSet<SocketAddr> = snapshot.listeners.keys().copied().collect();
        let mut held = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let Places { bound, adopted } = &mut *held;
        self.shared.current.store(snapshot);
        bound.retain(|place, _| {
            let is_wanted = places.contains(place);
            if !is_wanted {
                self.threads.iter().for_each(|serving| serving.tell(Command::Close(*place)));
            }
            is_wanted
        });
        let mut faults = Vec::new();
        for place in places {
            if bound.contains_key(&place) {
                continue;
            }
            let given = adopted.remove(&place).unwrap_or_default();
            match self.listen(place, given) {
                Ok(listening) => drop(bound.insert(place, listening)),
                Err(error) => faults.push(ListenFault { address: place, error }),
            }
        }
        faults
    }

    /// Has the threads serve sockets of an address, each thread its share.
    fn listen(&self, place: SocketAddr, given: Vec<TcpListener>) -> io::Result<Bound> {
        let threads = self.threads.len();
        let (address, sockets) = listen::sockets(place, threads, given)?;
        let listening = Bound { address, sockets: copies(&sockets)? };
        let mut shares: Vec<Vec<TcpListener>> = (0..threads).map(|_| Vec::new()).collect();
        for (share, socket) in (0..threads).cycle().zip(sockets) {
            shares[share].push(socket);
        }
        for (serving, share) in self.threads.iter().zip(shares) {
            serving.tell(Command::Listen(place, share));
        }
        Ok(listening)
    }

    /// The listening sockets, for a front-end that takes over: they stay open with it when this one closes its own, and
    /// so do the connections that wait in them.
    ///
    /// # Errors
    /// The process has no further descriptors.
    pub fn sockets(&self) -> io::Result<ListeningSockets> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.bound.iter().map(|(place, bound)| Ok((*place, copies(&bound.sockets)?))).collect()
    }

    /// Takes another front-end's sockets. Snapshots that have their listeners serve them; until then nobody here
    /// accepts from them.
    pub fn adopt(&self, sockets: ListeningSockets) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).adopted.extend(sockets);
    }

    /// The adopted sockets' addresses that no snapshot had yet.
    #[must_use]
    pub fn adopted(&self) -> Vec<SocketAddr> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).adopted.keys().copied().collect()
    }

    /// Closes the adopted sockets that no snapshot had.
    pub fn close_adopted(&self) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).adopted.clear();
    }

    /// Where the snapshot's listeners are bound, by their address in the snapshot.
    #[must_use]
    pub fn addresses(&self) -> HashMap<SocketAddr, SocketAddr> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.bound.iter().map(|(place, bound)| (*place, bound.address)).collect()
    }

    /// What requests told of endpoints since the last call: to be taken every second or so, at most
    /// [`SIGNALS_MAX`](super::SIGNALS_MAX) are kept.
    #[must_use]
    pub fn signals(&self) -> Vec<EndpointSignal> {
        self.shared.take_signals()
    }

    /// What is counted of the whole front-end.
    #[must_use]
    pub fn totals(&self) -> Arc<Totals> {
        Arc::clone(&self.shared.totals)
    }

    /// Takes no more connections, lets requests that have begun end until `deadline` is over, and tells how many
    /// connections were cut then. Waits for that: not to be called where other tasks need the thread.
    pub fn stop(self, deadline: Duration) -> usize {
        let until = Instant::now() + deadline;
        drop(self.places);
        self.threads.iter().for_each(|serving| serving.tell(Command::Stop(until)));
        let cut = self.threads.into_iter().map(|serving| serving.thread.join().unwrap_or(0)).sum();
        self.exporter.into_iter().for_each(Exporter::stop);
        cut
    }
}

fn copies(sockets: &[TcpListener]) -> io::Result<Vec<TcpListener>> {
    sockets.iter().map(TcpListener::try_clone).collect()
}

impl Serving {
    fn start(index: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::clone(shared);
        let (ready, made) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(format!("front-end-{index}")).spawn(move || {
            // A runtime of this kind stays on the thread that made it.
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(run(shared, receiver))
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    0
                }
            }
        })?;
        made.recv().map_err(io::Error::other)??;
        Ok(Self { commands, thread })
    }

    /// A thread that is gone has panicked, which its join tells.
    fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}
