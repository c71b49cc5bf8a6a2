//! A client's HTTP/1 connection between requests.
//!
//! Most connections of a front-end are silent most of the time, and the parser and its buffers take some 25 KiB of each.
//! So a connection that has been quiet for a moment is taken out of the parser, and gets a new one with its next byte.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use super::link::Link;
use super::settings::Limits;

/// Counts a parked connection.
struct Parked<'a>(&'a AtomicU64);

impl<'a> Parked<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose bytes come from one socket.
pub(super) trait Socket {
    /// That socket.
    fn socket(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Ends once nothing was under way on the connection for that long.
pub(super) async fn until_quiet(link: &Link, parked_after: Duration) {
    let is_quiet = || {
        let is_old = link.idle_since().is_some_and(|since| since.elapsed() >= parked_after);
        is_old && link.wire.is_quiet()
    };
    while !is_quiet() {
        sleep(parked_after).await;
    }
}

/// Whether the client sends something before its time is over, or `closing` is told or dropped.
pub(super) async fn until_asked(
    socket: &TcpStream,
    link: &Link,
    limits: &Limits,
    closing: &mut watch::Receiver<()>,
) -> bool {
    let _parked = Parked::begin(&link.worker.shared.totals.parked);
    let patience = if link.has_asked() { limits.idle_timeout } else { limits.header_timeout };
    let limit = link.idle_since().unwrap_or_else(Instant::now) + patience;
    tokio::select! {
        biased;
        readable = socket.readable() => return readable.is_ok(),
        // Before its first request it is left open: that may be on its way, and nobody else would answer it.
        _ = closing.changed(), if link.has_asked() => {}
        () = sleep_until(limit) => return false,
    }
    // So may be the next one. Its answer tells the client that it is the last.
    link.close_with_next_answer();
    timeout(limits.last_request_timeout, socket.readable()).await.is_ok_and(|readable| readable.is_ok())
}
