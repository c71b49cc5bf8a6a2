//! A plain request under way: to an endpoint, and its answer back.
mod ways;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderValue, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer;
use super::request::{self, Asked};
use crate::clock;
use crate::health::Signal;
use crate::l7::serve::choose::choose;
use crate::l7::serve::client_stream::ClientStream;
use crate::l7::serve::exchange::line;
use crate::l7::serve::link::{Busy, Link};
use crate::l7::serve::record::{Record, is_sampled};
use crate::l7::serve::refusal::Reason;
use crate::l7::serve::snapshot::{BackendService, Endpoint, InFlight, Site};
use crate::l7::serve::worker::Worker;

/// A request under way.
pub(super) struct Exchange {
    worker: Rc<Worker>,
    link: Rc<Link>,
    record: Record,
    site: Arc<Site>,
    service: Arc<BackendService>,
    endpoint: Arc<Endpoint>,
    in_flight: InFlight,
    connection: Option<TcpStream>,
    /// Whether it carried a request before: its endpoint may have closed it meanwhile.
    is_reused: bool,
    is_head: bool,
    is_repeatable: bool,
    id: [u8; 32],
    /// As the client sent it.
    asked: Vec<u8>,
    /// As the endpoint gets it.
    passed: Vec<u8>,
    /// What the client sent after it.
    early: Vec<u8>,
    until: Instant,
    began_ms: u64,
    retries: u32,
    /// Whether some of the answer may have been sent.
    is_answered: bool,
}

/// What came of a request.
pub(super) enum Came {
    /// An answer; another request may follow.
    Whole,
    /// An answer, and these bytes of the client after its request.
    WholeAndMore(Vec<u8>),
    /// The connection's last answer.
    Last,
    /// Nothing yet, and the request may be sent anew.
    Again(Vec<u8>),
    /// Nobody is there to be answered, or the answer is cut off.
    Broken,
}

/// Why there is no whole answer.
enum Failed {
    /// The request may be sent anew.
    Again,
    /// The answer is one of the front-end's own.
    Refused(Reason),
    /// See [`Came::Broken`].
    Broken,
}

impl Exchange {
    /// Begins to pass on the request of so many bytes in the thread's room; none where it is not plain.
    pub(super) fn begin(link: &Rc<Link>, length: usize, is_between: bool) -> Option<Self> {
        let worker = &link.worker;
        // A trace needs the fields.
        if !is_between || worker.shared.tracer.is_some() {
            return None;
        }
        let snapshot = worker.snapshot();
        let listener = snapshot.listeners.get(&link.place)?;
        let limits = &worker.shared.settings.limits;
        let mut passed = worker.rooms.take();
        let begun = worker.rooms.with_read(length, |bytes| {
            let id = || worker.random_u128();
            let asked = request::pass(bytes, &link.client, listener, limits, id, &mut passed)?;
            let endpoint = choose(&asked.service, &[], |below| worker.draw(below))?;
            let endpoint = Arc::clone(endpoint);
            let mut record = Record::begin(worker.shared.log.as_ref(), Busy::begin(link));
            note(&mut record, link, &listener.site, &asked);
            let mut kept = worker.rooms.take();
            kept.extend_from_slice(bytes);
            let Asked { service, is_head, is_repeatable, is_last, id, .. } = asked;
            if is_last {
                link.close_with_next_answer();
            }
            Some((record, service, endpoint, is_head, is_repeatable, id, kept))
        });
        let Some((mut record, service, endpoint, is_head, is_repeatable, id, asked)) = begun else {
            worker.rooms.put_back(passed);
            return None;
        };
        worker.budget.earn();
        record.service = Some(Arc::clone(&service));
        let until = record.began + service.request_timeout;
        let connection = worker.pool.take_plain(endpoint.address);
        Some(Self {
            worker: Rc::clone(worker),
            link: Rc::clone(link),
            record,
            site: Arc::clone(&listener.site),
            in_flight: InFlight::begin(&endpoint),
            is_reused: connection.is_some(),
            service,
            endpoint,
            connection,
            is_head,
            is_repeatable,
            id,
            asked,
            passed,
            early: Vec::new(),
            until,
            began_ms: clock::now_ms(),
            retries: 0,
            is_answered: false,
        })
    }

    /// Passes it on, and its answer back.
    pub(super) async fn run<S>(mut self, stream: &mut ClientStream<S>, closing: &watch::Receiver<()>) -> Came
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let worker = Rc::clone(&self.worker);
        let passed = worker.deadlines.within(self.until, pin!(self.pass(stream, closing))).await;
        let came = match passed {
            Some(Ok(is_last)) => self.whole(is_last),
            Some(Err(Failed::Again)) => {
                self.record.service = None;
                self.record.line = None;
                Came::Again(std::mem::take(&mut self.asked))
            }
            Some(Err(Failed::Refused(reason))) => self.refuse(stream, reason, closing).await,
            Some(Err(Failed::Broken)) => Came::Broken,
            None if self.is_answered => {
                self.record.note_cut(Reason::Timeout.name());
                Came::Broken
            }
            None => {
                self.signal(Signal::TimedOut);
                self.refuse(stream, Reason::Timeout, closing).await
            }
        };
        worker.rooms.put_back(self.asked);
        worker.rooms.put_back(self.passed);
        came
    }

    fn whole(&mut self, is_last: bool) -> Came {
        match (is_last, self.early.is_empty()) {
            (true, _) => Came::Last,
            (false, true) => Came::Whole,
            (false, false) => Came::WholeAndMore(std::mem::take(&mut self.early)),
        }
    }

    /// Whether the answer that begins now is the connection's last.
    fn is_last(&self, closing: &watch::Receiver<()>) -> bool {
        self.link.is_closing() || closing.has_changed().unwrap_or(true)
    }

    /// Sends an answer of the front-end's own.
    async fn refuse<S>(
        &mut self,
        stream: &mut ClientStream<S>,
        reason: Reason,
        closing: &watch::Receiver<()>,
    ) -> Came
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut response = reason.response(self.worker.shared.settings.reason_header);
        self.note_code(response.status(), Some(reason.name()));
        let is_last = self.is_last(closing);
        if is_last {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(http::header::CONNECTION, close);
        }
        {
            let mut written = self.worker.rooms.written.borrow_mut();
            written.clear();
            answer::write(&response, self.is_head, &mut written);
        }
        self.record.add_bytes(response.body().len());
        match self.worker.rooms.send(stream, 0..0).await {
            Ok(()) => self.whole(is_last),
            Err(_) => Came::Broken,
        }
    }

    fn note_code(&mut self, code: StatusCode, reason: Option<&'static str>) {
        self.site.counters.note(code);
        self.record.note_code(code, reason);
        if let Some(line) = &mut self.record.line {
            line.endpoint = Some(self.endpoint.address.to_string());
            line.retries = self.retries;
        }
    }

    fn signal(&self, signal: Signal) {
        self.worker.shared.signal(&self.service, &self.endpoint, signal, self.began_ms);
    }
}

/// Notes what the access log says of a request, if it says something.
fn note(record: &mut Record, link: &Link, site: &Site, asked: &Asked<'_>) {
    if link.worker.shared.log.is_none() || !is_sampled(&asked.service, link.worker.random_u32()) {
        return;
    }
    let host = asked.host.to_string();
    let mut line = line(link, site, Version::HTTP_11, asked.method, host.as_bytes(), asked.path);
    line.backend_service = Some(asked.service.name.to_string());
    line.request_id = String::from_utf8_lossy(&asked.id).into_owned();
    record.line = Some(Box::new(line));
}
