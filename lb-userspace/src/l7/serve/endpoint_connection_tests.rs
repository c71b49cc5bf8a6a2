//! Kept connections to endpoints, which nobody runs between two requests.
use std::io::Read as _;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use super::fixture::*;

const POST: &str = "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 4\r\n\r\nbody";

#[test]
fn a_connection_that_its_endpoint_closed_meanwhile_gets_no_request() {
    let (close, told_to) = channel();
    let (closed, told) = channel();
    let both = Mutex::new((told_to, closed));
    let web = RawEndpoint::start(move |peer| {
        peer.request()?;
        peer.answer("once")?;
        let both = both.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = both.0.recv_timeout(DEADLINE);
        peer.stream.shutdown(Shutdown::Both)?;
        let _ = both.1.send(());
        Ok(())
    });
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    for _ in 0..3 {
        // It may not be sent twice, so on a closed connection it would fail.
        let answer = client.ask("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer.code(), 200);
        close.send(()).expect("the endpoint");
        told.recv_timeout(DEADLINE).expect("the endpoint to close");
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 3);
}

#[test]
fn a_body_goes_on_after_an_answer_that_came_before_its_end() {
    let (ended, told) = channel();
    let ended = Mutex::new(ended);
    let web = RawEndpoint::start(move |peer| {
        peer.head()?;
        peer.answer("early")?;
        let mut body = [0; 8];
        peer.reader.read_exact(&mut body)?;
        let _ = ended.lock().expect("a channel").send(body);
        Ok(())
    });
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    client.send("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 8\r\n\r\nbody");
    assert_eq!(client.answer(false).text(), "early");
    client.send("rest");
    let body = told.recv_timeout(DEADLINE).expect("the whole body");
    assert_eq!(body, *b"bodyrest");
}

#[test]
fn a_connection_serves_requests_with_and_without_bodies_in_turn() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    for _ in 0..5 {
        assert_eq!(client.ask(POST).text(), "web POST / HTTP/1.1");
        assert_eq!(web.last().text(), "body");
        assert_eq!(client.ask(&get("/item")).text(), "web GET /item HTTP/1.1");
    }
    assert_eq!(web.accepted.load(Ordering::SeqCst), 1);
}
