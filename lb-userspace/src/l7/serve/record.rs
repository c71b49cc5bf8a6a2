//! What is noted of a request: counters for all, a line of the access log for some.
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use super::counters::{Totals, count};
use super::link::Busy;
use super::snapshot::BackendService;
use super::trace::RequestTrace;

/// Lines that wait to be written; further ones are dropped and counted.
const LINES_MAX: usize = 8_192;

/// Lines that a thread writes in a second for requests that no backend service gets; further ones are dropped and
/// counted: nobody has to know a host to send such requests.
pub(super) const UNROUTED_LINES_MAX: u32 = 100;

/// The lines of a thread for requests that no backend service gets.
#[derive(Debug)]
pub(super) struct UnroutedLines {
    began: Cell<Instant>,
    lines: Cell<u32>,
    totals: Arc<Totals>,
}

impl UnroutedLines {
    pub(super) fn new(totals: Arc<Totals>) -> Self {
        Self { began: Cell::new(Instant::now()), lines: Cell::new(0), totals }
    }

    /// Counts a line, and tells whether it is to be written.
    pub(super) fn may_write(&self) -> bool {
        if self.began.get().elapsed() >= Duration::from_secs(1) {
            self.began.set(Instant::now());
            self.lines.set(0);
        }
        self.lines.set(self.lines.get().saturating_add(1));
        let may = self.lines.get() <= UNROUTED_LINES_MAX;
        if !may {
            count(&self.totals.log_lines_dropped);
        }
        may
    }
}

/// A line of the access log; field names are stable.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) time_unix_ms: u64,
    pub(super) client: String,
    pub(super) scheme: &'static str,
    pub(super) protocol: &'static str,
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) url_map: String,
    pub(super) backend_service: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) code: u16,
    pub(super) reason: Option<&'static str>,
    pub(super) retries: u32,
    pub(super) answer_bytes: u64,
    pub(super) duration_ms: u64,
    pub(super) request_id: String,
}

/// Takes lines, never waits.
#[derive(Clone, Debug)]
pub(super) struct AccessLog {
    lines: SyncSender<Box<Line>>,
    totals: Arc<Totals>,
}

impl AccessLog {
    /// Begins a thread that writes lines until all who send them are gone.
    pub(super) fn start(to: Box<dyn Write + Send>, totals: Arc<Totals>) -> std::io::Result<Self> {
        let (lines, receiver) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(to, &receiver))?;
        Ok(Self { lines, totals })
    }
}

fn write(mut to: Box<dyn Write + Send>, lines: &Receiver<Box<Line>>) {
    while let Ok(line) = lines.recv() {
        // Who reads the log may be gone; requests go on.
        if let Ok(mut text) = serde_json::to_vec(&line) {
            text.push(b'\n');
            let _ = to.write_all(&text).and_then(|()| to.flush());
        }
    }
}

/// Whether a request is among those that have a line; `random` is even over `u32`.
pub(super) fn is_sampled(service: &BackendService, random: u32) -> bool {
    u64::from(random) * 1_000_000 < u64::from(service.log_per_million) << 32
}

/// Notes one request when it is dropped.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) service: Option<Arc<BackendService>>,
    pub(super) line: Option<Box<Line>>,
    /// Of a request that is recorded.
    pub(super) trace: Option<RequestTrace>,
    log: Option<AccessLog>,
    pub(super) began: Instant,
    bytes: u64,
    busy: Busy,
}

impl Record {
    pub(super) fn begin(log: Option<&AccessLog>, busy: Busy) -> Self {
        let (began, log) = (Instant::now(), log.cloned());
        Self { service: None, line: None, trace: None, log, began, bytes: 0, busy }
    }

    pub(super) const fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub(super) fn note_code(&mut self, code: StatusCode, reason: Option<&'static str>) {
        if let Some(service) = &self.service {
            service.counters.note(code);
        }
        if let Some(line) = &mut self.line {
            line.code = code.as_u16();
            line.reason = reason;
        }
        if let Some(trace) = &mut self.trace {
            trace.note_code(code, reason);
        }
    }

    /// The answer ended before its end.
    pub(super) fn note_cut(&mut self, why: &'static str) {
        if let Some(line) = &mut self.line {
            line.reason = Some(why);
        }
        if let Some(trace) = &mut self.trace {
            trace.note_cut(why);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let ended = Instant::now();
        let duration = ended - self.began;
        self.busy.note_end(ended);
        if let Some(service) = &self.service {
            service.counters.answer_bytes.fetch_add(self.bytes, Ordering::Relaxed);
            service.counters.durations.note(duration);
        }
        if let Some(trace) = self.trace.take() {
            trace.end(self.service.as_deref(), self.bytes);
        }
        let (Some(mut line), Some(log)) = (self.line.take(), &self.log) else { return };
        line.answer_bytes = self.bytes;
        line.duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.time_unix_ms =
            u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(line.duration_ms);
        if log.lines.try_send(line).is_err() {
            count(&log.totals.log_lines_dropped);
        }
    }
}
