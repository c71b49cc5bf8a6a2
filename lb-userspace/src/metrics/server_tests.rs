use std::io::{Read as _, Write as _};
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::plain_server::{Address, accept};

/// Serves the name of what is asked for on a port of its own, and says what it answers to these bytes.
async fn ask(request: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let text = |page, format| match page {
        Page::Node => Ok(format!("{format:?}\n")),
        Page::Endpoints => Err(anyhow::anyhow!("cannot read map ENDPOINT_TRAFFIC")),
    };
    let accepting = tokio::spawn(accept(listener, Arc::new(move |request: &_| response(request, text))));
    let ask = move || {
        let mut stream = StdStream::connect(address).expect("a server");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and hangs up");
        answer
    };
    let answer = tokio::task::spawn_blocking(ask).await.expect("no panic");
    accepting.abort();
    answer
}

#[tokio::test]
async fn prometheus_gets_open_metrics_and_others_the_older_form() {
    let answer = ask("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: text/plain;q=0.5, application/openmetrics-text;version=1.0.0;q=0.9\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(answer.ends_with("\r\n\r\nOpenMetrics\n"), "{answer}");
    let answer = ask("GET /metrics HTTP/1.1\r\nhost: x\r\naccept: */*\r\n\r\n").await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nPrometheus\n"), "{answer}");
}

#[tokio::test]
async fn map_that_cannot_be_read_is_an_error_with_its_cause() {
    let answer = ask("GET /metrics/endpoints HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\ncannot read map ENDPOINT_TRAFFIC\n"), "{answer}");
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let answer = ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = ask("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[test]
fn address_may_be_empty() {
    assert_eq!("".parse(), Ok(Address(None)));
    assert_eq!("[::1]:9".parse(), Ok(Address(Some(([0, 0, 0, 0, 0, 0, 0, 1], 9).into()))));
    let error = "localhost".parse::<Address>().expect_err("no port");
    assert!(error.starts_with("\"localhost\" is no address"), "{error}");
    assert_eq!(
        super::super::ADDRESS_DEFAULT.parse::<Address>().map(|a| a.to_string()),
        Ok("127.0.0.1:10247".into())
    );
}

#[test]
fn a_server_that_is_dropped_leaves_its_address_to_the_next() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    for _ in 0..3 {
        let server = start(address, |_, _| Ok(String::new())).expect("a thread");
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while StdStream::connect(address).is_err() {
            assert!(std::time::Instant::now() < until, "it listens in time");
            std::thread::yield_now();
        }
        drop(server);
        assert!(StdStream::connect(address).is_err());
    }
}
