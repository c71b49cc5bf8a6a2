//! Traces of requests for those who collect them (OpenTelemetry): off unless a receiver is named.
//!
//! A request that is recorded becomes a span of its own and one for each attempt at an endpoint (`span`), and the attempt's
//! is what the endpoint gets as its parent (`context`). Once the request has ended they wait in a bounded queue for a
//! thread (`export`) that sends them in the form of OTLP (`otlp`). No request waits for any of that.
mod context;
mod span;

mod export;
mod otlp;
mod receiver;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::request::Parts;
use tokio::sync::mpsc;

use super::counters::Totals;
use super::link::Link;
use super::snapshot::Site;
use context::TraceContext;

pub(super) use export::Exporter;
pub use receiver::OtlpReceiver;
pub(super) use span::RequestTrace;
use span::{RequestSpan, non_zero};

/// Recorded requests that wait to be sent; further ones are dropped and counted. With the texts' bounds they are at most
/// some 20 MiB, and common ones a tenth of that.
pub const TRACES_WAITING_MAX: usize = 4_096;

/// How requests are traced.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Where spans are sent.
    pub receiver: OtlpReceiver,
    /// The share of requests that is recorded where no trusted client has decided, from 0 to 1.
    pub sample_ratio: f64,
    /// The node of this front-end.
    pub node_name: String,
    /// See [`TRACES_WAITING_MAX`].
    pub waiting_max: usize,
}

/// Ended requests on their way to the thread that sends them.
#[derive(Clone, Debug)]
struct Queue {
    spans: mpsc::Sender<RequestSpan>,
    totals: Arc<Totals>,
}

impl Queue {
    fn put(&self, span: RequestSpan) {
        let spans = span.spans();
        if self.spans.try_send(span).is_err() {
            add(&self.totals.spans_dropped, spans);
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Decides which requests are recorded.
#[derive(Debug)]
pub(super) struct Tracer {
    queue: Queue,
    /// A draw of 64 bits below it is recorded.
    recorded_below: u128,
}

impl Tracer {
    /// Begins the thread that sends spans.
    pub(super) fn start(settings: &TraceSettings, totals: &Arc<Totals>) -> std::io::Result<(Self, Exporter)> {
        let (spans, receiver) = mpsc::channel(settings.waiting_max.max(1));
        let exporter = Exporter::start(settings, receiver, Arc::clone(totals))?;
        let recorded_below = (settings.sample_ratio.clamp(0.0, 1.0) * 2.0_f64.powi(64)) as u128;
        Ok((Self { queue: Queue { spans, totals: Arc::clone(totals) }, recorded_below }, exporter))
    }

    /// A request's trace, if it is recorded. A trusted client's decision is followed; of anyone else's the trace is
    /// gone on with, but not the decision, which would let clients fill the queue.
    pub(super) fn begin(&self, link: &Link, site: &Site, parts: &Parts) -> Option<RequestTrace> {
        let random = link.worker.random_u128();
        let parent = TraceContext::of(&parts.headers);
        let is_recorded = match parent {
            Some(parent) if link.client.is_trusted => parent.is_sampled(),
            _ => random >> 64 < self.recorded_below,
        };
        if !is_recorded {
            return None;
        }
        let span_id = non_zero(random as u64);
        let context = match parent {
            Some(parent) => parent.recorded_as(span_id),
            None => TraceContext::root(link.worker.random_u128().max(1), span_id),
        };
        let span = RequestSpan::begin(context, parent.map(|parent| parent.span_id), link, site, parts);
        Some(RequestTrace::new(span, self.queue.clone()))
    }
}

#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
