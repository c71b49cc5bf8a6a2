//! What an upgraded connection becomes: bytes both ways, unread.
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use super::link::Link;
use super::snapshot::InFlight;
use super::worker::Task;

/// Bytes that are under way in one direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// Carries bytes between a client and an endpoint until both have ended, one is gone, or nothing comes for long. The
/// endpoint's request counts until then.
pub(super) fn start(link: Rc<Link>, client: OnUpgrade, endpoint: OnUpgrade, in_flight: InFlight) {
    let begun = Task::begin(&link.worker);
    spawn_local(async move {
        let idle_timeout = link.worker.shared.settings.limits.tunnel_idle_timeout;
        if let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) {
            let (client, endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            // Whoever hangs up in a tunnel has said all there is to say.
            let _ = carry(client, endpoint, idle_timeout).await;
        }
        drop((in_flight, link, begun));
    });
}

async fn carry<A, B>(client: A, endpoint: B, idle_timeout: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = split(client);
    let (from_endpoint, to_endpoint) = split(endpoint);
    let moved = Cell::new(Instant::now());
    let both = async {
        tokio::try_join!(copy(from_client, to_endpoint, &moved), copy(from_endpoint, to_client, &moved))
    };
    tokio::select! {
        done = both => done.map(|_| ()),
        () = idle(&moved, idle_timeout) => Ok(()),
    }
}

async fn idle(moved: &Cell<Instant>, idle_timeout: Duration) {
    while moved.get().elapsed() < idle_timeout {
        sleep_until(moved.get() + idle_timeout).await;
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Cell<Instant>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        moved.set(Instant::now());
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
