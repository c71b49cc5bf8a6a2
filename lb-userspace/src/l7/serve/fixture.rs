//! Clients, endpoints and a front-end between them, all on loopback with real sockets.
use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::l7::{HostPattern, HostRule, NormalPath, PathPattern, PathRule, UrlMap};

/// Time in which anything must have happened.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A request or an answer as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// Request or status line and fields, with lower-case names.
    pub(super) lines: Vec<String>,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn start(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }

    /// All values of a field.
    pub(super) fn fields(&self, name: &str) -> Vec<&str> {
        let fields = self.lines.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| *field == name).map(|(_, value)| value).collect()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }

    pub(super) fn code(&self) -> u16 {
        self.start().split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads a message's head; none at the connection's end.
pub(super) fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Message>> {
    let mut message = Message::default();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return if message.lines.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            return Ok(Some(message));
        }
        message.lines.push(match line.split_once(':') {
            Some((name, value)) if !message.lines.is_empty() => {
                format!("{}: {}", name.to_ascii_lowercase(), value.trim())
            }
            _ => line.to_owned(),
        });
    }
}

/// Reads the body that a head announces.
pub(super) fn read_body(reader: &mut impl BufRead, message: &mut Message) -> io::Result<()> {
    if message.field("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            let begin = message.body.len();
            message.body.resize(begin + size, 0);
            reader.read_exact(&mut message.body[begin..])?;
            reader.read_exact(&mut [0; 2])?;
            if size == 0 {
                return Ok(());
            }
        }
    }
    let length = message.field("content-length").and_then(|length| length.parse().ok());
    message.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut message.body)
}

/// An endpoint that speaks HTTP/1 as it is told to.
pub(super) struct RawEndpoint {
    pub(super) address: SocketAddr,
    /// Connections that it accepted.
    pub(super) accepted: Arc<AtomicUsize>,
    /// Requests that it read.
    pub(super) requests: Arc<Mutex<Vec<Message>>>,
}

impl RawEndpoint {
    /// Each connection is given to `serve` with the function that reads its next request.
    pub(super) fn start(serve: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        Self::on(listener, serve)
    }

    /// The same, behind a socket that listens.
    pub(super) fn on(
        listener: TcpListener,
        serve: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let (accepted, requests) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<Message>>>::default());
        let (counter, seen, serve) = (Arc::clone(&accepted), Arc::clone(&requests), Arc::new(serve));
        // The thread ends with the test's process: it holds nothing but a loopback socket.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                counter.fetch_add(1, Ordering::SeqCst);
                let (seen, serve) = (Arc::clone(&seen), Arc::clone(&serve));
                thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let reader = BufReader::new(stream.try_clone().expect("a stream"));
                    let _ = serve(&mut Peer { reader, stream, seen });
                });
            }
        });
        Self { address, accepted, requests }
    }

    /// One that answers all requests with its name and what it was asked for.
    pub(super) fn named(name: &'static str) -> Self {
        Self::start(move |peer| {
            while let Some(request) = peer.request()? {
                peer.answer(&format!("{name} {}", request.start()))?;
            }
            Ok(())
        })
    }

    /// One that answers all requests with these bytes.
    pub(super) fn saying(bytes: &'static [u8]) -> Self {
        Self::start(move |peer| {
            while peer.request()?.is_some() {
                peer.stream.write_all(bytes)?;
            }
            Ok(())
        })
    }

    /// One that answers the first request of each connection with these bytes, and hangs up.
    pub(super) fn saying_once(bytes: &'static [u8]) -> Self {
        Self::start(move |peer| {
            peer.request()?;
            peer.stream.write_all(bytes)
        })
    }

    pub(super) fn last(&self) -> Message {
        self.requests.lock().expect("requests").last().cloned().expect("a request")
    }

    pub(super) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(self.address, 1))
    }
}

/// One connection of an endpoint.
pub(super) struct Peer {
    pub(super) reader: BufReader<TcpStream>,
    pub(super) stream: TcpStream,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Peer {
    /// The next request, with its body.
    pub(super) fn request(&mut self) -> io::Result<Option<Message>> {
        let Some(mut message) = self.head()? else { return Ok(None) };
        read_body(&mut self.reader, &mut message)?;
        self.seen.lock().expect("requests").push(message.clone());
        Ok(Some(message))
    }

    /// Notes bytes that are no request.
    pub(super) fn seen_raw(&mut self, what: &str) {
        let message = Message { lines: vec![what.to_owned()], ..Message::default() };
        self.seen.lock().expect("requests").push(message);
    }

    pub(super) fn head(&mut self) -> io::Result<Option<Message>> {
        read_head(&mut self.reader)
    }

    pub(super) fn answer(&mut self, text: &str) -> io::Result<()> {
        write!(self.stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
    }
}

/// An address that is taken, and at which nobody listens.
pub(super) struct Nobody {
    pub(super) address: SocketAddr,
    _socket: OwnedFd,
}

pub(super) fn nobody() -> Nobody {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&socket, &anywhere()).expect("a port");
    let address = getsockname(&socket).expect("an address").try_into().expect("an internet address");
    Nobody { address, _socket: socket }
}

/// Any free port.
pub(super) fn anywhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A rule for all paths of a host that begin with `prefix`.
pub(super) fn rule(host: &str, prefix: &str, route: Route) -> HostRule<Route> {
    let path = NormalPath::of(prefix).expect("a path");
    let pattern = PathPattern::prefix(&path);
    HostRule {
        host: if host == "*" { HostPattern::Any } else { HostPattern::Exact(host.into()) },
        paths: vec![PathRule { pattern, target: route }],
        default: None,
    }
}

pub(super) fn site(mut rules: Vec<HostRule<Route>>, plain: Plain) -> Arc<Site> {
    rules.iter_mut().flat_map(|rule| &mut rule.paths).for_each(|path| path.target.plain = plain);
    let url_map = UrlMap::new(rules, None);
    Arc::new(Site { name: "shop/web".into(), url_map, counters: Arc::default() })
}

/// A snapshot with one listener.
pub(super) fn snapshot(scheme: Scheme, site: Arc<Site>) -> Arc<Snapshot> {
    let listeners = [(anywhere(), Listener { scheme, proxied: None, site })].into();
    Arc::new(Snapshot { listeners })
}

/// A front-end that listens at one address.
pub(super) struct Stand {
    pub(super) front_end: FrontEnd,
    pub(super) address: SocketAddr,
}

impl Stand {
    pub(super) fn start(settings: Settings, snapshot: Arc<Snapshot>) -> Self {
        let front_end = FrontEnd::start(settings).expect("a front-end");
        let faults = front_end.swap(snapshot);
        assert!(faults.is_empty(), "{faults:?}");
        let address = front_end.addresses()[&anywhere()];
        Self { front_end, address }
    }

    /// One that sends all requests for `shop.example` to a backend service.
    pub(super) fn of(settings: Settings, service: BackendService) -> Self {
        let rules = vec![rule("shop.example", "/", Route::to(service))];
        Self::start(settings, snapshot(Scheme::Http, site(rules, Plain::Served)))
    }

    /// One with these endpoints.
    pub(super) fn with(endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self::of(one_thread(), BackendService::new("shop/web:80", endpoints))
    }

    pub(super) fn client(&self) -> Client {
        Client::dial(self.address)
    }

    /// One request on a connection of its own.
    pub(super) fn ask(&self, request: &str) -> Message {
        self.client().ask(request)
    }
}

/// Settings with one thread, so that what a connection leaves behind is found by the next.
pub(super) fn one_thread() -> Settings {
    Settings { threads: 1, ..Settings::default() }
}

/// A client that speaks HTTP/1 byte by byte.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    pub(super) reader: BufReader<TcpStream>,
}

impl Client {
    pub(super) fn dial(address: SocketAddr) -> Self {
        Self::of(TcpStream::connect(address).expect("a connection"))
    }

    pub(super) fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let reader = BufReader::new(stream.try_clone().expect("a stream"));
        Self { stream, reader }
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("bytes sent");
    }

    pub(super) fn ask(&mut self, request: &str) -> Message {
        self.send(request);
        self.answer(request.starts_with("HEAD"))
    }

    pub(super) fn answer(&mut self, is_head: bool) -> Message {
        let mut message = read_head(&mut self.reader).expect("a head").expect("an answer");
        if !is_head && !matches!(message.code(), 100..200 | 204 | 304) {
            read_body(&mut self.reader, &mut message).expect("a body");
        }
        message
    }

    /// Whether the front-end closes the connection without another byte.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// Lines that were written.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lines").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("lines")).into_owned()
    }
}

/// How the front-end treats what [`get`] makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As bytes, since it is plain.
    Passed,
    /// By hyper, for one field's name.
    Parsed,
}

thread_local! {
    static WAY: Cell<Way> = const { Cell::new(Way::Passed) };
}

/// Tests what must hold whichever way requests take.
pub(super) fn both_ways(test: impl Fn()) {
    for way in [Way::Passed, Way::Parsed] {
        WAY.set(way);
        test();
    }
    WAY.set(Way::Passed);
}

/// A request for `shop.example`.
pub(super) fn get(path: &str) -> String {
    let field = match WAY.get() {
        Way::Passed => "",
        Way::Parsed => "X_Parsed: 1\r\n",
    };
    format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n{field}\r\n")
}

/// Waits until a fact holds.
pub(super) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "in time: {what}");
        thread::yield_now();
    }
}
