//! A GiB in each direction through a front-end in a process of its own, whose memory stays as it is.
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::alone::Alone;
use crate::messages::{Message, read_head};
use crate::stand::dial;

/// Bytes of a body.
const BODY_BYTES: u64 = 1 << 30;
/// Bytes that are written at a time.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// KiB by which the process may grow, at its peak, over one that has served a little.
pub(crate) const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// Takes a body and says how long it was, or sends one.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || {
                let _ = serve(stream);
            });
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(PIECE_BYTES, stream.try_clone()?);
    while let Some(request) = read_head(&mut reader)? {
        let length = length_of(&request);
        if request.start.starts_with("POST") {
            let taken = std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?.to_string();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{taken}", taken.len())?;
        } else {
            let wanted = request.start.split(['/', ' ']).find_map(|part| part.parse().ok()).unwrap_or(0);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {wanted}\r\n\r\n")?;
            send(&mut stream, wanted)?;
        }
    }
    Ok(())
}

fn length_of(message: &Message) -> u64 {
    message.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn send(stream: &mut TcpStream, bytes: u64) -> std::io::Result<()> {
    let piece = vec![b'x'; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PIECE_BYTES as u64) as usize;
        stream.write_all(&piece[..length])?;
        left -= length as u64;
    }
    Ok(())
}

fn download(to: SocketAddr, bytes: u64) {
    let mut stream = dial(to);
    write!(stream, "GET /{bytes} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::with_capacity(PIECE_BYTES, stream);
    let head = read_head(&mut reader).unwrap().unwrap();
    assert_eq!((head.code(), length_of(&head)), (200, bytes));
    assert_eq!(std::io::copy(&mut reader, &mut std::io::sink()).unwrap(), bytes);
}

fn upload(to: SocketAddr, bytes: u64) {
    let mut stream = dial(to);
    let head = "Host: shop.example\r\nConnection: close\r\n";
    write!(stream, "POST / HTTP/1.1\r\n{head}Content-Length: {bytes}\r\n\r\n").unwrap();
    send(&mut stream, bytes).unwrap();
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).unwrap().unwrap();
    let mut told = String::new();
    reader.read_to_string(&mut told).unwrap();
    assert_eq!((head.code(), told), (200, bytes.to_string()));
}

#[test]
fn a_gib_passes_in_each_direction_in_flat_memory() {
    let front_end = Alone::start(endpoint(), &[]);
    let some_bytes = 8 * PIECE_BYTES as u64;
    download(front_end.address, some_bytes);
    upload(front_end.address, some_bytes);
    let before_kib = front_end.memory_kib("VmRSS");
    for (direction, pass) in
        [("down", download as fn(SocketAddr, u64)), ("up", upload as fn(SocketAddr, u64))]
    {
        pass(front_end.address, BODY_BYTES);
        // The peak since the process began: no moment is missed.
        let growth_kib = front_end.memory_kib("VmHWM").saturating_sub(before_kib);
        assert!(growth_kib < GROWTH_KIB_MAX, "{direction}: {before_kib} KiB grew by {growth_kib} KiB");
    }
    front_end.finish();
}
