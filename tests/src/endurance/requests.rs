//! Requests to the Ingress, and the times in which they may fail: connections end with the
//! agent whose front-end has them, and without one nobody listens.
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::{INGRESS, INGRESS_HOST};
use crate::topology::Host;
use crate::web::{Answer, Kept, ask};

/// Time from one request of a client to its next, beside what it takes.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Times in which the front-end may be missing.
#[derive(Clone, Debug, Default)]
pub struct Absences(Vec<RangeInclusive<Instant>>);

impl Absences {
    /// The front-end was killed at `from` at the earliest, and answers again now.
    pub fn end(&mut self, from: Instant) {
        self.0.push(from..=Instant::now());
    }

    fn covers(&self, failed: &Failed) -> bool {
        self.0.iter().any(|absence| failed.began <= *absence.end() && failed.ended >= *absence.start())
    }
}

/// A request that failed.
#[derive(Clone, Debug)]
struct Failed {
    began: Instant,
    ended: Instant,
    why: String,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    answered: AtomicU64,
    failed: Mutex<Vec<Failed>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Makes a request; whether another one can follow it where it was made.
    fn note(&self, request: impl FnOnce() -> std::io::Result<Answer>) -> bool {
        let began = Instant::now();
        let why = match request() {
            Ok(answer) if answer.code == 200 => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return answer.goes_on();
            }
            Ok(answer) => answer.head,
            Err(error) => error.to_string(),
        };
        let failed = Failed { began, ended: Instant::now(), why };
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(failed);
        false
    }
}

/// Requests that are being made. Dropping it ends them.
#[derive(Debug)]
pub struct Requests {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Requests {
    /// Begins to ask, each time on a connection of its own.
    #[must_use]
    pub fn start(client: &Host) -> Self {
        Self::by(1, client, |client, shared| {
            while !shared.is_over() {
                shared.note(|| ask(client, INGRESS, INGRESS_HOST, "/"));
                std::thread::sleep(INTERVAL);
            }
        })
    }

    /// Begins to ask over so many connections, each of which is kept until an answer says that it ends; the time from
    /// one request to the next is of each.
    #[must_use]
    pub fn start_kept(client: &Host, connections: u32, interval: Duration) -> Self {
        Self::by(connections, client, move |client, shared| {
            let asked = client.run_in_netns(|| {
                while !shared.is_over() {
                    let mut kept = Kept::dial(INGRESS);
                    let mut next = || match &mut kept {
                        Ok(kept) => kept.ask(INGRESS_HOST, "/"),
                        Err(error) => Err(std::io::Error::other(error.to_string())),
                    };
                    while shared.note(&mut next) && !shared.is_over() {
                        std::thread::sleep(interval);
                    }
                    std::thread::sleep(INTERVAL);
                }
            });
            asked.expect("the client's namespace is there as long as the client");
        })
    }

    fn by(threads: u32, client: &Host, run: impl Fn(&Host, &Shared) + Clone + Send + 'static) -> Self {
        let shared = Arc::<Shared>::default();
        let start = |_| {
            let (shared, client, run) = (Arc::clone(&shared), client.clone(), run.clone());
            std::thread::spawn(move || run(&client, &shared))
        };
        let threads = (0..threads).map(start).collect();
        Self { shared, threads }
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends, and says how many requests were answered.
    ///
    /// # Errors
    /// One failed although the front-end was there, or none was answered.
    pub fn finish(mut self, absences: &Absences) -> Result<u64> {
        self.end().map_err(|()| anyhow!("the client of the Ingress panicked"))?;
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |failed: &Failed| format!("{} after {:?}", failed.why, failed.ended - failed.began);
        let unexplained: Vec<String> =
            failed.iter().filter(|failed| !absences.covers(failed)).map(told).collect();
        let answered = self.answered();
        ensure!(unexplained.is_empty(), "requests failed while the front-end was there: {unexplained:?}");
        ensure!(answered > 0, "no request was answered: {failed:?}");
        Ok(answered)
    }

    fn end(&mut self) -> Result<(), ()> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        ended.into_iter().try_for_each(|ended| ended.map_err(drop))
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // A client that panicked has said so.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_explained_by_an_absence_that_it_meets() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let failed = |began, ended| Failed { began: at(began), ended: at(ended), why: String::new() };
        let absences = Absences(vec![at(10)..=at(20)]);
        let explained = [(9, 10), (12, 13), (19, 25), (5, 30)].map(|(began, ended)| failed(began, ended));
        assert!(explained.iter().all(|failed| absences.covers(failed)));
        assert!(!absences.covers(&failed(5, 9)));
        assert!(!absences.covers(&failed(21, 22)));
    }
}
