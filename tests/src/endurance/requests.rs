//! Requests to the Ingress, one after the other, and the times in which they may fail: connections end with the
//! agent whose front-end has them, and without one nobody listens.
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::{INGRESS, INGRESS_HOST};
use crate::topology::Host;
use crate::web::ask;

/// Time from one request to the next, beside what it takes.
const INTERVAL: Duration = Duration::from_millis(10);

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

/// Requests that are being made. Dropping it ends them.
#[derive(Debug)]
pub struct Requests {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Requests {
    /// Begins to ask, each time on a connection of its own.
    #[must_use]
    pub fn start(client: &Host) -> Self {
        let (shared, client) = (Arc::<Shared>::default(), client.clone());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !of_thread.is_over.load(Ordering::Relaxed) {
                request(&client, &of_thread);
                std::thread::sleep(INTERVAL);
            }
        });
        Self { shared, thread: Some(thread) }
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
        let answered = self.shared.answered.load(Ordering::Relaxed);
        ensure!(unexplained.is_empty(), "requests failed while the front-end was there: {unexplained:?}");
        ensure!(answered > 0, "no request was answered: {failed:?}");
        Ok(answered)
    }

    fn end(&mut self) -> Result<(), ()> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(drop))
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // A client that panicked has said so.
        let _ = self.end();
    }
}

fn request(client: &Host, shared: &Shared) {
    let began = Instant::now();
    let why = match ask(client, INGRESS, INGRESS_HOST, "/") {
        Ok(answer) if answer.code == 200 => {
            shared.answered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        Ok(answer) => answer.head,
        Err(error) => error.to_string(),
    };
    let failed = Failed { began, ended: Instant::now(), why };
    shared.failed.lock().unwrap_or_else(PoisonError::into_inner).push(failed);
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
