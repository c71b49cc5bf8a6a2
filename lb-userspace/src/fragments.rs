//! Later fragments that came before their first one, for as long as they may still find it.
use std::collections::VecDeque;

use lb_common::fragment::{FragmentKey, HeldFrame, HeldWay};
use lb_ebpf::host::HostFrame;
use lb_ebpf::parse::parse;
use lb_ebpf::path::fragment_key;

/// Bound on fragments that wait. At the bound the one that has waited longest is lost: what a network has
/// put out of order comes within milliseconds.
pub const WAITING_MAX: usize = 1_024;
/// Longest wait; then the fragment is lost.
pub const WAIT_MS_MAX: u64 = 1_000;

/// A fragment that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Index of the interface at which it was held.
    pub interface: u32,
    /// Which way it went.
    pub way: HeldWay,
    /// The frame.
    pub bytes: Vec<u8>,
    key: FragmentKey,
    until_ms: u64,
}

/// The fragments that wait, the one that has waited longest first.
#[derive(Debug, Default)]
pub struct Waiting {
    fragments: VecDeque<Fragment>,
    lost: u64,
}

impl Waiting {
    /// Takes a frame as the programs held it.
    pub fn hold(&mut self, frame: &HeldFrame, now_ms: u64) {
        let bytes = frame.bytes.get(..frame.length_bytes as usize).unwrap_or_default();
        let packet = HostFrame(bytes.to_vec());
        let key = parse(&packet).ok().and_then(|parsed| fragment_key(&packet, &parsed));
        let (Some(key), Some(way)) = (key, HeldWay::from_raw(frame.way)) else {
            self.lost += 1;
            return;
        };
        let until_ms = now_ms + WAIT_MS_MAX;
        let interface = frame.interface;
        self.fragments.push_back(Fragment { interface, way, bytes: packet.0, key, until_ms });
        if self.fragments.len() > WAITING_MAX {
            self.fragments.pop_front();
            self.lost += 1;
        }
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fragments.is_empty()
    }

    /// Gives those whose first fragment has come, and loses those that have waited too long.
    pub fn release(&mut self, now_ms: u64, mut is_known: impl FnMut(&FragmentKey) -> bool) -> Vec<Fragment> {
        let (known, waiting): (Vec<_>, Vec<_>) =
            self.fragments.drain(..).partition(|fragment| is_known(&fragment.key));
        let before = waiting.len();
        self.fragments = waiting.into_iter().filter(|fragment| fragment.until_ms > now_ms).collect();
        self.lost += (before - self.fragments.len()) as u64;
        known
    }

    /// How many were lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::fragment::HELD_FRAME_BYTES_MAX;

    use super::*;

    /// The second fragment of a UDP datagram from 203.0.113.7 to 198.51.100.10.
    fn later(identification: u16) -> HeldFrame {
        let [i0, i1] = identification.to_be_bytes();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 28, i0, i1, 0, 1, 64, 17, 0, 0, 203, 0, 113, 7, 198, 51, 100, 10]);
        frame.extend([7; 8]);
        let mut bytes = [0; HELD_FRAME_BYTES_MAX];
        bytes[..frame.len()].copy_from_slice(&frame);
        let way = HeldWay::LeavingNode as u32;
        HeldFrame { length_bytes: frame.len() as u32, interface: 3, way, bytes }
    }

    fn ids(fragments: &[Fragment]) -> Vec<u32> {
        fragments.iter().map(|fragment| fragment.key.identification).collect()
    }

    #[test]
    fn fragment_waits_until_its_first_one_is_known() {
        let mut waiting = Waiting::default();
        waiting.hold(&later(1), 0);
        waiting.hold(&later(2), 0);
        assert!(waiting.release(5, |_| false).is_empty());
        let given = waiting.release(10, |key| key.identification == 2);
        assert_eq!(ids(&given), [2]);
        assert_eq!((given[0].interface, given[0].bytes.len()), (3, 42));
        assert_eq!(given[0].way, HeldWay::LeavingNode);
        assert_eq!(ids(&waiting.release(15, |_| true)), [1]);
        assert_eq!(waiting.take_lost(), 0);
    }

    #[test]
    fn fragment_that_waits_too_long_is_lost() {
        let mut waiting = Waiting::default();
        waiting.hold(&later(1), 100);
        assert!(waiting.release(1_099, |_| false).is_empty());
        assert!(!waiting.is_empty());
        assert!(waiting.release(1_100, |_| false).is_empty());
        assert!(waiting.is_empty());
        assert_eq!((waiting.take_lost(), waiting.take_lost()), (1, 0));
    }

    #[test]
    fn at_the_bound_the_one_that_has_waited_longest_is_lost() {
        let mut waiting = Waiting::default();
        (0..1_025).for_each(|id| waiting.hold(&later(id), 0));
        assert_eq!(waiting.take_lost(), 1);
        let given = waiting.release(1, |_| true);
        assert_eq!((given.len(), ids(&given[..1])), (1_024, vec![1]));
    }

    #[test]
    fn frame_that_is_no_packet_is_lost() {
        let mut waiting = Waiting::default();
        waiting.hold(&HeldFrame { length_bytes: 3_000, ..later(1) }, 0);
        waiting.hold(&HeldFrame { way: 3, ..later(1) }, 0);
        assert!(waiting.is_empty());
        assert_eq!(waiting.take_lost(), 2);
    }
}
