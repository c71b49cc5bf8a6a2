//! Small answers over HTTP, for people and programs of the same node: what they show may take a while to make, so each
//! address has a thread of its own.
use std::convert::Infallible;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// Clients that are answered at once; further ones wait in the kernel's queue.
const CLIENTS_MAX: usize = 8;
/// Time in which a client must have asked and read its answer: as long as Prometheus waits for one.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before an address that could not be had is tried again: a former agent may still have it.
const RETRY: Duration = Duration::from_secs(5);
/// Pause after a failed `accept()`: what it lacks (descriptors, memory) is not there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where something is served, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let cannot =
            |_| format!("{text:?} is no address with a port, as 127.0.0.1:10247, and not empty for none");
        text.parse().map(|address| Self(Some(address))).map_err(cannot)
    }
}

impl Display for Address {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(out))
    }
}

/// What is served where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// A word for it; the thread's name too.
    pub(crate) what: &'static str,
    /// The flag that gives the address.
    pub(crate) flag: &'static str,
    /// The address.
    pub(crate) address: SocketAddr,
}

/// Serves until it is dropped, which waits for the address to be free.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A thread that has panicked serves nothing either.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers requests, one at a time.
///
/// # Errors
/// The system has no further thread.
pub(crate) fn start(
    place: Place,
    respond: impl Fn(&Request<Incoming>) -> Response<String> + Send + Sync + 'static,
) -> Result<Server> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        runtime.block_on(async {
            let serving = async {
                let listener = listener(place).await;
                accept(listener, Arc::new(respond)).await;
            };
            tokio::select! {
                () = serving => {}
                _ = stopped => {}
            }
        });
    };
    let thread = std::thread::Builder::new().name(place.what.into()).spawn(run);
    Ok(Server { stop: Some(stop), thread: Some(thread.context("cannot start a thread")?) })
}

async fn listener(place: Place) -> TcpListener {
    let Place { what, flag, address } = place;
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, "serves {what}");
                return listener;
            }
            Err(error) if !is_told => {
                is_told = true;
                warn!(
                    %address, %error,
                    "cannot serve {what} here; tried again each {} s; give another {flag}",
                    RETRY.as_secs()
                );
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

/// Answers those who connect.
pub(crate) async fn accept<F>(listener: TcpListener, respond: Arc<F>)
where
    F: Fn(&Request<Incoming>) -> Response<String> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let respond = Arc::clone(&respond);
        tokio::spawn(async move {
            // A client that is too slow, or goes away, has no whole answer, and sees that.
            let _ = timeout(CLIENT_TIMEOUT, serve(stream, &*respond)).await;
            drop(place);
        });
    }
}

async fn serve(
    stream: TcpStream,
    respond: &(impl Fn(&Request<Incoming>) -> Response<String> + Sync),
) -> Result<(), hyper::Error> {
    let respond = service_fn(|request| std::future::ready(Ok::<_, Infallible>(respond(&request))));
    http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), respond).await
}

/// An answer in words.
pub(crate) fn plain(status: StatusCode, text: String) -> Response<String> {
    answer(status, "text/plain; charset=utf-8", text)
}

/// An answer of a kind.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
