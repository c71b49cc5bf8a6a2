//! Connections that a load balancer passes on with a PROXY header.
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::world::{DEADLINE, VIP, World};

const SHOP: &str = "shop.example";

/// What comes back for these bytes, until the connection is closed.
fn told(world: &World, bytes: &[u8]) -> std::io::Result<String> {
    let exchange = || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(VIP, 80), DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(bytes)?;
        let mut reader = BufReader::new(stream);
        let mut text = String::new();
        reader.read_line(&mut text)?;
        reader.read_to_string(&mut text)?;
        Ok(text)
    };
    world.client().run_in_netns(exchange).map_err(std::io::Error::other)?
}

#[test]
fn a_load_balancers_clients_are_known_by_its_header() {
    let Some(world) = World::start(&["--proxy-protocol-from", "0.0.0.0/0"]) else { return };
    let request = format!("GET / HTTP/1.1\r\nhost: {SHOP}\r\nconnection: close\r\n\r\n");
    let with = |header: &[u8]| told(&world, &[header, request.as_bytes()].concat());
    world.put_ingress("shop", &[SHOP], &[], &[("podway.io/proxy-protocol", "any")]);
    let line = b"PROXY TCP4 192.0.2.99 203.0.113.80 40000 8080\r\n";
    let mut answer = String::new();
    world.wait("an answer", || {
        answer = with(line).unwrap_or_default();
        answer.starts_with("HTTP/1.1 200")
    });
    assert!(answer.ends_with(" 192.0.2.99"), "{answer}");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x63\xcb\x00\x71\x50\x9c\x40\x1f\x90";
    assert!(with(binary).unwrap().ends_with(" 192.0.2.99"));
    // A client that comes by itself says nothing that could be believed.
    assert_eq!(with(b"").unwrap_or_default(), "");
}
