//! Receivers that are slow, away or say no.
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::mpsc as std_mpsc;

use http::{HeaderMap, Version};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use super::export::Exporter;
use super::fixture::*;
use super::*;
use crate::l7::serve::BackendService;
use crate::l7::serve::fixture::*;

const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const BUSY: &[u8] = b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
const REFUSED: &[u8] = b"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n";

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket")
}

fn counts(totals: &Totals) -> [u64; 3] {
    [&totals.spans_sent, &totals.spans_dropped, &totals.spans_refused]
        .map(|counter| counter.load(Ordering::SeqCst))
}

/// An ended request with one attempt would be two spans; this one has none.
fn ended() -> RequestSpan {
    RequestSpan {
        context: TraceContext::root(1, 2),
        parent: None,
        state: context::state(&HeaderMap::new()),
        began_unix_ns: 1,
        took: std::time::Duration::ZERO,
        method: Some("GET"),
        method_as_sent: "GET".to_owned(),
        scheme: "http",
        version: Version::HTTP_11,
        path: "/".to_owned(),
        host: None,
        route: None,
        url_map: "shop/web".into(),
        client: Ipv4Addr::LOCALHOST.into(),
        peer: (Ipv4Addr::LOCALHOST, 1).into(),
        backend_service: None,
        request_id: String::new(),
        retries: std::cell::Cell::default(),
        code: 200,
        reason: None,
        is_cut: false,
        answer_bytes: 0,
        attempts: std::cell::RefCell::default(),
    }
}

#[test]
fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
    let web = RawEndpoint::named("web");
    let (free, may_answer) = std_mpsc::channel::<()>();
    let may_answer = Mutex::new(may_answer);
    let collector = Collector(RawEndpoint::start(move |peer| {
        peer.request()?;
        let _ = may_answer.lock().expect("a channel").recv();
        peer.stream.write_all(TAKEN)
    }));
    let mut settings = collector.settings(1.0);
    settings.traces.as_mut().expect("traces").waiting_max = 4;
    let stand = Stand::of(settings, BackendService::new("shop/web:80", vec![web.endpoint()]));
    let totals = stand.front_end.totals();
    let mut client = stand.client();
    client.ask(&get("/"));
    // From now on the thread waits for its receiver, and requests go on.
    eventually("the first request's spans", || collector.spans().len() == 2);
    for _ in 0..10 {
        assert_eq!(client.ask(&get("/")).code(), 200);
    }
    drop(client);
    eventually("six of ten requests dropped", || counts(&totals) == [0, 12, 0]);
    drop(free);
    // Not stopped before: a batch that is on its way then is sent once more.
    eventually("what waited", || counts(&totals) == [10, 12, 0]);
    stand.front_end.stop(DEADLINE);
    assert_eq!(collector.servers().len(), 5);
}

/// What the log says, of all tests of this process.
fn log() -> Lines {
    let lines = Lines::default();
    let log = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).expect("no other test reads the log");
    lines
}

/// How many lines say this of a receiver.
fn count(lines: &Lines, text: &str, receiver: SocketAddr) -> usize {
    let receiver = receiver.to_string();
    lines.text().lines().filter(|line| line.contains(text) && line.contains(&receiver)).count()
}

#[test]
fn a_receiver_that_is_away_gets_everything_once_it_is_back_and_is_told_once() {
    let place = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    bind(&place, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let address: SocketAddr = getsockname(&place).expect("an address").try_into().expect("an address");
    let settings = TraceSettings {
        receiver: format!("http://{address}").parse().expect("a receiver"),
        sample_ratio: 1.0,
        node_name: "node-a".to_owned(),
        waiting_max: 8,
    };
    let (lines, totals) = (log(), Arc::<Totals>::default());
    let (spans, receiver) = mpsc::channel(settings.waiting_max);
    let exporter = Exporter::start(&settings, receiver, Arc::clone(&totals)).expect("a thread");
    let queue = Queue { spans, totals: Arc::clone(&totals) };
    queue.put(ended());
    eventually("a line of the log", || count(&lines, "cannot send traces", address) == 1);
    queue.put(ended());
    listen(&place, 16).expect("a listening socket");
    // Back, and not yet itself.
    let collector = answering(place.into(), &[b"", BUSY, TAKEN]);
    eventually("all spans", || counts(&totals) == [2, 0, 0]);
    exporter.stop();
    assert_eq!(count(&lines, "cannot send traces", address), 1);
    assert_eq!(count(&lines, "traces are taken again", address), 1);
    // The first batch twice, since the receiver read it before it said that it was busy.
    assert_eq!(collector.spans().len(), 3);
}

#[test]
fn a_receiver_that_refuses_gets_nothing_twice() {
    let collector = answering(listener(), &[REFUSED, TAKEN]);
    let (spans, receiver) = mpsc::channel(8);
    let totals = Arc::<Totals>::default();
    let exporter = Exporter::start(&collector.trace_settings(1.0), receiver, Arc::clone(&totals));
    let exporter = exporter.expect("a thread");
    let queue = Queue { spans, totals: Arc::clone(&totals) };
    queue.put(ended());
    eventually("a refused span", || counts(&totals) == [0, 0, 1]);
    queue.put(ended());
    exporter.stop();
    assert_eq!(counts(&totals), [1, 0, 1]);
}

#[test]
fn spans_that_a_receiver_rejects_are_counted() {
    let partial_success =
        Some(ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() });
    let body = ExportTraceServiceResponse { partial_success }.encode_to_vec();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer: &'static [u8] = [head.as_bytes(), &body].concat().leak();
    let collector = answering(listener(), vec![answer].leak());
    let (spans, receiver) = mpsc::channel(8);
    let totals = Arc::<Totals>::default();
    let exporter = Exporter::start(&collector.trace_settings(1.0), receiver, Arc::clone(&totals));
    let exporter = exporter.expect("a thread");
    let queue = Queue { spans, totals: Arc::clone(&totals) };
    for _ in 0..3 {
        queue.put(ended());
    }
    exporter.stop();
    assert_eq!(counts(&totals), [1, 0, 2]);
}

#[test]
fn what_waits_when_the_front_end_stops_is_sent_or_counted() {
    let (spans, receiver) = mpsc::channel(8);
    let totals = Arc::<Totals>::default();
    let nobody = nobody();
    let receiver_at = format!("http://{}", nobody.address).parse().expect("a receiver");
    let settings = TraceSettings { receiver: receiver_at, ..Collector::start().trace_settings(1.0) };
    let exporter = Exporter::start(&settings, receiver, Arc::clone(&totals)).expect("a thread");
    let queue = Queue { spans, totals: Arc::clone(&totals) };
    for _ in 0..3 {
        queue.put(ended());
    }
    exporter.stop();
    assert_eq!(counts(&totals), [0, 3, 0]);
    queue.put(ended());
    assert_eq!(counts(&totals), [0, 4, 0], "nobody is there to send it");
}
