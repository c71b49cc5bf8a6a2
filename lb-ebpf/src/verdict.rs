//! What becomes of a packet.
use lb_common::counters::Reason;

/// What a hook must do with a packet; each carries the one reason that is counted for it. Aligned, as
/// all that a kernel program returns through its stack.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(8))]
pub enum Verdict {
    /// Untouched: go on as if Podway were not there.
    Pass(Reason),
    /// Discard.
    Drop(Reason),
    /// A copy was kept, to be brought again: discard.
    Hold(Reason),
    /// The frame was turned into an error for its sender: send it back where it came from.
    Answer(Reason),
    /// Rewritten: go on to the network stack.
    ToStack(Reason),
    /// Rewritten on its way out, and for this node itself: bring it in by the interface that it was about
    /// to leave by.
    ToSelf(Reason),
    /// Rewritten, Ethernet addresses too: send it out of `interface`.
    ToLink {
        /// Why.
        reason: Reason,
        /// Interface index.
        interface: u32,
    },
    /// Rewritten but for the Ethernet addresses: send it out of `interface`, the kernel resolves the
    /// next hop.
    ToNeighbour {
        /// Why.
        reason: Reason,
        /// Interface index.
        interface: u32,
    },
}

impl Verdict {
    /// The reason that is counted.
    #[must_use]
    #[inline(always)]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Pass(reason) | Self::Drop(reason) | Self::Answer(reason) | Self::ToStack(reason) => *reason,
            Self::ToSelf(reason) | Self::Hold(reason) => *reason,
            Self::ToLink { reason, .. } | Self::ToNeighbour { reason, .. } => *reason,
        }
    }
}
