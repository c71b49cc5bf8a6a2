//! The thread that sends spans.
//!
//! It sends a batch each second, or as soon as one is full. A receiver that is away or busy is tried again, ever more
//! rarely, with the batch that it did not get; meanwhile what comes waits in the queue as far as there is room. One line of
//! the log says so, and one that it is over.
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::span::RequestSpan;
use super::{OtlpReceiver, TraceSettings, add, otlp};
use crate::l7::serve::counters::Totals;

/// Requests that are sent in one message.
const BATCH_MAX: usize = 512;
/// Time that a batch waits to become full.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// Time in which a receiver must take a batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the first failure. It doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// Longest pause, also where a receiver asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Time for what waits when the front-end stops, the batch among it that was on its way; the rest is dropped and counted.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a receiver's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The thread.
#[derive(Debug)]
pub(in crate::l7::serve) struct Exporter {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Exporter {
    pub(super) fn start(
        settings: &TraceSettings,
        spans: mpsc::Receiver<RequestSpan>,
        totals: Arc<Totals>,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let resource = otlp::resource(&settings.node_name);
        let mut sender = Sender { to: settings.receiver.clone(), resource, totals, last: Last::Sent };
        let thread = std::thread::Builder::new()
            .name("trace-export".to_owned())
            .spawn(move || runtime.block_on(sender.run(spans, stopped)))?;
        Ok(Self { stop, thread })
    }

    /// Sends what waits, for a moment, and ends.
    pub(in crate::l7::serve) fn stop(self) {
        drop(self.stop);
        // A thread that has panicked sends nothing either.
        let _ = self.thread.join();
    }
}

/// How the last batch fared, so that only a change is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Sent,
    Kept,
    Refused,
}

struct Sender {
    to: OtlpReceiver,
    resource: Resource,
    totals: Arc<Totals>,
    last: Last,
}

/// Why a receiver did not take a batch.
enum Fault {
    /// It may take it later; how long it wants to be left alone, where it says so.
    Away(String, Option<Duration>),
    /// It never will.
    Refused(String),
}

impl Sender {
    /// Until the front-end stops or is gone.
    async fn run(&mut self, mut spans: mpsc::Receiver<RequestSpan>, mut stopped: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                () = self.run_once(&mut spans, &mut batch) => {}
            }
        }
        spans.close();
        while let Ok(span) = spans.try_recv() {
            batch.push(span);
        }
        let _ = timeout(LAST_TIMEOUT, async {
            while !batch.is_empty() {
                let count = batch.len().min(BATCH_MAX);
                if let Err(Fault::Away(..)) = self.send(&self.message(&batch[..count])).await {
                    break;
                }
                batch.drain(..count);
            }
        })
        .await;
        add(&self.totals.spans_dropped, count_of(&batch));
    }

    /// Fills a batch and has it taken. What is in it stays there if this is given up.
    async fn run_once(&mut self, spans: &mut mpsc::Receiver<RequestSpan>, batch: &mut Vec<RequestSpan>) {
        gather(spans, batch).await;
        let message = self.message(batch);
        let mut pause = PAUSE_FIRST;
        loop {
            let Err(Fault::Away(_, wanted)) = self.send(&message).await else { break };
            // Front-ends that lost their receiver at the same time do not come back to it at the same time.
            let jittered = pause.mul_f64(0.5 + fastrand::f64());
            sleep(wanted.unwrap_or(jittered).min(PAUSE_MAX)).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
        batch.clear();
    }

    fn message(&self, batch: &[RequestSpan]) -> Outgoing {
        let bytes = otlp::message(&self.resource, batch).encode_to_vec().into();
        Outgoing { bytes, spans: count_of(batch) }
    }

    /// Sends a batch once, counts what became of it and tells what is new.
    async fn send(&mut self, message: &Outgoing) -> Result<(), Fault> {
        let outcome = match timeout(SEND_TIMEOUT, post(&self.to, message.bytes.clone())).await {
            Ok(Ok(answer)) => judge(&answer),
            Ok(Err(error)) => Err(Fault::Away(error.to_string(), None)),
            Err(_) => Err(Fault::Away(format!("no answer within {} s", SEND_TIMEOUT.as_secs()), None)),
        };
        let now = match &outcome {
            Ok(rejected) => {
                add(&self.totals.spans_refused, *rejected);
                add(&self.totals.spans_sent, message.spans.saturating_sub(*rejected));
                Last::Sent
            }
            Err(Fault::Away(..)) => Last::Kept,
            Err(Fault::Refused(_)) => {
                add(&self.totals.spans_refused, message.spans);
                Last::Refused
            }
        };
        if now != std::mem::replace(&mut self.last, now) {
            self.tell(&outcome);
        }
        outcome.map(drop)
    }

    fn tell(&self, outcome: &Result<u64, Fault>) {
        let to = &self.to.authority;
        match outcome {
            Ok(_) => info!(to, "traces are taken again"),
            Err(Fault::Away(error, _)) => {
                warn!(
                    to,
                    error,
                    "cannot send traces; trying again, what does not fit meanwhile is dropped and counted"
                );
            }
            Err(Fault::Refused(error)) => {
                warn!(to, error, "traces are refused and counted as that; see --otlp-endpoint");
            }
        }
    }
}

/// A batch as it is sent.
struct Outgoing {
    bytes: Bytes,
    spans: u64,
}

fn count_of(batch: &[RequestSpan]) -> u64 {
    batch.iter().map(RequestSpan::spans).sum()
}

/// Waits for a request, and a moment for further ones. Never ends once nobody sends any more.
async fn gather(spans: &mut mpsc::Receiver<RequestSpan>, batch: &mut Vec<RequestSpan>) {
    if spans.recv_many(batch, BATCH_MAX).await == 0 {
        std::future::pending::<()>().await;
    }
    let full = async {
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            if spans.recv_many(batch, room).await == 0 {
                break;
            }
        }
    };
    let _ = timeout(BATCH_DELAY, full).await;
}

/// Sends a message on a connection of its own: one a second is not worth keeping it.
async fn post(to: &OtlpReceiver, bytes: Bytes) -> io::Result<Response<Bytes>> {
    let stream = TcpStream::connect((&*to.host, to.port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::post(&to.path)
        .header(HOST, &to.authority)
        .header(CONTENT_TYPE, "application/x-protobuf")
        .header(USER_AGENT, concat!("podway/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Full::new(bytes))
        .map_err(io::Error::other)?;
    let asking = async move {
        let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    // The connection ends with the answer; a fault of its own is told to whoever asks.
    let (answer, _) = tokio::join!(asking, connection);
    answer
}

/// What an answer says (OTLP/HTTP, "Response"): how many spans were rejected, or why none was taken.
fn judge(answer: &Response<Bytes>) -> Result<u64, Fault> {
    let status = answer.status();
    if status.is_success() {
        let told = ExportTraceServiceResponse::decode(&**answer.body()).unwrap_or_default();
        let rejected = told.partial_success.map_or(0, |partial| partial.rejected_spans);
        return Ok(u64::try_from(rejected).unwrap_or(0));
    }
    let told = format!("the answer is {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let wanted =
                answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            Err(Fault::Away(told, wanted.map(Duration::from_secs)))
        }
        _ => Err(Fault::Refused(told)),
    }
}
