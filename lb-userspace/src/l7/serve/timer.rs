//! A deadline that moves with each piece of progress, and costs nothing while there is some.
use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::poll_fn;
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers of a thread that wait for the next request; further ones are given up.
const SPARE_MAX: usize = 256;

/// Tells when a deadline has passed without being set anew for each piece: it is looked at again when it fires.
#[derive(Debug, Default)]
pub(super) struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    /// Ready once `deadline` has passed. It may be another one than the last time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// Deadlines that go from request to request. One that fires for a request that has ended wakes a task for nothing, once
/// in the time that a request may take; to set and to clear a timer for each request would cost more.
#[derive(Debug, Default)]
pub(super) struct Deadlines(RefCell<Vec<Deadline>>);

impl Deadlines {
    /// What comes of `work`, if it ends before `until`. It is pinned where it is made: moved here it would take its room
    /// twice.
    pub(super) async fn within<T>(
        &self,
        until: Instant,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut deadline = self.0.borrow_mut().pop().unwrap_or_default();
        let outcome = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => deadline.poll(cx, until).map(|()| None),
        });
        let outcome = outcome.await;
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_MAX {
            spare.push(deadline);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::time::Duration;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn a_timer_that_an_earlier_request_left_does_not_end_the_next_one() {
        run(async {
            let deadlines = Deadlines::default();
            assert_eq!(deadlines.within(Instant::now() + SHORT, pin!(pending::<()>())).await, None);
            let until = Instant::now() + 3 * SHORT;
            assert_eq!(deadlines.within(until, pin!(pending::<()>())).await, None);
            assert!(Instant::now() >= until);
        });
    }

    #[test]
    fn a_timer_of_a_longer_request_ends_a_shorter_one_in_time() {
        run(async {
            let deadlines = Deadlines::default();
            let begun = Instant::now();
            // It waits once, so that its timer is set.
            assert_eq!(deadlines.within(begun + LONG, pin!(tokio::task::yield_now())).await, Some(()));
            assert_eq!(deadlines.within(Instant::now() + SHORT, pin!(pending::<()>())).await, None);
            assert!(begun.elapsed() < LONG);
        });
    }

    #[test]
    fn timers_are_kept_for_the_next_request() {
        run(async {
            let deadlines = Deadlines::default();
            for _ in 0..3 {
                assert_eq!(deadlines.within(Instant::now() + LONG, pin!(ready(7))).await, Some(7));
            }
            assert_eq!(deadlines.0.borrow().len(), 1);
        });
    }
}
