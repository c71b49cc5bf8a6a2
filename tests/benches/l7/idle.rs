//! Connections that are kept without a request.
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lb_tests::bench::l7::rules::{HOSTS, PATHS, host, path};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::proxy::Proxy;
use super::stand::Stand;
use super::upstream::SMALL;

/// Connections from one address: Podway's front-end has a bound for one client, which no client here is near.
const CONNECTIONS_PER_CLIENT: u32 = 1_000;
/// Connections that are opened and asked before their answers are read.
const BATCH: u32 = 100;
/// Every which connection is asked again at the end.
const ASKED_AGAIN: usize = 100;
/// Time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Resident memory of a proxy once `count` connections have had an answer each and are silent.
///
/// # Errors
/// A request was not answered with 200 by the upstream, or a connection was closed meanwhile.
pub(crate) fn resident_mib(proxy: &Proxy, stand: &Stand, count: u32) -> Result<f64> {
    let before = stand.upstream.answered();
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut number = 0;
    while number < count {
        let batch = number..count.min(number + BATCH);
        for number in batch.clone() {
            let mut stream = dial(client(number), proxy.http)
                .with_context(|| format!("cannot open connection {number}"))?;
            ask(&mut stream, number)?;
            streams.push(stream);
        }
        for number in batch {
            read_answer(&mut streams[number as usize]).with_context(|| format!("connection {number}"))?;
        }
        number += BATCH;
    }
    let answered = stand.upstream.answered() - before;
    ensure!(answered == u64::from(count), "the upstream answered {answered} of {count} requests");
    let resident_mib = proxy.usage.resident_mib()?;
    for (number, stream) in streams.iter_mut().enumerate().step_by(ASKED_AGAIN) {
        let again = ask(stream, number as u32).and_then(|()| read_answer(stream));
        again.with_context(|| format!("connection {number}, asked again"))?;
    }
    Ok(resident_mib)
}

fn client(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + number / CONNECTIONS_PER_CLIENT)
}

fn dial(from: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((from, 0)))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, number: u32) -> Result<()> {
    let (host, path) = (host(number % HOSTS), path(number % PATHS));
    // In one piece, as clients send what is short.
    let head = format!("GET {path}{SMALL} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(head.as_bytes()).context("cannot ask")
}

fn read_answer(stream: &mut TcpStream) -> Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4_096];
    // The body is the only one of its bytes at the end of an answer.
    while !answer.ends_with(b"xxxx") {
        let count = stream.read(&mut buffer).context("no whole answer")?;
        ensure!(count > 0, "the connection was closed");
        answer.extend(&buffer[..count]);
        // A head comes in one piece: it is short.
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "answered {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
