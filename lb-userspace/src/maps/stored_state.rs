//! An endpoint's state as ENDPOINTS has it, in one word.
use lb_common::endpoint::{Endpoint, state};

/// How an endpoint stands in the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredState {
    /// Takes new flows.
    Healthy,
    /// Takes a part of its share of new flows, which rises.
    Warming,
    /// Not ready, ejected, or fails its health check; in panic it takes new flows all the same.
    Unhealthy,
    /// Terminating; its flows go on.
    Draining,
    /// No slice names it; its flows go on.
    Withdrawn,
}

impl StoredState {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 5] =
        [Self::Healthy, Self::Warming, Self::Unhealthy, Self::Draining, Self::Withdrawn];

    /// The state of an endpoint; `None` where the id is not in use.
    #[must_use]
    pub const fn of(endpoint: &Endpoint) -> Option<Self> {
        let is_healthy = endpoint.takes_new_flows() && endpoint.state & state::PANIC == 0;
        Some(match () {
            () if !endpoint.is_present() => return None,
            () if endpoint.is_withdrawn() => Self::Withdrawn,
            () if endpoint.state & state::DRAINING != 0 => Self::Draining,
            () if is_healthy && endpoint.state & state::TURNED_AWAY != 0 => Self::Warming,
            () if is_healthy => Self::Healthy,
            () => Self::Unhealthy,
        })
    }

    /// The name in every output, stable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Warming => "warming",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Withdrawn => "withdrawn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_follows_from_the_bits() {
        use state::{DRAINING, HEALTHY, PANIC, PRESENT, WITHDRAWN, turned_away};
        let of = |state| StoredState::of(&Endpoint { state, ..Endpoint::default() });
        assert_eq!(of(HEALTHY), None);
        assert_eq!(of(PRESENT), Some(StoredState::Unhealthy));
        assert_eq!(of(PRESENT | HEALTHY), Some(StoredState::Healthy));
        assert_eq!(of(PRESENT | HEALTHY | turned_away(10)), Some(StoredState::Warming));
        assert_eq!(of(PRESENT | HEALTHY | PANIC), Some(StoredState::Unhealthy));
        assert_eq!(of(PRESENT | HEALTHY | DRAINING), Some(StoredState::Draining));
        assert_eq!(of(PRESENT | DRAINING | WITHDRAWN), Some(StoredState::Withdrawn));
    }
}
