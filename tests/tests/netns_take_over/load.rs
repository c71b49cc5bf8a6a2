//! Clients of four kinds that ask without a pause.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use http::Request;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_tests::topology::{Host, Topology};
use lb_tests::wait::wait_until;
use lb_tests::web::{Answer, Kept, ask, ask_by_tls};
use rustls::pki_types::CertificateDer;

use crate::clients::{config, dial_http_2};
use crate::{DEADLINE, HOST};

/// What a client counts, and when it ends.
#[derive(Default)]
struct Tally {
    is_over: AtomicBool,
    answers: AtomicUsize,
}

impl Tally {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Counts an answer, which is a fault if it is none.
    fn note(&self, faults: &mut Vec<String>, kind: &str, result: Result<u16, String>) {
        self.answers.fetch_add(1, Ordering::SeqCst);
        match result {
            Ok(200) => {}
            Ok(code) => faults.push(format!("{kind}: {code}")),
            Err(error) => faults.push(format!("{kind}: {error}")),
        }
    }
}

/// Asks until its tally says that it is over; what was no answer.
type Client = Box<dyn FnOnce(&Host, &Tally) -> Vec<String> + Send>;

pub(crate) struct Load(Vec<(Arc<Tally>, JoinHandle<Vec<String>>)>);

impl Load {
    pub(crate) fn start(
        topology: &Topology,
        plain: SocketAddr,
        secure: SocketAddr,
        trusted: &CertificateDer<'static>,
    ) -> Self {
        let client = topology.client();
        let start = |run: Client| {
            let (tally, client) = (Arc::<Tally>::default(), client.clone());
            let of_client = Arc::clone(&tally);
            (tally, thread::spawn(move || run(&client, &of_client)))
        };
        let (of_new, of_http_2) = (trusted.clone(), trusted.clone());
        Self(vec![
            start(Box::new(move |client: &Host, tally: &Tally| {
                let once = || ask(client, plain, HOST, "/").map(|answer| answer.code);
                each("a connection each", tally, once)
            })),
            start(Box::new(move |client: &Host, tally: &Tally| {
                let once = || ask_by_tls(client, secure, HOST, "/", &of_new).map(|answer| answer.code);
                each("a handshake each", tally, once)
            })),
            start(Box::new(move |client: &Host, tally: &Tally| {
                client.run_in_netns(|| kept(plain, tally)).expect("the client's namespace")
            })),
            start(Box::new(move |client: &Host, tally: &Tally| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.expect("a runtime");
                let asked = || runtime.block_on(http_2(secure, &of_http_2, tally));
                client.run_in_netns(asked).expect("the client's namespace")
            })),
        ])
    }

    /// Waits until every client has had that many further answers.
    pub(crate) fn wait_for(&self, answers: usize) {
        for (tally, _) in &self.0 {
            let goal = tally.answers.load(Ordering::SeqCst) + answers;
            let has_enough = || tally.answers.load(Ordering::SeqCst) >= goal;
            wait_until(DEADLINE, "answers", has_enough).unwrap();
        }
    }

    /// What was no answer.
    pub(crate) fn end(self) -> Vec<String> {
        self.0.iter().for_each(|(tally, _)| tally.is_over.store(true, Ordering::SeqCst));
        self.0.into_iter().flat_map(|(_, thread)| thread.join().unwrap()).collect()
    }
}

fn each(kind: &str, tally: &Tally, once: impl Fn() -> io::Result<u16>) -> Vec<String> {
    let mut faults = Vec::new();
    while !tally.is_over() {
        tally.note(&mut faults, kind, once().map_err(|error| error.to_string()));
    }
    faults
}

/// Keeps its connection until it is told that it ends.
fn kept(to: SocketAddr, tally: &Tally) -> Vec<String> {
    const KIND: &str = "a kept connection";
    let mut faults = Vec::new();
    while !tally.is_over() {
        let mut connection = match Kept::dial(to) {
            Ok(connection) => connection,
            Err(error) => {
                tally.note(&mut faults, KIND, Err(error.to_string()));
                continue;
            }
        };
        let mut goes_on = true;
        while goes_on && !tally.is_over() {
            let answer = connection.ask(HOST, "/");
            goes_on = answer.as_ref().is_ok_and(Answer::goes_on);
            tally.note(
                &mut faults,
                KIND,
                answer.map(|answer| answer.code).map_err(|error| error.to_string()),
            );
        }
    }
    faults
}

/// Keeps its connection until it is told that it ends (GOAWAY).
async fn http_2(to: SocketAddr, trusted: &CertificateDer<'static>, tally: &Tally) -> Vec<String> {
    const KIND: &str = "HTTP/2";
    let mut faults = Vec::new();
    let config = config(trusted, b"h2");
    while !tally.is_over() {
        let stream = match dial_http_2(to, Arc::clone(&config)).await {
            Ok(stream) => TokioIo::new(stream),
            Err(error) => {
                tally.note(&mut faults, KIND, Err(error.to_string()));
                continue;
            }
        };
        match http2::handshake(TokioExecutor::new(), stream).await {
            Ok((sender, connection)) => {
                tokio::spawn(connection);
                on_http_2(sender, tally, &mut faults).await;
            }
            Err(error) => tally.note(&mut faults, KIND, Err(error.to_string())),
        }
    }
    faults
}

async fn on_http_2(mut sender: http2::SendRequest<String>, tally: &Tally, faults: &mut Vec<String>) {
    while !tally.is_over() && sender.ready().await.is_ok() {
        let request = Request::get(format!("https://{HOST}/")).body(String::new()).unwrap();
        match sender.try_send_request(request).await {
            Ok(answer) => {
                let code = answer.status().as_u16();
                let body = answer.into_body().collect().await;
                tally.note(faults, "HTTP/2", body.map(|_| code).map_err(|error| error.to_string()));
            }
            Err(mut error) => {
                // Told to go before the request was sent, it asks on another connection.
                if error.take_message().is_none() {
                    tally.note(faults, "HTTP/2", Err(error.into_error().to_string()));
                }
                return;
            }
        }
    }
}
