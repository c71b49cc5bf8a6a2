//! What a known flow is still worth, and how far it is.
use lb_common::conntrack::{Flow, FlowState};
use lb_common::endpoint::Endpoint;

use crate::header::tcp;
use crate::parse::Parsed;

/// What to do with the entry that was found for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Go on with it.
    Good,
    /// It is over, or was never more than an attempt: choose as for a new flow.
    Over,
    /// Its endpoint is gone and the protocol has no connection to lose: choose again.
    EndpointGone,
    /// Its endpoint is gone and took the connection with it: the client must learn that.
    ConnectionGone,
}

/// Whether an entry in the direction to the endpoint still holds for this packet.
#[must_use]
#[inline(always)]
pub fn standing(flow: &Flow, endpoint: Option<&Endpoint>, parsed: &Parsed, now_s: u32) -> Standing {
    let idle_s = now_s.saturating_sub(flow.last_seen_s);
    if idle_s > flow.idle_timeout_s(parsed.key.protocol) {
        return Standing::Over;
    }
    let has_connection = parsed.has_connection();
    // A client may use its port again once the old connection is closing (RFC 9293 §3.6.1).
    if has_connection && parsed.opens_tcp() && flow.state() >= FlowState::Closing {
        return Standing::Over;
    }
    let is_same = endpoint
        .is_some_and(|endpoint| endpoint.is_present() && endpoint.generation == flow.endpoint_generation);
    let takes_new_flows = is_same && endpoint.is_some_and(Endpoint::takes_new_flows);
    if takes_new_flows {
        return Standing::Good;
    }
    // Only an attempt to open a connection, or a datagram, moves on; and SCTP once the endpoint's id is given
    // up, since it has no reset that could be sent without knowing the association (RFC 9260 §8.5).
    if !has_connection || parsed.opens_tcp() || (!is_same && !parsed.is_tcp()) {
        return Standing::EndpointGone;
    }
    // A TCP connection lives on with an endpoint that is draining, failing or withdrawn, until its id is
    // given up. A reset is no question (RFC 9293 §3.10.7.1): it goes where the connection went, so that
    // an endpoint that is still there forgets it too.
    if is_same || parsed.tcp_flags & tcp::RST != 0 {
        return Standing::Good;
    }
    Standing::ConnectionGone
}

/// The state after a packet in the entry's own direction; of SCTP, `tcp_flags` are what stands for them.
#[must_use]
#[inline(always)]
pub const fn next_state(state: FlowState, has_connection: bool, tcp_flags: u8) -> FlowState {
    if !has_connection {
        return FlowState::Established;
    }
    if tcp_flags & tcp::RST != 0 {
        return FlowState::Reset;
    }
    match state {
        FlowState::Superseded | FlowState::Reset | FlowState::Closing => state,
        FlowState::Opening | FlowState::Established if tcp_flags & tcp::FIN != 0 => FlowState::Closing,
        FlowState::Opening if tcp_flags & tcp::SYN != 0 => FlowState::Opening,
        FlowState::Opening | FlowState::Established => FlowState::Established,
    }
}

/// Whether a packet from an endpoint opens a connection although its flow is over, or is of one that did: the client has
/// dialled the endpoint itself, from a port that it used with a frontend before. A later connection by the frontend has
/// made its entries anew.
#[must_use]
#[inline(always)]
pub fn is_of_later_connection(known: &Flow, parsed: &Parsed) -> bool {
    let state = known.state();
    parsed.is_tcp()
        && (state == FlowState::Superseded || parsed.tcp_flags & tcp::SYN != 0 && state >= FlowState::Closing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_states_follow_the_flags_of_one_direction() {
        let next = |state, flags| next_state(state, true, flags);
        assert_eq!(next(FlowState::Opening, tcp::SYN), FlowState::Opening);
        assert_eq!(next(FlowState::Opening, tcp::SYN | tcp::ACK), FlowState::Opening);
        assert_eq!(next(FlowState::Opening, tcp::ACK), FlowState::Established);
        assert_eq!(next(FlowState::Established, tcp::ACK | tcp::FIN), FlowState::Closing);
        assert_eq!(next(FlowState::Closing, tcp::ACK), FlowState::Closing);
        assert_eq!(next(FlowState::Established, tcp::RST), FlowState::Reset);
        assert_eq!(next(FlowState::Reset, tcp::ACK), FlowState::Reset);
    }

    #[test]
    fn udp_is_established_from_its_first_datagram() {
        assert_eq!(next_state(FlowState::Opening, false, 0), FlowState::Established);
    }
}
