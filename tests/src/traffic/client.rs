//! The clients of `lb-traffic`.
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::{Answer, Answered, Failure, Held, Opened, RECEIVE_BYTES, Streamed, UdpSocketKind};
use lb_userspace::model::Protocol;

/// A connection of [`hold`] is lost when an echo takes longer.
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long [`stream`] waits for answers to its last datagrams.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(5);
/// How many missing datagrams [`stream`] names.
const MISSING_NAMED_MAX: usize = 100;

/// Requests of [`dial`].
#[derive(Clone, Debug)]
pub struct Requests {
    /// Where to.
    pub to: SocketAddr,
    /// Over what.
    pub protocol: Protocol,
    /// How many; `None` goes on until standard input ends.
    pub count: Option<u32>,
    /// From the start of one to that of the next, unless it takes longer.
    pub interval: Duration,
    /// When a request has failed.
    pub timeout: Duration,
    /// How a UDP socket names its peer.
    pub udp_socket: UdpSocketKind,
    /// The source address, of datagrams alone.
    pub source: Option<IpAddr>,
}

/// Makes the requests; prints an [`Answer`] a line.
///
/// # Errors
/// Standard output is closed.
pub fn dial(requests: &Requests) -> Result<()> {
    let is_over = input_end();
    let start = Instant::now();
    let mut made = 0;
    while requests.count.map_or_else(|| !is_over.load(Ordering::Relaxed), |count| made < count) {
        let began = Instant::now();
        let outcome = match requests.protocol {
            Protocol::Tcp => ask_tcp(requests),
            Protocol::Udp => ask_udp(requests),
            Protocol::Sctp => Err(ErrorKind::Unsupported.into()),
        };
        let elapsed = began.elapsed();
        print(&Answer {
            at_us: micros(began - start),
            elapsed_us: micros(elapsed),
            outcome: outcome.map_err(|error| failure_of(&error)),
        })?;
        made += 1;
        if requests.count != Some(made) {
            std::thread::sleep(requests.interval.saturating_sub(elapsed));
        }
    }
    Ok(())
}

fn ask_tcp(requests: &Requests) -> std::io::Result<Answered> {
    let (mut stream, by, seen_source) = open(requests.to, requests.timeout)?;
    stream.get_mut().write_all(b"echo\n")?;
    expect_line(&mut stream, "echo")?;
    Ok(Answered { by, seen_source, peer: stream.get_ref().peer_addr()? })
}

/// Connects and reads the server's greeting.
pub(super) fn open(
    to: SocketAddr,
    timeout: Duration,
) -> std::io::Result<(BufReader<TcpStream>, String, SocketAddr)> {
    let stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    if stream.read_line(&mut greeting)? == 0 {
        return Err(ErrorKind::ConnectionReset.into());
    }
    let (by, seen_source) = greeting.trim_end().split_once(' ').ok_or(ErrorKind::InvalidData)?;
    let seen_source = seen_source.parse().map_err(|_| ErrorKind::InvalidData)?;
    Ok((stream, by.to_owned(), seen_source))
}

fn expect_line(stream: &mut BufReader<TcpStream>, expected: &str) -> std::io::Result<()> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(ErrorKind::ConnectionReset.into()),
        _ if line.trim_end() == expected => Ok(()),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

fn ask_udp(requests: &Requests) -> std::io::Result<Answered> {
    let source = requests.source.map_or_else(|| any_like(requests.to), |source| (source, 0).into());
    let socket = UdpSocket::bind(source)?;
    socket.set_read_timeout(Some(requests.timeout))?;
    let mut buffer = [0; 2048];
    let (count, peer) = match requests.udp_socket {
        UdpSocketKind::Connected => {
            socket.connect(requests.to)?;
            socket.send(b"echo")?;
            (socket.recv(&mut buffer)?, socket.peer_addr()?)
        }
        UdpSocketKind::Unconnected => {
            socket.send_to(b"echo", requests.to)?;
            socket.recv_from(&mut buffer)?
        }
    };
    let (by, seen_source, datagram) = split_answer(&buffer[..count]).ok_or(ErrorKind::InvalidData)?;
    if datagram != "echo" {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(Answered { by: by.to_owned(), seen_source, peer })
}

/// `NAME PEER DATAGRAM`.
fn split_answer(bytes: &[u8]) -> Option<(&str, SocketAddr, &str)> {
    let (by, rest) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    let (peer, datagram) = rest.split_once(' ')?;
    Some((by, peer.parse().ok()?, datagram))
}

/// Opens connections, prints [`Opened`], and sends a line over each round after round until standard
/// input ends; then one round more, and prints [`Held`]. In a round `at_once` lines, one at least, are under way at a
/// time.
///
/// # Errors
/// Standard output is closed.
pub fn hold(to: SocketAddr, connections: u32, at_once: u32) -> Result<()> {
    let is_over = input_end();
    let mut opened = Opened { by: BTreeMap::new(), failed: BTreeMap::new() };
    let mut streams = Vec::new();
    for _ in 0..connections {
        match open(to, ECHO_TIMEOUT) {
            Ok((stream, by, _)) => {
                *opened.by.entry(by).or_default() += 1;
                streams.push(Some(stream));
            }
            Err(error) => *opened.failed.entry(failure_of(&error)).or_default() += 1,
        }
    }
    print(&opened)?;
    let mut held = Held { rounds: 0, lost: BTreeMap::new(), slowest_us: 0 };
    loop {
        let is_last = is_over.load(Ordering::Relaxed);
        for group in streams.chunks_mut(at_once as usize) {
            echo(group, &mut held);
        }
        streams.retain(Option::is_some);
        held.rounds += 1;
        if is_last || streams.is_empty() {
            return print(&held);
        }
    }
}

/// Sends a line over each, and waits for the echoes. What breaks is gone.
fn echo(group: &mut [Option<BufReader<TcpStream>>], held: &mut Held) {
    let line = format!("round {}", held.rounds);
    let began = Instant::now();
    each(group, held, |stream| stream.get_mut().write_all(format!("{line}\n").as_bytes()));
    each(group, held, |stream| expect_line(stream, &line));
    held.slowest_us = held.slowest_us.max(micros(began.elapsed()));
}

fn each(
    group: &mut [Option<BufReader<TcpStream>>],
    held: &mut Held,
    mut step: impl FnMut(&mut BufReader<TcpStream>) -> std::io::Result<()>,
) {
    for place in group {
        if let Some(stream) = place
            && let Err(error) = step(stream)
        {
            *held.lost.entry(failure_of(&error)).or_default() += 1;
            *place = None;
        }
    }
}

/// Sends numbered datagrams until standard input ends; prints a line at the first answer, and
/// [`Streamed`] at the end.
///
/// # Errors
/// No socket; standard output is closed.
pub fn stream(to: SocketAddr, interval: Duration) -> Result<()> {
    let is_over = input_end();
    let socket = UdpSocket::bind(any_like(to)).context("cannot open a UDP socket")?;
    socket.connect(to).with_context(|| format!("cannot connect to {to}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50))).context("cannot set a timeout")?;
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES).context("cannot enlarge a socket's buffer")?;
    let sent = Arc::new(AtomicU64::new(0));
    let receiver = socket.try_clone().context("cannot share the socket")?;
    let sent_so_far = Arc::clone(&sent);
    let answers = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || receive(&receiver, &sent_so_far, &is_over)
    });
    let mut failed: BTreeMap<Failure, u64> = BTreeMap::new();
    let mut due = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        let number = sent.load(Ordering::Relaxed);
        if let Err(error) = socket.send(number.to_string().as_bytes()) {
            *failed.entry(failure_of(&error)).or_default() += 1;
        }
        sent.store(number + 1, Ordering::Relaxed);
        // No burst makes up for what was missed: it would be lost before the receiver's socket.
        due = (due + interval).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let received = answers.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    for (failure, count) in received.failed {
        *failed.entry(failure).or_default() += count;
    }
    let sent = sent.load(Ordering::Relaxed);
    let missing = (0..sent).filter(|number| !received.numbers.contains(number));
    print(&Streamed {
        sent,
        by: received.by,
        missing: missing.take(MISSING_NAMED_MAX).collect(),
        failed,
        longest_gap_us: micros(received.longest_gap),
    })
}

#[derive(Default)]
struct Received {
    numbers: HashSet<u64>,
    by: BTreeMap<String, u64>,
    failed: BTreeMap<Failure, u64>,
    longest_gap: Duration,
}

/// Takes answers until the sender has stopped and every datagram is answered, or time is up.
fn receive(socket: &UdpSocket, sent: &AtomicU64, is_over: &AtomicBool) -> Result<Received> {
    let mut received = Received::default();
    let mut buffer = [0; 2048];
    let mut last_answer: Option<Instant> = None;
    let mut over_since: Option<Instant> = None;
    loop {
        match socket.recv(&mut buffer) {
            Ok(count) => {
                let Some((by, _, number)) = split_answer(&buffer[..count]) else { continue };
                let Ok(number) = number.parse() else { continue };
                if received.numbers.insert(number) {
                    *received.by.entry(by.to_owned()).or_default() += 1;
                }
                match last_answer.replace(Instant::now()) {
                    Some(last) => received.longest_gap = received.longest_gap.max(last.elapsed()),
                    None => print(&"first answer")?,
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => *received.failed.entry(failure_of(&error)).or_default() += 1,
        }
        if is_over.load(Ordering::Relaxed) {
            let since = *over_since.get_or_insert_with(Instant::now);
            let is_complete = received.numbers.len() as u64 == sent.load(Ordering::Relaxed);
            // One read timeout at least: the sender may have been about to send.
            let is_settled = since.elapsed() >= Duration::from_millis(100);
            if is_complete && is_settled || since.elapsed() >= LAST_ANSWERS_TIMEOUT {
                return Ok(received);
            }
        }
    }
}

/// Becomes true when standard input ends.
pub(super) fn input_end() -> Arc<AtomicBool> {
    let is_over = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while std::io::stdin().read(&mut buffer).is_ok_and(|count| count > 0) {}
        flag.store(true, Ordering::Relaxed);
    });
    is_over
}

fn any_like(peer: SocketAddr) -> SocketAddr {
    if peer.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() }
}

pub(super) fn failure_of(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused,
        ErrorKind::PermissionDenied => Failure::NotPermitted,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Failure::Reset,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::Unreachable,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::TimedOut,
        ErrorKind::InvalidData => Failure::Garbled,
        _ => Failure::Other,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn print(value: &impl serde::Serialize) -> Result<()> {
    let line = serde_json::to_string(value).context("cannot write a report as JSON")?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_split_into_name_peer_and_datagram() {
        let answer = split_answer(b"web-a-1 192.0.2.100:4000 17").unwrap();
        assert_eq!(answer, ("web-a-1", "192.0.2.100:4000".parse().unwrap(), "17"));
        assert_eq!(split_answer(b"web-a-1 nonsense 17"), None);
    }
}
