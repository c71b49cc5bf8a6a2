//! What is counted, for whoever shows it.
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// How the requests of a URL map or a backend service came out.
#[derive(Debug, Default)]
pub struct Counters {
    classes: [AtomicU64; 5],
    /// Further tries.
    pub retries: AtomicU64,
    /// Connections to endpoints that did not come about.
    pub connects_failed: AtomicU64,
    /// Requests that became tunnels.
    pub tunnels: AtomicU64,
    /// Bytes of answers' bodies.
    pub answer_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn note(&self, code: StatusCode) {
        let class = usize::from(code.as_u16() / 100).clamp(1, 5);
        self.classes[class - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// Answers by their code's first digit: 1xx (tunnels) first.
    #[must_use]
    pub fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|index| self.classes[index].load(Ordering::Relaxed))
    }
}

/// What is counted of a front-end as a whole.
#[derive(Debug, Default)]
pub struct Totals {
    /// Clients' connections that are open.
    pub connections: AtomicU64,
    /// Connections closed at once: too many in all.
    pub connections_refused: AtomicU64,
    /// Connections closed at once: too many of one client.
    pub client_connections_refused: AtomicU64,
    /// Connections closed for lack of a good PROXY header, or of the right to send one.
    pub proxy_headers_refused: AtomicU64,
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// Requests refused for bytes that two readers could take for different requests.
    pub bytes_refused: AtomicU64,
    /// HTTP/2 connections closed for requests given up too fast.
    pub resets_refused: AtomicU64,
    /// Signals dropped, since nobody took those before.
    pub signals_dropped: AtomicU64,
    /// Lines of the access log dropped, since the log was not written as fast.
    pub log_lines_dropped: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
