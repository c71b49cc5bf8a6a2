//! Snapshots that follow one another, and the end.
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};

use super::fixture::*;
use super::tls_fixture::*;
use super::*;

/// An endpoint that answers once it is told to, for each request, and says when it has one.
fn waiting_endpoint() -> (RawEndpoint, Sender<()>, Receiver<()>) {
    let (go, wait) = channel();
    let (has, asked) = channel();
    let both = Mutex::new((wait, has));
    let web = RawEndpoint::start(move |peer| {
        while peer.request()?.is_some() {
            let both = both.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = both.1.send(());
            let _ = both.0.recv_timeout(DEADLINE);
            peer.answer("at last")?;
        }
        Ok(())
    });
    (web, go, asked)
}

#[test]
fn what_is_under_way_ends_before_the_stop() {
    both_ways(|| {
        let (web, go, asked) = waiting_endpoint();
        let stand = Stand::with(vec![web.endpoint()]);
        let mut idle = stand.client();
        assert_eq!(idle.ask("GET / HTTP/1.1\r\nHost: none.example\r\n\r\n").code(), 404);
        let mut fresh = stand.client();
        let mut busy = stand.client();
        busy.send(get("/"));
        asked.recv_timeout(DEADLINE).expect("a request");
        let address = stand.address;
        let stopping = thread::spawn(move || stand.front_end.stop(DEADLINE));
        assert!(idle.is_closed(), "a connection without a request is closed soon");
        eventually("nobody listens", || TcpStream::connect(address).is_err());
        // One that was accepted has its first request answered.
        assert_eq!(fresh.ask("GET / HTTP/1.1\r\nHost: none.example\r\n\r\n").code(), 404);
        assert!(fresh.is_closed());
        go.send(()).expect("the endpoint");
        let answer = busy.answer(false);
        assert_eq!((answer.text(), answer.field("connection")), ("at last".to_owned(), Some("close")));
        assert!(busy.is_closed());
        assert_eq!(stopping.join().expect("a count"), 0);
    });
}

#[tokio::test]
async fn http_2_clients_are_told_to_go_once_they_are_answered() {
    let (web, go, asked) = waiting_endpoint();
    let service = Route::to(BackendService::new("shop/web:80", vec![web.endpoint()]));
    let rules = vec![rule("shop.example", "/", service)];
    let stand = Stand::start(one_thread(), snapshot(https(&["shop.example"]), site(rules, Plain::Served)));
    let stream = dial(&stand, "shop.example", b"h2").await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.expect("a connection");
    let connection = tokio::spawn(connection);
    let request =
        |host: &str| http::Request::get(format!("https://{host}/")).body(String::new()).expect("a request");
    let answer = tokio::spawn(sender.send_request(request("shop.example")));
    tokio::task::spawn_blocking(move || asked.recv_timeout(DEADLINE))
        .await
        .expect("no panic")
        .expect("a request");
    let stopping = thread::spawn(move || stand.front_end.stop(DEADLINE));
    // After GOAWAY no new request can be sent, while the old one waits.
    let told = tokio::time::timeout(DEADLINE, async {
        while sender.send_request(request("none.example")).await.is_ok() {}
    });
    told.await.expect("in time");
    go.send(()).expect("the endpoint");
    let answer = answer.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status(), http::StatusCode::OK);
    drop((answer, sender));
    let ended = tokio::time::timeout(DEADLINE, connection).await.expect("in time");
    assert!(ended.expect("no panic").is_ok());
    assert_eq!(stopping.join().expect("a count"), 0);
}

#[test]
fn what_does_not_end_is_cut_at_the_deadline() {
    both_ways(|| {
        let (web, _go, asked) = waiting_endpoint();
        let stand = Stand::with(vec![web.endpoint()]);
        let mut client = stand.client();
        client.send(get("/"));
        asked.recv_timeout(DEADLINE).expect("a request");
        assert_eq!(stand.front_end.stop(Duration::from_millis(50)), 1);
        assert!(client.is_closed());
    });
}

#[test]
fn a_listener_that_is_not_in_the_next_snapshot_is_closed() {
    let web = RawEndpoint::named("web");
    let stand = Stand::with(vec![web.endpoint()]);
    let mut client = stand.client();
    assert_eq!(client.ask(&get("/")).code(), 200);
    assert!(stand.front_end.swap(Arc::default()).is_empty());
    assert!(client.is_closed());
    eventually("nobody listens", || TcpStream::connect(stand.address).is_err());
    assert!(stand.front_end.addresses().is_empty());
}

#[test]
fn an_address_that_cannot_be_had_is_told_and_the_others_served() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let place = taken.local_addr().expect("an address");
    let web = RawEndpoint::named("web");
    let service = Route::to(BackendService::new("shop/web:80", vec![web.endpoint()]));
    let listener = Listener {
        scheme: Scheme::Http,
        proxied: None,
        site: site(vec![rule("shop.example", "/", service)], Plain::Served),
    };
    let front_end = FrontEnd::start(one_thread()).expect("a front-end");
    let listeners = [(place, listener.clone()), (anywhere(), listener)].into();
    let snapshot = Arc::new(Snapshot { listeners });
    let faults = front_end.swap(Arc::clone(&snapshot));
    assert_eq!(faults.iter().map(|fault| fault.address).collect::<Vec<_>>(), [place]);
    let mut client = Client::dial(front_end.addresses()[&anywhere()]);
    assert_eq!(client.ask(&get("/")).code(), 200);
    drop(taken);
    assert!(front_end.swap(snapshot).is_empty());
    assert_eq!(Client::dial(place).ask(&get("/")).code(), 200);
}

/// Clients that ask without a pause until they are told to end; how many answers they had, and what was none.
struct Load {
    is_over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    /// Each client keeps its connection for `requests` requests.
    fn start(address: std::net::SocketAddr, clients: usize, requests: usize) -> Self {
        let (is_over, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let threads = (0..clients).map(|_| {
            let (is_over, answers) = (Arc::clone(&is_over), Arc::clone(&answers));
            thread::spawn(move || {
                let mut faults = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    let mut client = match TcpStream::connect(address) {
                        Ok(stream) => Client::of(stream),
                        Err(error) => {
                            faults.push(error.to_string());
                            continue;
                        }
                    };
                    for request in 1..=requests {
                        let is_last = request == requests;
                        let close = if is_last { "Connection: close\r\n" } else { "" };
                        client.send(format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{close}\r\n"));
                        let answer = client.answer(false);
                        answers.fetch_add(1, Ordering::SeqCst);
                        if answer.code() != 200 {
                            faults.push(format!("{} {}", answer.start(), answer.text()));
                        }
                        if answer.field("connection") == Some("close") {
                            break;
                        }
                    }
                }
                faults
            })
        });
        Self { threads: threads.collect(), is_over, answers }
    }

    fn has_answers(&self, more: usize) {
        let goal = self.answers.load(Ordering::SeqCst) + more;
        eventually("answers", || self.answers.load(Ordering::SeqCst) >= goal);
    }

    fn end(self) -> Vec<String> {
        self.is_over.store(true, Ordering::SeqCst);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    }
}

#[test]
fn swaps_under_load_fail_no_request() {
    let (a, b) = (RawEndpoint::named("a"), RawEndpoint::named("b"));
    let of = |endpoint: &RawEndpoint| {
        let service = BackendService::new("shop/web:80", vec![endpoint.endpoint()]);
        let rules = vec![rule("shop.example", "/", Route::to(service))];
        snapshot(Scheme::Http, site(rules, Plain::Served))
    };
    let stand = Stand::start(Settings { threads: 2, ..Settings::default() }, of(&a));
    let load = Load::start(stand.address, 4, 50);
    for _ in 0..20 {
        load.has_answers(20);
        assert!(stand.front_end.swap(of(&b)).is_empty());
        load.has_answers(20);
        assert!(stand.front_end.swap(of(&a)).is_empty());
    }
    assert_eq!(load.end(), Vec::<String>::new());
    let asked = |endpoint: &RawEndpoint| endpoint.requests.lock().expect("requests").len();
    assert!(asked(&a) > 100 && asked(&b) > 100, "{} {}", asked(&a), asked(&b));
}

#[test]
fn a_front_end_takes_over_from_another_on_the_same_address() {
    let (a, b) = (RawEndpoint::named("a"), RawEndpoint::named("b"));
    let stand = Stand::with(vec![a.endpoint()]);
    let place = stand.address;
    let rules =
        vec![rule("shop.example", "/", Route::to(BackendService::new("shop/web:80", vec![b.endpoint()])))];
    let listener = Listener { scheme: Scheme::Http, proxied: None, site: site(rules, Plain::Served) };
    let next = FrontEnd::start(one_thread()).expect("a front-end");
    let faults = next.swap(Arc::new(Snapshot { listeners: [(place, listener)].into() }));
    assert!(faults.is_empty(), "both listen: {faults:?}");
    assert_eq!(stand.front_end.stop(DEADLINE), 0);
    for _ in 0..10 {
        assert_eq!(Client::dial(place).ask(&get("/")).text(), "b GET / HTTP/1.1");
    }
}

#[test]
fn a_connection_that_is_kept_has_one_more_request_answered() {
    both_ways(|| {
        let web = RawEndpoint::named("web");
        let limits = Limits { last_request_timeout: DEADLINE, ..Limits::default() };
        let service = BackendService::new("shop/web:80", vec![web.endpoint()]);
        let stand = Stand::of(Settings { limits, ..one_thread() }, service);
        let mut client = stand.client();
        assert_eq!(client.ask(&get("/")).field("connection"), None);
        let address = stand.address;
        let stopping = thread::spawn(move || stand.front_end.stop(DEADLINE));
        eventually("nobody listens", || TcpStream::connect(address).is_err());
        let answer = client.ask(&get("/"));
        assert_eq!((answer.code(), answer.field("connection")), (200, Some("close")));
        assert!(client.is_closed());
        assert_eq!(stopping.join().expect("a count"), 0);
    });
}

#[test]
fn connections_that_wait_in_adopted_sockets_are_served() {
    let (a, b) = (RawEndpoint::named("a"), RawEndpoint::named("b"));
    let of = |endpoint: &RawEndpoint| {
        let service = BackendService::new("shop/web:80", vec![endpoint.endpoint()]);
        site(vec![rule("shop.example", "/", Route::to(service))], Plain::Served)
    };
    let former = Settings { threads: 2, ..Settings::default() };
    let former = Stand::start(former, snapshot(Scheme::Http, of(&a)));
    let place = former.address;
    let mut sockets = former.front_end.sockets().expect("descriptors");
    assert_eq!(sockets[&anywhere()].len(), 2);
    // Fewer threads than sockets, and then more.
    let next = FrontEnd::start(one_thread()).expect("a front-end");
    next.adopt([(place, sockets.remove(&anywhere()).expect("sockets"))].into());
    assert_eq!(former.front_end.stop(DEADLINE), 0);
    let serve = |front_end: &FrontEnd| {
        let mut waiting: Vec<Client> = (0..20).map(|_| Client::dial(place)).collect();
        waiting.iter_mut().for_each(|client| client.send(get("/")));
        assert_eq!(front_end.adopted(), [place]);
        let listener = Listener { scheme: Scheme::Http, proxied: None, site: of(&b) };
        assert!(front_end.swap(Arc::new(Snapshot { listeners: [(place, listener)].into() })).is_empty());
        assert_eq!(front_end.adopted(), []);
        for client in &mut waiting {
            assert_eq!(client.answer(false).text(), "b GET / HTTP/1.1");
        }
    };
    serve(&next);
    let last = FrontEnd::start(Settings { threads: 3, ..Settings::default() }).expect("a front-end");
    last.adopt(next.sockets().expect("descriptors"));
    assert_eq!(next.stop(DEADLINE), 0);
    serve(&last);
    assert!(last.swap(Arc::default()).is_empty());
    eventually("nobody listens", || TcpStream::connect(place).is_err());
}

#[test]
fn adopted_sockets_that_are_not_wanted_are_closed() {
    let stand = Stand::with(Vec::new());
    let next = FrontEnd::start(one_thread()).expect("a front-end");
    next.adopt(stand.front_end.sockets().expect("descriptors"));
    assert_eq!(stand.front_end.stop(DEADLINE), 0);
    assert!(TcpStream::connect(stand.address).is_ok(), "it waits");
    next.close_adopted();
    assert!(TcpStream::connect(stand.address).is_err());
}
