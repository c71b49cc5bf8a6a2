//! Netns tier: one front-end takes over from another on the same address, under load.
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_tests::need;
use lb_tests::netns::{Namespace, ip_batch};
use lb_tests::wait::wait_until;
use lb_userspace::l7::serve::{
    BackendService, Endpoint, FrontEnd, Listener, Route, Scheme, Settings, Site, Snapshot,
};
use lb_userspace::l7::{HostPattern, HostRule, UrlMap};

const DEADLINE: Duration = Duration::from_secs(20);
const PLACE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Front-ends that follow the first.
const SUCCESSORS: usize = 20;
/// Requests, each on a connection of its own, that are answered between two of them.
const REQUESTS: usize = 100;

/// Connections that the kernel resets all the same: one was seen in 880 takeovers, on Linux 6.18. Where sockets do not
/// migrate there are more.
const RESETS_MAX: usize = 1;

/// A namespace with a loopback interface, removed on drop.
struct Alone(Namespace);

impl Alone {
    fn new() -> Self {
        let name = format!("podway-front-end-{}", std::process::id());
        ip_batch(&[], &format!("netns add {name}\n")).unwrap();
        let alone = Self(Namespace::open(&name).unwrap());
        alone.0.ip_batch("link set lo up\n").unwrap();
        alone
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = ip_batch(&[], &format!("netns delete {}\n", self.0.name()));
    }
}

/// An endpoint that answers each request with nothing but 200.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                // Requests without a body come one at a time, each in one piece.
                while stream.read(&mut bytes).is_ok_and(|length| length > 0) {
                    let answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    if answered.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn front_end(endpoint: SocketAddr) -> FrontEnd {
    let service = BackendService::new("shop/web:80", vec![Arc::new(Endpoint::new(endpoint, 1))]);
    let default = Some(Route::to(service));
    let rule = HostRule { host: HostPattern::Any, paths: Vec::new(), default };
    let site =
        Site { name: "shop/web".into(), url_map: UrlMap::new(vec![rule], None), counters: Arc::default() };
    let listener = Listener { scheme: Scheme::Http, proxied: None, site: Arc::new(site) };
    let front_end = FrontEnd::start(Settings { threads: 2, ..Settings::default() }).unwrap();
    let faults = front_end.swap(Arc::new(Snapshot { listeners: [(PLACE, listener)].into() }));
    assert!(faults.is_empty(), "{faults:?}");
    front_end
}

/// One request on a connection of its own.
fn ask() -> std::io::Result<String> {
    let mut stream = TcpStream::connect(PLACE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A client that asks until it is told to end; what was no answer.
fn client(is_over: &Arc<AtomicBool>, answers: &Arc<AtomicUsize>) -> JoinHandle<Vec<String>> {
    let (is_over, answers) = (Arc::clone(is_over), Arc::clone(answers));
    thread::spawn(move || {
        let mut faults = Vec::new();
        while !is_over.load(Ordering::SeqCst) {
            match ask() {
                Ok(text) if text.starts_with("HTTP/1.1 200") => {}
                Ok(text) => faults.push(text),
                Err(error) => faults.push(error.to_string()),
            }
            answers.fetch_add(1, Ordering::SeqCst);
        }
        faults
    })
}

#[test]
fn a_front_end_takes_over_without_a_refused_connection() {
    if need::netns().is_none() {
        return;
    }
    let alone = Alone::new();
    alone.0.set_sysctls(&[("ipv4/tcp_migrate_req", "1")]).unwrap();
    let faults = alone.0.run(|| {
        let endpoint = endpoint();
        let mut current = front_end(endpoint);
        let (is_over, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients: Vec<_> = (0..4).map(|_| client(&is_over, &answers)).collect();
        for _ in 0..SUCCESSORS {
            let goal = answers.load(Ordering::SeqCst) + REQUESTS;
            let enough = || answers.load(Ordering::SeqCst) >= goal;
            wait_until(DEADLINE, "requests between two front-ends", enough).unwrap();
            let next = front_end(endpoint);
            assert_eq!(std::mem::replace(&mut current, next).stop(DEADLINE), 0);
        }
        is_over.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<String>>()
    });
    let (resets, others): (Vec<_>, Vec<_>) =
        faults.unwrap().into_iter().partition(|fault| fault.contains("Connection reset by peer"));
    assert_eq!(others, Vec::<String>::new());
    assert!(resets.len() <= RESETS_MAX, "{} connections were reset", resets.len());
}
