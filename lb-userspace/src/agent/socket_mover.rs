//! A thread of its own for the sockets of endpoints that go: it looks into all processes, which takes longer
//! than the loop may wait.
use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::maps::Maps;
use crate::sockets;

/// Marks that endpoints have gone.
pub(super) struct SocketMover(mpsc::Sender<()>);

impl SocketMover {
    /// Starts the thread; its first look is for what a former agent left.
    pub(super) fn start(mut maps: Maps) -> Result<Self> {
        let (sender, mut receiver) = mpsc::channel(1);
        let run = move || {
            loop {
                match sockets::leave_gone_endpoints(&mut maps) {
                    Ok(found) if found != sockets::Moved::default() => {
                        let sockets::Moved { moved, ended, not_found } = found;
                        info!(moved, ended, not_found, "sockets have left endpoints that are gone");
                    }
                    Ok(_) => {}
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "sockets stay with endpoints that are gone");
                    }
                }
                if receiver.blocking_recv().is_none() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sockets".into()).spawn(run).context("cannot start a thread")?;
        Ok(Self(sender))
    }

    /// Asks for a look, soon. Marks that nobody took yet are one mark.
    pub(super) fn mark(&self) {
        // A full channel has a mark already.
        let _ = self.0.try_send(());
    }
}
