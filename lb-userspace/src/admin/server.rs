//! The agent's side.
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{Mode, chmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Line, Request, ServiceRequests, socket_path};
use crate::attach::ServedInterface;
use crate::health::Probing;

/// Clients that are answered at once; further ones wait in the kernel's queue, which has as many places.
const CLIENTS_MAX: usize = 8;
/// Most bytes of a request. A longer one is not understood.
const REQUEST_BYTES_MAX: u64 = 4_096;
/// Time in which a request must be there whole, and in which a client must take each part of its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Targets that are looked at between two writes: nobody waits for longer than that takes.
const PAGE_TARGETS: usize = 256;
/// Pause after a failed `accept()`: what it lacks (descriptors, memory) is not there at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers a question in a command's words; an error is told to the command.
pub type Answer = Arc<dyn Fn(serde_json::Value) -> Result<String> + Send + Sync>;

/// Gives the requests of backend services, as they are counted at that moment.
pub type RequestCounts = Arc<dyn Fn() -> Vec<ServiceRequests> + Send + Sync>;

/// A question to the agent's loop, which has the facts: how their JSON is made, away from the loop.
pub type FactsQuestion = oneshot::Sender<Box<dyn FnOnce() -> Result<String> + Send>>;

/// The interfaces that are served, as they were last told.
#[derive(Clone, Debug, Default)]
pub struct Interfaces(Arc<Mutex<Vec<ServedInterface>>>);

impl Interfaces {
    /// Puts these in the place of the former ones.
    pub fn publish(&self, served: Vec<ServedInterface>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    fn all(&self) -> Vec<ServedInterface> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What can be told.
#[derive(Clone, Default)]
pub struct Known {
    /// How interfaces are served.
    pub interfaces: Interfaces,
    /// Where facts are asked for.
    pub facts: Option<mpsc::Sender<FactsQuestion>>,
    /// What probes have found.
    pub probing: Probing,
    /// What the front-end has answered.
    pub requests: Option<RequestCounts>,
    /// What is known of URL maps.
    pub url_maps: Option<Answer>,
    /// Who gives the node to another agent, which waits at the other end of the stream.
    pub take_over: Option<mpsc::Sender<StdStream>>,
}

/// Answers until it is dropped; then the socket's file goes too.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        // Who finds it gone already has what it wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    /// Listens in an agent's run directory. The file of a former agent is replaced.
    ///
    /// # Errors
    /// Another agent answers there, or no socket can be made.
    pub fn start(run_dir: &Path, known: Known) -> Result<Self> {
        let path = socket_path(run_dir);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            bail!("another agent answers at {}; give each agent its own --run-dir", path.display());
        }
        super::remove(run_dir).with_context(|| format!("cannot replace {}", path.display()))?;
        let listener =
            private_listener(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        Ok(Self { path, accepting: tokio::spawn(accept(listener, known)) })
    }
}

/// Nobody can connect before the file's mode keeps others out, since it is not listened on until then.
fn private_listener(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&socket, CLIENTS_MAX as i32)?;
    UnixListener::from_std(StdListener::from(socket))
}

async fn accept(listener: UnixListener, known: Known) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let known = known.clone();
        tokio::spawn(async move {
            serve(stream, &known, |user| is_answered(user, geteuid().as_raw())).await;
            drop(place);
        });
    }
}

pub(super) const fn is_answered(user: u32, own_user: u32) -> bool {
    user == 0 || user == own_user
}

/// Answers one request.
pub(super) async fn serve(mut stream: UnixStream, known: &Known, is_answered: impl Fn(u32) -> bool) {
    let peer = stream.peer_cred().map(|credentials| credentials.uid());
    if !peer.as_ref().is_ok_and(|user| is_answered(*user)) {
        warn!(?peer, "refused a client of the agent's socket, which is for root alone");
        return;
    }
    // A client that is too slow, or goes away, has no whole answer, and sees that.
    let request = match timeout(PATIENCE, request(&mut stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => {
            let _ = write(&mut stream, &[Line::Error(format!("no request: {error}"))]).await;
            return;
        }
        Err(_) => return,
    };
    let _ = match request {
        Request::Health { backend_service } => {
            write_health(&mut stream, &known.probing, backend_service.as_deref()).await
        }
        Request::Probing => write(&mut stream, &[Line::Probing(known.probing.stats()), Line::End]).await,
        Request::Interfaces => {
            write_all(&mut stream, known.interfaces.all().into_iter().map(Line::Interface)).await
        }
        Request::Requests => {
            let counts = known.requests.as_ref().map(|counts| counts()).unwrap_or_default();
            write_all(&mut stream, counts.into_iter().map(Line::Requests)).await
        }
        Request::Facts => write(&mut stream, &facts(known).await).await,
        Request::UrlMaps { question } => write(&mut stream, &url_maps(known, question).await).await,
        Request::TakeOver => take_over(stream, known).await,
    };
}

/// Whoever gives the node away answers in its own words, once it has.
async fn take_over(mut stream: UnixStream, known: &Known) -> io::Result<()> {
    let Some(giver) = &known.take_over else {
        return write(&mut stream, &[Line::Error("this agent gives nothing away".into())]).await;
    };
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    // An agent that is ending takes no request any more: the stream ends with it.
    giver.send(stream).await.map_err(io::Error::other)
}

async fn request(stream: &mut UnixStream) -> io::Result<Request> {
    let mut line = Vec::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}

/// In pages, so that an answer is never in memory as a whole, and probes go on meanwhile.
async fn write_health(
    stream: &mut UnixStream,
    probing: &Probing,
    backend_service: Option<&str>,
) -> io::Result<()> {
    let mut after = None;
    loop {
        let (page, last) = probing.page(after.as_ref(), backend_service, PAGE_TARGETS);
        let mut lines: Vec<Line> = page.into_iter().map(Line::Health).collect();
        if last.is_none() {
            lines.push(Line::End);
        }
        write(stream, &lines).await?;
        if last.is_none() {
            return Ok(());
        }
        after = last;
    }
}

/// Beside the loop, since an answer may have every rule of a cluster.
async fn url_maps(known: &Known, question: serde_json::Value) -> [Line; 2] {
    match known.url_maps.clone() {
        Some(answer) => answered(move || answer(question)).await,
        None => told(Err(anyhow!("nothing is known of URL maps"))),
    }
}

/// The loop only lends the facts: they may be every object of a cluster.
async fn facts(known: &Known) -> [Line; 2] {
    let unknown = || told(Err(anyhow!("the facts are not told")));
    let Some(facts) = &known.facts else { return unknown() };
    let (question, answer) = oneshot::channel();
    if facts.send(question).await.is_err() {
        return unknown();
    }
    match answer.await {
        Ok(text) => answered(text).await,
        Err(_) => unknown(),
    }
}

async fn answered(text: impl FnOnce() -> Result<String> + Send + 'static) -> [Line; 2] {
    match tokio::task::spawn_blocking(text).await {
        Ok(text) => told(text),
        Err(error) => told(Err(error.into())),
    }
}

fn told(text: Result<String>) -> [Line; 2] {
    match text {
        Ok(text) => [Line::Text(text), Line::End],
        Err(error) => [Line::Error(format!("{error:#}")), Line::End],
    }
}

async fn write_all(stream: &mut UnixStream, lines: impl Iterator<Item = Line>) -> io::Result<()> {
    let lines: Vec<Line> = lines.chain([Line::End]).collect();
    write(stream, &lines).await
}

async fn write(stream: &mut UnixStream, lines: &[Line]) -> io::Result<()> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
    }
    timeout(PATIENCE, stream.write_all(&text)).await?
}
