//! Changes of EndpointSlices on their way to the maps, for the network programming latency.
//!
//! As kube-proxy counts it (`pkg/proxy/endpointschangetracker.go`): each change of a slice's endpoints or ports that
//! came after the start and says by what time it was triggered, until the Service is in the maps. A slice that goes
//! says nothing: its annotation is that of the change before.
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::model::{EndpointSlice, ObjectName};

/// Changes of one Service that wait. Of more, while the kernel refuses it, the first are measured.
const CHANGES_PER_SERVICE_MAX: usize = 64;

/// Changes that are not in the maps yet.
#[derive(Debug)]
pub(super) struct Programming {
    started: SystemTime,
    waiting: BTreeMap<ObjectName, Vec<SystemTime>>,
}

impl Programming {
    /// Of an agent that starts now.
    pub(super) fn new(started: SystemTime) -> Self {
        Self { started, waiting: BTreeMap::new() }
    }

    /// Notes a slice in place of the one that was known.
    pub(super) fn note(
        &mut self,
        service: &ObjectName,
        slice: &EndpointSlice,
        former: Option<&EndpointSlice>,
    ) {
        let is_same = |former: &EndpointSlice| {
            former.service == slice.service
                && former.endpoints == slice.endpoints
                && former.ports == slice.ports
        };
        let Some(trigger_ms) = slice.change_trigger_unix_ms.filter(|_| !former.is_some_and(is_same)) else {
            return;
        };
        let trigger = SystemTime::UNIX_EPOCH + Duration::from_millis(trigger_ms);
        if trigger > self.started {
            let changes = self.waiting.entry(service.clone()).or_default();
            if changes.len() < CHANGES_PER_SERVICE_MAX {
                changes.push(trigger);
            }
        }
    }

    /// The times that the changes took of all Services but those that are pending, which go on waiting. A trigger of
    /// a clock that is ahead took no time.
    pub(super) fn applied(
        &mut self,
        is_pending: impl Fn(&ObjectName) -> bool,
        now: SystemTime,
    ) -> Vec<Duration> {
        let mut took = Vec::new();
        self.waiting.retain(|service, changes| {
            let waits = is_pending(service);
            if !waits {
                took.extend(changes.iter().map(|trigger| now.duration_since(*trigger).unwrap_or_default()));
            }
            waits
        });
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn slice(address: &str, trigger_s: u64) -> EndpointSlice {
        let slice = fixture::slice("cart-1", "cart", vec![fixture::ready(address, "node-a")]);
        EndpointSlice { change_trigger_unix_ms: Some(trigger_s * 1_000), ..EndpointSlice::clone(&slice) }
    }

    #[test]
    fn change_takes_from_its_trigger_to_the_apply() {
        let (cart, web) = (ObjectName::new("shop", "cart"), ObjectName::new("shop", "web"));
        let mut programming = Programming::new(at(10));
        programming.note(&cart, &slice("10.4.2.9", 11), None);
        programming.note(&cart, &slice("10.4.2.8", 12), Some(&slice("10.4.2.9", 11)));
        programming.note(&web, &slice("10.4.2.9", 13), None);
        assert_eq!(programming.applied(|service| *service == web, at(14)), [3, 2].map(Duration::from_secs));
        assert_eq!(programming.applied(|_| false, at(15)), [Duration::from_secs(2)], "once, and later");
        assert_eq!(programming.applied(|_| false, at(16)), [Duration::ZERO; 0]);
    }

    #[test]
    fn what_was_before_the_start_or_changes_no_endpoint_is_not_measured() {
        let cart = ObjectName::new("shop", "cart");
        let mut programming = Programming::new(at(10));
        programming.note(&cart, &slice("10.4.2.9", 10), None);
        programming.note(&cart, &slice("10.4.2.9", 12), Some(&slice("10.4.2.9", 11)));
        let untold = EndpointSlice { change_trigger_unix_ms: None, ..slice("10.4.2.9", 0) };
        programming.note(&cart, &untold, None);
        assert_eq!(programming.applied(|_| false, at(20)), [Duration::ZERO; 0]);
    }

    #[test]
    fn clock_that_is_ahead_makes_no_negative_time_and_waiting_changes_are_bounded() {
        let cart = ObjectName::new("shop", "cart");
        let mut programming = Programming::new(at(10));
        for _ in 0..=CHANGES_PER_SERVICE_MAX {
            programming.note(&cart, &slice("10.4.2.9", 30), None);
        }
        assert_eq!(programming.applied(|_| false, at(20)), [Duration::ZERO; CHANGES_PER_SERVICE_MAX]);
    }
}
