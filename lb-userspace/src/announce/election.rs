//! Who announces a group of VIPs: one Lease, seen by one node. Pure: time is milliseconds of the node's own clock, and only
//! whether the Lease changes matters, so that clocks need not agree.
//!
//! The last write of a holder that dies is there [`WRITE_MAX_MS`] later at most. The first candidate takes the Lease when it
//! has seen no change for [`HOLDS_MS`], each further one [`RANK_WAIT_MS`] later; it looks every [`TICK_MS`] and its write
//! takes at most [`WRITE_MAX_MS`]. That is 1,950 ms for the last of three, below two seconds.
//!
//! A holder that cannot renew for [`GIVES_UP_MS`], before anybody else may begin, is no longer sure to be the one. It goes on
//! all the same until it sees another one: where the API server is away for all, nobody could take its place. Others that
//! cannot write begin their patience anew, so that after an outage the holder is the first.

/// Time between two renewals, milliseconds.
pub const RENEW_MS: u64 = 400;

/// Time without a renewal after which others may take the Lease, milliseconds.
pub const HOLDS_MS: u64 = 1_100;

/// Time after the begin of its last renewal in which a holder is the only one, milliseconds.
pub const GIVES_UP_MS: u64 = 900;

/// How much later than the candidate before it one takes the Lease, milliseconds: it finds it done.
pub const RANK_WAIT_MS: u64 = 100;

/// Time between two looks at what is due, milliseconds.
pub const TICK_MS: u64 = 50;

/// Longest wait for a write, milliseconds. A renewal that takes longer is begun anew.
pub const WRITE_MAX_MS: u64 = 300;

/// Wait after a write that failed, milliseconds.
const RETRY_MS: u64 = 100;

/// The Lease as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Empty where its holder gave it up.
    holder: String,
    version: String,
    /// When it was seen to change.
    changed_ms: u64,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A Lease of one's own; there is none.
    Create,
    /// One's own name over this version.
    Take(String),
    /// Nobody's name over this version.
    GiveUp(String),
}

/// What one node knows of one Lease.
#[derive(Clone, Debug, Default)]
pub struct Election {
    seen: Option<Seen>,
    /// When the last renewal that succeeded was begun.
    renewed_ms: Option<u64>,
    retry_ms: u64,
}

impl Election {
    /// What a node is to write now. `rank` is its place among those that may hold the Lease, none where it may not;
    /// `is_listed` says whether all Leases are known.
    #[must_use]
    pub fn act(&self, node: &str, rank: Option<usize>, is_listed: bool, now_ms: u64) -> Option<Act> {
        if now_ms < self.retry_ms {
            return None;
        }
        let Some(seen) = &self.seen else {
            return (is_listed && rank.is_some()).then_some(Act::Create);
        };
        let take = || Act::Take(seen.version.clone());
        let Some(rank) = rank else {
            return (seen.holder == node).then(|| Act::GiveUp(seen.version.clone()));
        };
        let patience_ms = match seen.holder.as_str() {
            // As after a restart, or after it could not be renewed for long and nobody took it.
            holder if holder == node => {
                let is_due = self.renewed_ms.is_none_or(|renewed_ms| now_ms >= renewed_ms + RENEW_MS);
                return is_due.then(take);
            }
            "" => 0,
            _ => HOLDS_MS,
        };
        (now_ms >= seen.changed_ms + patience_ms + rank as u64 * RANK_WAIT_MS).then(take)
    }

    /// The Lease was seen with this holder at a version.
    pub fn saw(&mut self, node: &str, holder: &str, version: &str, now_ms: u64) {
        if self.seen.as_ref().is_some_and(|seen| seen.version == version) {
            return;
        }
        if holder != node {
            self.renewed_ms = None;
        }
        let (holder, version) = (holder.to_owned(), version.to_owned());
        self.seen = Some(Seen { holder, version, changed_ms: now_ms });
    }

    /// The Lease is gone.
    pub fn lost(&mut self) {
        (self.seen, self.renewed_ms) = (None, None);
    }

    /// A write succeeded that was begun at `begun_ms`.
    pub fn wrote(&mut self, node: &str, act: &Act, version: &str, begun_ms: u64, now_ms: u64) {
        let is_held = !matches!(act, Act::GiveUp(_));
        let holder = if is_held { node } else { "" };
        self.seen = Some(Seen { holder: holder.to_owned(), version: version.to_owned(), changed_ms: now_ms });
        self.renewed_ms = is_held.then_some(begun_ms);
    }

    /// A write failed. Either another one was faster, which the watch tells, or the server is away, and that the holder does
    /// not renew says nothing. A Lease that cannot be made may be one that the watch does not tell of: it is tried less often.
    pub fn failed(&mut self, node: &str, now_ms: u64) {
        self.retry_ms = now_ms + if self.seen.is_some() { RETRY_MS } else { HOLDS_MS };
        if let Some(seen) = self.seen.as_mut().filter(|seen| seen.holder != node) {
            seen.changed_ms = now_ms;
        }
    }

    /// When the last renewal of a Lease was begun that nobody else is seen to have.
    #[must_use]
    pub const fn renewed_ms(&self) -> Option<u64> {
        self.renewed_ms
    }

    /// Whether the node that knows this is the only one that may announce now.
    #[must_use]
    pub fn is_held(&self, now_ms: u64) -> bool {
        self.renewed_ms.is_some_and(|renewed_ms| now_ms < renewed_ms + GIVES_UP_MS)
    }

    /// Who holds it as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.holder.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::CANDIDATES;

    /// A Lease on a server, and the nodes that look at it every tick. Writes take as long as they may.
    struct World {
        lease: (String, u64),
        nodes: Vec<(String, Election)>,
    }

    impl World {
        fn new() -> Self {
            let nodes = ["a", "b", "c"].map(|name| (name.to_owned(), Election::default()));
            Self { lease: (String::new(), 0), nodes: nodes.into() }
        }

        /// One tick of those that live, as they rank; a write is seen by all when it is over.
        fn tick(&mut self, live: &[usize], now_ms: u64) {
            for index in live {
                let (name, election) = &mut self.nodes[*index];
                let Some(act) = election.act(name, Some(*index), true, now_ms) else { continue };
                let done_ms = now_ms + WRITE_MAX_MS;
                let is_conflict = match &act {
                    Act::Create => self.lease.1 > 0,
                    Act::Take(version) | Act::GiveUp(version) => *version != self.lease.1.to_string(),
                };
                if is_conflict {
                    let name = name.clone();
                    election.failed(&name, now_ms);
                    continue;
                }
                self.lease = (name.clone(), self.lease.1 + 1);
                let (name, version) = (name.clone(), self.lease.1.to_string());
                election.wrote(&name, &act, &version, now_ms, done_ms);
                for other in live.iter().filter(|other| *other != index) {
                    let (own, election) = &mut self.nodes[*other];
                    election.saw(own, &name, &version, done_ms);
                }
            }
        }

        fn holders(&self, now_ms: u64) -> Vec<usize> {
            (0..self.nodes.len()).filter(|index| self.nodes[*index].1.is_held(now_ms)).collect()
        }
    }

    #[test]
    fn arithmetic_leaves_two_seconds_to_the_last_candidate() {
        let last = CANDIDATES as u64 - 1;
        let worst_ms = WRITE_MAX_MS + HOLDS_MS + last * RANK_WAIT_MS + TICK_MS + WRITE_MAX_MS;
        assert!(worst_ms <= 2_000, "{worst_ms}");
        const { assert!(GIVES_UP_MS < HOLDS_MS) };
        // A renewal may fail once and be tried again.
        const { assert!(RENEW_MS + WRITE_MAX_MS + TICK_MS < GIVES_UP_MS) };
    }

    #[test]
    fn another_node_announces_within_two_seconds_of_the_holders_death() {
        for died_ms in 2_000..2_000 + 2 * RENEW_MS {
            let mut world = World::new();
            let mut now_ms = 0;
            while now_ms < died_ms {
                world.tick(&[0, 1, 2], now_ms);
                now_ms += TICK_MS;
            }
            assert_eq!(world.nodes[0].1.holder(), Some("a"), "{died_ms}");
            // The first two die together: the last one finds nobody.
            while world.nodes[2].1.holder() != Some("c") {
                world.tick(&[2], now_ms);
                now_ms += TICK_MS;
            }
            let taken_ms = world.nodes[2].1.seen.as_ref().expect("a Lease").changed_ms;
            assert!(taken_ms - died_ms <= 2_000, "died at {died_ms}, taken at {taken_ms}");
            assert!(world.nodes[2].1.is_held(taken_ms));
        }
    }

    #[test]
    fn no_two_announce_when_the_holder_cannot_renew() {
        for away_ms in 2_000..2_000 + 2 * RENEW_MS {
            let mut world = World::new();
            let mut now_ms = 0;
            while now_ms < away_ms + 3_000 {
                // The first one runs on; what it writes and what others write does not get through.
                let live: &[usize] = if now_ms < away_ms { &[0, 1, 2] } else { &[1, 2] };
                world.tick(live, now_ms);
                assert!(world.holders(now_ms).len() < 2, "at {now_ms}, away at {away_ms}");
                now_ms += TICK_MS;
            }
            assert_eq!(world.holders(now_ms), [1], "away at {away_ms}");
        }
    }

    #[test]
    fn a_server_that_is_away_makes_nobody_impatient() {
        let mut election = Election::default();
        election.saw("b", "a", "7", 1_000);
        assert!(election.act("b", Some(0), true, 2_200).is_some());
        election.failed("b", 2_500);
        assert_eq!(
            election.act("b", Some(0), true, 3_599),
            None,
            "the holder may not have been able to renew"
        );
        assert!(election.act("b", Some(0), true, 3_600).is_some());
        // The holder itself tries again at once, and goes on meanwhile.
        let mut holder = Election::default();
        holder.wrote("a", &Act::Create, "7", 1_000, 1_010);
        holder.failed("a", 2_500);
        assert!(!holder.is_held(2_500) && holder.renewed_ms() == Some(1_000));
        assert_eq!(holder.act("a", Some(0), true, 2_600), Some(Act::Take("7".into())));
        holder.saw("a", "b", "8", 2_700);
        assert_eq!(holder.renewed_ms(), None);
    }

    #[test]
    fn a_lease_that_cannot_be_made_is_not_tried_without_a_pause() {
        let mut election = Election::default();
        assert_eq!(election.act("a", Some(0), true, 1_000), Some(Act::Create));
        election.failed("a", 1_010);
        assert_eq!(election.act("a", Some(0), true, 2_109), None);
        assert_eq!(election.act("a", Some(0), true, 2_110), Some(Act::Create));
    }

    #[test]
    fn a_lease_that_was_given_up_is_taken_at_once() {
        let mut election = Election::default();
        election.saw("b", "", "7", 1_000);
        assert_eq!(election.act("b", Some(0), true, 1_000), Some(Act::Take("7".into())));
        assert_eq!(election.act("b", Some(1), true, 1_000), None);
        assert_eq!(election.act("b", Some(1), true, 1_100), Some(Act::Take("7".into())));
    }

    #[test]
    fn a_holder_that_may_no_longer_gives_up_and_one_that_never_may_waits() {
        let mut election = Election::default();
        assert_eq!(election.act("a", Some(0), false, 0), None, "nothing is known yet");
        assert_eq!(election.act("a", Some(0), true, 0), Some(Act::Create));
        election.wrote("a", &Act::Create, "1", 0, 10);
        assert!(election.is_held(899) && !election.is_held(900));
        assert_eq!(election.act("a", None, true, 20), Some(Act::GiveUp("1".into())));
        election.wrote("a", &Act::GiveUp("1".into()), "2", 20, 30);
        assert!(!election.is_held(30));
        assert_eq!(election.act("a", None, true, 5_000), None);
    }

    #[test]
    fn a_holder_that_was_started_again_goes_on_at_once() {
        let mut election = Election::default();
        election.saw("a", "a", "4", 500);
        assert!(!election.is_held(500), "not before it has written");
        assert_eq!(election.act("a", Some(2), true, 500), Some(Act::Take("4".into())));
    }
}
