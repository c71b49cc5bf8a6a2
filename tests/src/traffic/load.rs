//! The load generator of `lb-traffic`: many short TCP connections at a steady rate.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rustix::net::sockopt::set_socket_linger;

use super::client::{failure_of, input_end, micros, open, print};
use super::{Failed, Loaded};

/// Connections that are being opened at one time. A connection takes well below a millisecond.
const WORKERS: u32 = 8;
/// A connection that takes longer has failed. Linux sends a lost SYN again after 1, 3 and 7 seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A worker that is later than this starts to count anew: no burst makes up for what was missed.
const LATE_MAX: Duration = Duration::from_millis(100);
/// How many failures are told one by one.
const FAILURES_NAMED_MAX: usize = 20;

/// Opens connections until standard input ends, then prints [`Loaded`].
///
/// # Errors
/// Standard output is closed.
pub fn load(to: &[SocketAddr], rate: u32) -> Result<()> {
    let is_over = input_end();
    let to: Arc<[SocketAddr]> = to.into();
    let start = Instant::now();
    print(&"started")?;
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let worker = Worker {
                to: Arc::clone(&to),
                interval: Duration::from_secs(1) * WORKERS / rate.max(1),
                start,
                is_over: Arc::clone(&is_over),
            };
            std::thread::spawn(move || worker.run(number))
        })
        .collect();
    let mut all = Loaded::default();
    for worker in workers {
        all.add(worker.join().map_err(|_| anyhow!("a worker panicked"))?);
    }
    all.elapsed_us = micros(start.elapsed());
    print(&all)
}

struct Worker {
    to: Arc<[SocketAddr]>,
    interval: Duration,
    start: Instant,
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self, number: u32) -> Loaded {
        let mut loaded = Loaded::default();
        let mut due = self.start + self.interval * number / WORKERS;
        for to in self.to.iter().cycle().skip(number as usize) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let began = Instant::now();
            due = (due + self.interval).max(began - LATE_MAX);
            match greeting(*to) {
                Ok(by) => *loaded.by.entry(by).or_default() += 1,
                Err(error) => {
                    let failure = failure_of(&error);
                    let at_us = micros(began - self.start);
                    loaded.failures.push(Failed { to: *to, at_us, failure });
                    *loaded.failed.entry(failure).or_default() += 1;
                }
            }
            loaded.slowest_us = loaded.slowest_us.max(micros(began.elapsed()));
        }
        loaded
    }
}

/// Who greets. Closed by a reset, so that neither end keeps the port for a minute (RFC 9293 TIME-WAIT):
/// there are fewer ports than connections.
fn greeting(to: SocketAddr) -> std::io::Result<String> {
    let (stream, by, _) = open(to, TIMEOUT)?;
    set_socket_linger(stream.get_ref(), Some(Duration::ZERO))?;
    Ok(by)
}

impl Loaded {
    fn add(&mut self, other: Self) {
        let Self { by, failed, failures, slowest_us, elapsed_us: _ } = other;
        merge(&mut self.by, by);
        merge(&mut self.failed, failed);
        self.failures.extend(failures);
        self.failures.truncate(FAILURES_NAMED_MAX);
        self.slowest_us = self.slowest_us.max(slowest_us);
    }
}

fn merge<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}
