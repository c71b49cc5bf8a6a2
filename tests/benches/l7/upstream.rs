//! The server behind all proxies: HTTP/1.1 of kept connections, at as little cost as can be, and a count of what it
//! answered.
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::wait::wait_until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// The file whose answer has 100 bytes.
pub(crate) const SMALL: &str = "small";
/// The file whose answer has 64 KiB.
pub(crate) const LARGE: &str = "large";

const SMALL_BYTES: usize = 100;
const LARGE_BYTES: usize = 64 * 1024;
/// Bytes of a request: a head is much shorter, and there are no bodies.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// Equal looks, 10 ms apart, after which no more requests come.
const QUIET_LOOKS: usize = 10;
const QUIET_DEADLINE: Duration = Duration::from_secs(10);

/// A running server; its thread ends with the program.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    answered: Arc<AtomicU64>,
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
    answered: Arc<AtomicU64>,
}

impl Upstream {
    pub(crate) fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build().context("cannot make a runtime")?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.context("cannot listen on the loopback address")?;
        let address = listener.local_addr()?;
        let answered = Arc::<AtomicU64>::default();
        let answers = Answers {
            small: answer(SMALL_BYTES),
            large: answer(LARGE_BYTES),
            answered: Arc::clone(&answered),
        };
        std::thread::spawn(move || serve(&runtime, &listener, &Arc::new(answers)));
        Ok(Self { address, answered })
    }

    /// Requests answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Requests answered so far, once there are no more to come: those of clients that have gone may still be with a
    /// proxy.
    ///
    /// # Errors
    /// Requests still come at the deadline.
    pub(crate) fn answered_in_all(&self) -> Result<u64> {
        let mut looks = VecDeque::new();
        wait_until(QUIET_DEADLINE, "an end of requests to the upstream", || {
            looks.push_front(self.answered());
            looks.truncate(QUIET_LOOKS);
            looks.len() == QUIET_LOOKS && looks.front() == looks.back()
        })?;
        looks.front().copied().context("there was a look")
    }
}

fn answer(bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; bytes]].concat()
}

fn serve(runtime: &Runtime, listener: &TcpListener, answers: &Arc<Answers>) {
    runtime.block_on(async {
        while let Ok((stream, _)) = listener.accept().await {
            // An end without a word is the proxy's right, and a fault shows as a request without an answer.
            tokio::spawn(connection(stream, Arc::clone(answers)));
        }
    });
}

async fn connection(mut stream: TcpStream, answers: Arc<Answers>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let large = format!("/{LARGE} ").into_bytes();
    let mut request = Vec::with_capacity(REQUEST_BYTES_MAX);
    while stream.read_buf(&mut request).await? > 0 && request.len() < REQUEST_BYTES_MAX {
        // No proxy sends a second request before the first is answered.
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let is_large = line.windows(large.len()).any(|window| window == large);
        stream.write_all(if is_large { &answers.large } else { &answers.small }).await?;
        answers.answered.fetch_add(1, Ordering::Relaxed);
        request.clear();
    }
    Ok(())
}
