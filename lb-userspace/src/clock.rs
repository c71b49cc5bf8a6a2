//! The host's monotonic clock, which the programs read too (`CLOCK_MONOTONIC`): times in maps keep their
//! meaning over restarts of the agent.
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds.
#[must_use]
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Seconds, as map values hold them.
#[must_use]
pub fn now_s() -> u32 {
    (now_ms() / 1_000) as u32
}

/// Milliseconds since 1970; zero where the clock stands before.
#[must_use]
pub fn now_unix_ms() -> u64 {
    let now =
        std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}
