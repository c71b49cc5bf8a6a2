//! The probing itself: TCP connections from this node to the pods' own addresses, never by way of a
//! VIP (the socket hooks translate VIPs alone).
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use super::schedule::{Probe, Schedule, Seen};
use super::{HealthEvent, Outcome, Targets};

/// Most probes under way. At the bound further ones wait, and are logged when they are late.
const PROBES_MAX: usize = 512;

/// How late a probe may begin before that is logged.
const LATE: Duration = Duration::from_secs(5);

/// Errors of `connect` that say something about this node and nothing about the endpoint.
const OWN_FAULTS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];

/// Probes the targets and reports what changes, until the targets' sender or the receiver of results
/// is gone.
pub async fn run(mut targets: watch::Receiver<Targets>, results: mpsc::Sender<HealthEvent>) {
    let mut schedule = Schedule::default();
    let mut probes = JoinSet::new();
    let mut log = Log::default();
    targets.mark_changed();
    loop {
        let now = Instant::now();
        log.lateness(schedule.next_due().map_or(Duration::ZERO, |due| now.saturating_duration_since(due)));
        while probes.len() < PROBES_MAX
            && let Some(probe) = schedule.take_due(now)
        {
            probes.spawn(async move {
                let seen = connect(&probe).await;
                (probe, seen)
            });
        }
        let next_due = schedule.next_due().filter(|_| probes.len() < PROBES_MAX);
        let events = tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    return;
                }
                let targets = targets.borrow_and_update().clone();
                schedule.update(&targets, Instant::now(), random)
            }
            Some(done) = probes.join_next() => {
                // A probe that panicked has been reported by its task; it leaves its target alone.
                let Ok((probe, seen)) = done else { continue };
                log.own_fault(seen.as_ref().err());
                let event = schedule.record(&probe, seen, Instant::now(), SystemTime::now(), random());
                event.into_iter().collect()
            }
            () = sleep_until(next_due.unwrap_or(now).into()), if next_due.is_some() => Vec::new(),
            () = results.closed() => return,
        };
        for event in events {
            if results.send(event).await.is_err() {
                return;
            }
        }
    }
}

async fn connect(probe: &Probe) -> Seen {
    let address = SocketAddr::new(probe.target.address, probe.target.port);
    match timeout(probe.timeout, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok((Outcome::Passed, "connected".to_owned())),
        Ok(Err(error)) if is_own_fault(&error) => Err(error.to_string()),
        Ok(Err(error)) => Ok((Outcome::Failed, format!("cannot connect: {error}"))),
        Err(_) => Ok((Outcome::Failed, format!("no connection within {} ms", probe.timeout.as_millis()))),
    }
}

fn is_own_fault(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| OWN_FAULTS.iter().any(|fault| fault.raw_os_error() == code))
}

fn random() -> u32 {
    // A new `RandomState` is seeded afresh.
    RandomState::new().hash_one(0u8) as u32
}

/// Says once when probing goes wrong on this node, and once when it is well again.
#[derive(Default)]
struct Log {
    is_late: bool,
    has_own_fault: bool,
}

impl Log {
    fn lateness(&mut self, late: Duration) {
        if late > LATE && !self.is_late {
            self.is_late = true;
            warn!(late_ms = late.as_millis(), probes_max = PROBES_MAX, "health probes begin late");
        } else if late.is_zero() && self.is_late {
            self.is_late = false;
            info!("health probes begin in time again");
        }
    }

    fn own_fault(&mut self, fault: Option<&String>) {
        match fault {
            Some(fault) if !self.has_own_fault => {
                self.has_own_fault = true;
                warn!(%fault, "cannot probe endpoints from this node; their states stay");
            }
            None if self.has_own_fault => {
                self.has_own_fault = false;
                info!("endpoints can be probed again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
