//! How many Events an agent may write: an API server has many agents.
use std::time::{Duration, Instant};

/// Most events of one ledger at once; further ones wait, and what is over by then is not told.
const EVENTS_MAX: u32 = 20;

/// Time in which one more may be told.
const INTERVAL: Duration = Duration::from_secs(3);

/// What is left of it.
#[derive(Debug)]
pub(super) struct Allowance {
    events: u32,
    grown_at: Instant,
}

impl Allowance {
    pub(super) const fn full(now: Instant) -> Self {
        Self { events: EVENTS_MAX, grown_at: now }
    }

    pub(super) fn grow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.grown_at);
        let more = (passed.as_millis() / INTERVAL.as_millis()) as u32;
        self.grown_at += INTERVAL * more;
        self.events = self.events.saturating_add(more).min(EVENTS_MAX);
    }

    pub(super) const fn is_spent(&self) -> bool {
        self.events == 0
    }

    /// Takes one, which is there.
    pub(super) const fn spend(&mut self) {
        self.events = self.events.saturating_sub(1);
    }
}
