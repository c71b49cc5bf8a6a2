//! A client's HTTP/1 connection between requests.
//!
//! Most connections of a front-end are silent most of the time, and hyper's parser and its buffers take some 25 KiB of
//! each. So a connection that has been quiet for a moment is taken out of it, and gets a new one with the next request
//! that is not passed on as it is.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::link::Link;

/// Counts a parked connection.
pub(super) struct Parked<'a>(&'a AtomicU64);

impl<'a> Parked<'a> {
    pub(super) fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
