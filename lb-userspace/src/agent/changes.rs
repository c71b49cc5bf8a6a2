//! Threads that wait for the kernel to say that the node's interfaces or routes have changed: only the fact that
//! they have matters.
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tracing::warn;

use crate::attach::Monitor;
use crate::maps::RouteGeneration;

/// Least time between two generations of the routes: a table that converges changes in thousands of messages.
const ROUTES_INTERVAL: Duration = Duration::from_millis(5);

/// Marks changes of interfaces. Marks that nobody took yet are one mark.
pub(super) fn watch_links() -> Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(1);
    let monitor = Monitor::of_links().context("cannot listen for changes of network interfaces")?;
    watch("links", "new interfaces are no longer seen", monitor, move || {
        // A full channel has a mark already.
        let _ = sender.try_send(());
        !sender.is_closed()
    })?;
    Ok(receiver)
}

/// Tells the programs of each change of the routes, so that they ask for them anew. Without it they do once a
/// second.
pub(super) fn watch_routes(mut generation: RouteGeneration) -> Result<()> {
    let monitor = Monitor::of_routes().context("cannot listen for changes of routes")?;
    watch("routes", "changes of routes are seen up to a second late", monitor, move || {
        if let Err(error) = generation.raise() {
            warn!(error = format!("{error:#}"), "a change of routes is seen up to a second late");
        }
        std::thread::sleep(ROUTES_INTERVAL);
        true
    })
}

/// Runs `changed` behind each batch of messages, until it is `false`; `fault` is said when there will be none.
fn watch(
    name: &str,
    fault: &'static str,
    monitor: Monitor,
    mut changed: impl FnMut() -> bool + Send + 'static,
) -> Result<()> {
    let wait = move || {
        loop {
            match poll(&mut [PollFd::new(&monitor, PollFlags::IN)], None) {
                Ok(_) => monitor.drain(),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    warn!(error = %error, "{fault}");
                    return;
                }
            }
            if !changed() {
                return;
            }
        }
    };
    std::thread::Builder::new().name(name.into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
