//! The client and the server, one process each.
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lb_tests::bench::data::quantile;
use lb_tests::cluster::{TCP_PORT, UDP_PORT};
use rustix::net::sockopt::set_socket_linger;
use serde::{Deserialize, Serialize};

/// The line that says that a server listens.
pub(crate) const READY: &str = "ready";
/// A transaction that takes longer has failed. Shorter than the second after which a SYN is sent again (RFC 6298): a
/// bench that loses SYNs measures its timers.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Connections that may wait to be accepted: all that a client opens and resets while the server has no processor.
const BACKLOG: i32 = 4_096;

/// What is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A TCP connection is opened and reset.
    Connect,
    /// One is opened, a byte goes there and back, and it is reset.
    Short,
    /// A byte goes there and back on an open connection.
    Request,
    /// A datagram goes there and back on a connected socket.
    Datagram,
    /// A datagram goes there and back on a socket that names its peer each time.
    UnconnectedDatagram,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Connect, Self::Short, Self::Request, Self::Datagram, Self::UnconnectedDatagram];

    /// As a word.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Short => "short",
            Self::Request => "request",
            Self::Datagram => "datagram",
            Self::UnconnectedDatagram => "unconnected-datagram",
        }
    }

    /// As the heading of a table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Connect => "TCP connections opened",
            Self::Short => "TCP connections with one request",
            Self::Request => "TCP requests on an open connection",
            Self::Datagram => "UDP requests, connected socket",
            Self::UnconnectedDatagram => "UDP requests, unconnected socket",
        }
    }

    /// # Errors
    /// There is none of that name.
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).with_context(|| format!("no kind {name}"))
    }

    /// The port of the servers.
    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Connect | Self::Short | Self::Request => TCP_PORT,
            Self::Datagram | Self::UnconnectedDatagram => UDP_PORT,
        }
    }
}

/// What a client measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Transactions.
    pub(crate) per_second: f64,
    /// Of a transaction.
    pub(crate) median_us: f64,
    /// Ninety-nine of a hundred take no longer.
    pub(crate) slow_us: f64,
}

/// Repeats `kind` and prints [`Measured`].
pub(crate) fn client(kind: Kind, to: SocketAddr, count: u32) -> Result<()> {
    let mut transaction = transaction(kind, to)?;
    let mut times_us = Vec::with_capacity(count as usize);
    let began = Instant::now();
    for _ in 0..count {
        let began = Instant::now();
        transaction().with_context(|| format!("{} to {to}", kind.name()))?;
        times_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let measured = Measured {
        per_second: f64::from(count) / began.elapsed().as_secs_f64(),
        median_us: quantile(&times_us, 0.5),
        slow_us: quantile(&times_us, 0.99),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

type Transaction = Box<dyn FnMut() -> std::io::Result<()>>;

fn transaction(kind: Kind, to: SocketAddr) -> Result<Transaction> {
    Ok(match kind {
        Kind::Connect => Box::new(move || connect(to).map(drop)),
        Kind::Short => Box::new(move || ask(&mut connect(to)?)),
        Kind::Request => {
            let mut stream = connect(to)?;
            Box::new(move || ask(&mut stream))
        }
        Kind::Datagram => {
            let socket = udp_socket()?;
            socket.connect(to)?;
            Box::new(move || {
                socket.send(b"x")?;
                socket.recv(&mut [0; 8]).map(drop)
            })
        }
        Kind::UnconnectedDatagram => {
            let socket = udp_socket()?;
            Box::new(move || {
                socket.send_to(b"x", to)?;
                socket.recv_from(&mut [0; 8]).map(drop)
            })
        }
    })
}

/// A connection whose end is a reset: thousands in TIME-WAIT would become the load.
fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn udp_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot open a UDP socket")?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Serves one client at a time until standard input ends.
pub(crate) fn serve() -> Result<()> {
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(any(TCP_PORT)).context("cannot listen")?;
    rustix::net::listen(&listener, BACKLOG).context("cannot lengthen the backlog")?;
    let socket = UdpSocket::bind(any(UDP_PORT)).context("cannot open a UDP socket")?;
    std::thread::spawn(move || {
        loop {
            // A client that has gone ends its connection, nothing else.
            let _ = listener.accept().and_then(|(stream, _)| echo(stream));
        }
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 8];
        loop {
            let _ =
                socket.recv_from(&mut bytes).and_then(|(count, peer)| socket.send_to(&bytes[..count], peer));
        }
    });
    println!("{READY}");
    if std::io::stdin().lock().read_line(&mut String::new())? > 0 {
        bail!("a server takes no input");
    }
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}
