//! A URL map of a hundred thousand rules, replaced while it is asked.
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use lb_tests::wait::wait_until;
use lb_userspace::l7::serve::{Protocol, Route, Settings};
use lb_userspace::l7::{HostPattern, HostRule, NormalPath, PathPattern, PathRule, UrlMap};

use crate::messages::{Client, Scripted, Then, ok};
use crate::stand::{DEADLINE, HOST, Stand, service};

const HOSTS: usize = 10_000;
const PATHS: usize = 10;
/// Replacements under load.
const SWAPS: usize = 6;
const CLIENTS: usize = 4;
/// Requests that are answered between two replacements.
const REQUESTS: usize = 200;
/// Requests of one connection.
const REQUESTS_PER_CONNECTION: usize = 50;

/// All rules lead to one backend service.
fn url_map(route: &Route) -> UrlMap<Route> {
    let path = |number: usize| {
        let text = format!("/{number}");
        let path = NormalPath::of(&text).unwrap();
        PathRule { pattern: PathPattern::prefix(&path), target: route.clone() }
    };
    let paths: Vec<_> = (0..PATHS).map(path).collect();
    let rules = (0..HOSTS).map(|number| HostRule {
        host: HostPattern::Exact(format!("h{number}.{HOST}").into()),
        paths: paths.clone(),
        default: None,
    });
    UrlMap::new(rules.collect(), None)
}

/// Asks hosts and paths in a row of its own until it is told to end; what was no answer of an endpoint.
fn client(stand: &Stand, number: usize, is_over: &AtomicBool, answers: &[AtomicUsize; 2]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut next = number;
    while !is_over.load(Ordering::SeqCst) {
        let mut client = Client::dial(stand.plain);
        for request in 1..=REQUESTS_PER_CONNECTION {
            // A step that shares no factor with the number of hosts meets all of them.
            next = (next + 7_919) % (HOSTS * PATHS);
            let (host, path) = (next / PATHS, next % PATHS);
            let close = if request == REQUESTS_PER_CONNECTION { "Connection: close\r\n" } else { "" };
            client.send(format!("GET /{path}/a HTTP/1.1\r\nHost: h{host}.{HOST}\r\n{close}\r\n"));
            match client.answer("GET") {
                Ok(answer) if answer.text() == "one" => drop(answers[0].fetch_add(1, Ordering::SeqCst)),
                Ok(answer) if answer.text() == "two" => drop(answers[1].fetch_add(1, Ordering::SeqCst)),
                Ok(answer) => faults.push(format!("h{host} /{path}: {} {}", answer.start, answer.text())),
                Err(error) => faults.push(format!("h{host} /{path}: {error}")),
            }
        }
    }
    faults
}

#[test]
fn no_request_fails_when_a_hundred_thousand_rules_are_replaced() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let one = Scripted::start(move |request| {
        if request.start.contains(" /0/late ") {
            let _ = wait.lock().unwrap().recv_timeout(DEADLINE);
        }
        (ok("one"), Then::Stays)
    });
    let two = Scripted::start(|_| (ok("two"), Then::Stays));
    let settings = Settings { threads: 2, ..Settings::default() };
    let stand = Stand::of(settings, service(one.address, Protocol::Http));
    let route = |endpoint: &Scripted| Route::to(service(endpoint.address, Protocol::Http));
    stand.serve(url_map(&route(&one)));
    let mut late = Client::dial(stand.plain);
    late.send(format!("GET /0/late HTTP/1.1\r\nHost: h0.{HOST}\r\n\r\n"));
    wait_until(DEADLINE, "the late request at its endpoint", || !one.seen().is_empty()).unwrap();

    let (is_over, answers) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let faults: Vec<String> = thread::scope(|scope| {
        let (stand, is_over, answers) = (&stand, &is_over, &answers);
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(stand, number, is_over, answers))).collect();
        for swap in 1..=SWAPS {
            let now = swap % 2;
            stand.serve(url_map(&route([&one, &two][now])));
            let goal = answers[now].load(Ordering::SeqCst) + REQUESTS;
            let has_enough = || answers[now].load(Ordering::SeqCst) >= goal;
            wait_until(DEADLINE, "answers by the new rules", has_enough).unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(faults, Vec::<String>::new());
    // The request that was under way all the time is answered by the endpoint of its own rules.
    stand.serve(url_map(&route(&two)));
    go.send(()).unwrap();
    assert_eq!(late.answer("GET").unwrap().text(), "one");
    let answer = late.ask(&format!("GET /0/late HTTP/1.1\r\nHost: h0.{HOST}\r\n\r\n"));
    assert_eq!(answer.text(), "two", "the next one of the connection goes by the new rules");
}
