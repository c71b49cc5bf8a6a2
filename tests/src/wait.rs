//! Waiting for a condition with a deadline: the one place of the tests that sleeps.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at a condition. Short against every deadline in use, long against the
/// cost of the looks.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Returns once `condition` holds, which is looked at every 10 ms.
///
/// # Errors
/// The deadline passed first; the message names `what` was awaited.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    loop {
        if condition() {
            return Ok(());
        }
        if start.elapsed() >= deadline {
            bail!("waited {} ms in vain for: {what}", deadline.as_millis());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_when_the_condition_holds() {
        let mut looks = 0;
        wait_until(Duration::from_secs(5), "three looks", || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn names_what_did_not_come() {
        let error = wait_until(Duration::ZERO, "the end", || false).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 ms in vain for: the end");
    }
}
