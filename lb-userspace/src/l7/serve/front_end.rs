//! The front-end as its owner sees it.
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
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

/// Serves snapshots to clients, until it is stopped or dropped.
#[derive(Debug)]
pub struct FrontEnd {
    shared: Arc<Shared>,
    threads: Vec<Serving>,
    /// Where each listener is bound.
    bound: Mutex<HashMap<SocketAddr, SocketAddr>>,
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
        let shared = Arc::new(Shared::new(settings)?);
        let threads =
            (0..count).map(|index| Serving::start(index, &shared)).collect::<io::Result<Vec<Serving>>>()?;
        Ok(Self { shared, threads, bound: Mutex::default() })
    }

    /// Serves `snapshot` from now on; requests that have begun keep the one before. Connections of listeners that are
    /// not in it are closed once their requests are answered. Addresses that cannot be listened on are returned: the
    /// others are served.
    pub fn swap(&self, snapshot: Arc<Snapshot>) -> Vec<ListenFault> {
        let places: HashSet<SocketAddr> = snapshot.listeners.keys().copied().collect();
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
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
            match listen::sockets(place, self.threads.len()) {
                Ok((address, sockets)) => {
                    for (serving, socket) in self.threads.iter().zip(sockets) {
                        serving.tell(Command::Listen(place, socket));
                    }
                    bound.insert(place, address);
                }
                Err(error) => faults.push(ListenFault { address: place, error }),
            }
        }
        faults
    }

    /// Where the snapshot's listeners are bound, by their address in the snapshot.
    #[must_use]
    pub fn addresses(&self) -> HashMap<SocketAddr, SocketAddr> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        self.threads.iter().for_each(|serving| serving.tell(Command::Stop(until)));
        self.threads.into_iter().map(|serving| serving.thread.join().unwrap_or(0)).sum()
    }
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
