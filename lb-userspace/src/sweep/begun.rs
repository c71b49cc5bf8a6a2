//! How flows began, by what their packets left in CONNTRACK: signals about the endpoints.
use std::collections::BTreeSet;

use lb_common::conntrack::{Direction, Flow, FlowKey, FlowState, flags};
use lb_common::protocol::UDP;

use crate::health::Signal;

/// Time that an endpoint has for its first answer: a SYN is repeated after one second and after two more
/// (RFC 6298 §2.1, §5.5), so one lost packet is no silence.
pub const ANSWER_TIMEOUT_S: u32 = 3;

/// Which flows a pass judges: those of these backend services that began after the one second and up to the other,
/// each of them once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Ids of backend services.
    pub backend_services: BTreeSet<u32>,
    /// Seconds of the monotonic clock.
    pub after_s: u32,
    /// Seconds of the monotonic clock.
    pub until_s: u32,
}

/// How a flow began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Begun {
    /// When, seconds of the monotonic clock.
    pub created_s: u32,
    /// What became of it; answers are the last of a second.
    pub signal: Signal,
    /// The endpoint's id when the flow began.
    pub endpoint: u32,
    /// Its generation then.
    pub endpoint_generation: u32,
}

impl Watch {
    /// What became of a flow that this looks at, by its entry to the client. Without such an entry, as with direct
    /// server return, nothing is known.
    pub(super) fn judge(&self, key: &FlowKey, flow: &Flow) -> Option<Begun> {
        let is_in = flow.created_s > self.after_s && flow.created_s <= self.until_s;
        let is_reply = flow.direction() == Direction::ToClient;
        if !is_in || !is_reply || !self.backend_services.contains(&flow.backend_service) {
            return None;
        }
        let signal = match (flow.flags, flow.state()) {
            (bits, _) if bits & flags::ANSWERED != 0 => Signal::Answered,
            (bits, _) if bits & flags::UNREACHABLE != 0 => Signal::Unreachable,
            // Whoever sends datagrams need not ask anything.
            _ if key.protocol == u32::from(UDP) => return None,
            (_, FlowState::Reset) => Signal::Refused,
            (_, FlowState::Opening) => Signal::Unanswered,
            (_, FlowState::Established | FlowState::Closing | FlowState::Superseded) => return None,
        };
        let Flow { created_s, endpoint, endpoint_generation, .. } = *flow;
        Some(Begun { created_s, signal, endpoint, endpoint_generation })
    }
}

#[cfg(test)]
mod tests {
    use lb_common::protocol::TCP;
    use lb_common::{Address, Be16};

    use super::*;

    fn key(protocol: u8) -> FlowKey {
        FlowKey {
            source: Address::v4([192, 0, 2, 1]),
            destination: Address::v4([198, 51, 100, 1]),
            source_port: Be16::new(40_000),
            destination_port: Be16::new(80),
            protocol: u32::from(protocol),
        }
    }

    /// Of a flow of a backend service that began in a second.
    fn entry(bits: u32, state: FlowState, backend_service: u32, created_s: u32) -> Flow {
        Flow { flags: bits, state: state as u32, backend_service, created_s, ..bytemuck::Zeroable::zeroed() }
    }

    /// What is judged of the entry to the client of a connection that began in second 50.
    fn judged(protocol: u8, state: FlowState, bits: u32) -> Option<Signal> {
        let watch = Watch { backend_services: [7].into(), after_s: 49, until_s: 50 };
        let flow = entry(flags::TO_CLIENT | bits, state, 7, 50);
        watch.judge(&key(protocol), &flow).map(|begun| begun.signal)
    }

    #[test]
    fn connection_is_judged_by_the_endpoints_first_answer() {
        assert_eq!(judged(TCP, FlowState::Opening, 0), Some(Signal::Unanswered));
        assert_eq!(judged(TCP, FlowState::Reset, 0), Some(Signal::Refused));
        assert_eq!(judged(TCP, FlowState::Opening, flags::UNREACHABLE), Some(Signal::Unreachable));
        assert_eq!(judged(TCP, FlowState::Opening, flags::ANSWERED), Some(Signal::Answered));
        assert_eq!(judged(TCP, FlowState::Reset, flags::ANSWERED), Some(Signal::Answered));
    }

    #[test]
    fn datagrams_need_no_answer() {
        assert_eq!(judged(UDP, FlowState::Established, 0), None);
        assert_eq!(judged(UDP, FlowState::Established, flags::UNREACHABLE), Some(Signal::Unreachable));
        assert_eq!(judged(UDP, FlowState::Established, flags::ANSWERED), Some(Signal::Answered));
    }

    #[test]
    fn each_flow_is_judged_in_one_pass() {
        let passes = [(40, 50), (50, 60), (60, 70)];
        for (created_s, expected) in [(40, 0), (41, 1), (50, 1), (51, 1), (70, 1), (71, 0)] {
            let flow = entry(flags::TO_CLIENT, FlowState::Opening, 7, created_s);
            let judged = passes.iter().filter(|(after_s, until_s)| {
                let watch = Watch { backend_services: [7].into(), after_s: *after_s, until_s: *until_s };
                watch.judge(&key(TCP), &flow).is_some()
            });
            assert_eq!(judged.count(), expected, "{created_s}");
        }
    }

    #[test]
    fn only_watched_services_and_entries_to_the_client_are_judged() {
        let watch = Watch { backend_services: [7].into(), after_s: 0, until_s: 100 };
        let of = |bits, backend_service| entry(bits, FlowState::Opening, backend_service, 50);
        assert!(watch.judge(&key(TCP), &of(flags::TO_CLIENT, 7)).is_some());
        assert_eq!(watch.judge(&key(TCP), &of(0, 7)), None);
        assert_eq!(watch.judge(&key(TCP), &of(flags::TO_CLIENT, 8)), None);
        let of_other_node = of(flags::TO_CLIENT | flags::DSR, lb_common::conntrack::NO_ID);
        assert_eq!(watch.judge(&key(TCP), &of_other_node), None);
    }
}
