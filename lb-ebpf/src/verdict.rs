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
    /// The frame was turned into an error for its sender: send it back where it came from.
    Answer(Reason),
    /// Rewritten: go on to the network stack.
    ToStack(Reason),
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
            Self::ToLink { reason, .. } | Self::ToNeighbour { reason, .. } => *reason,
        }
    }
}

/// A [`Verdict`] for memory. Every field always holds a value: the compiler leaves the unused part of an
/// enum as it was, and the verifier (6.18: "R2 !read_ok") refuses to copy that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settled {
    kind: Kind,
    reason: Reason,
    interface: u32,
}

/// A [`Verdict`] without what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Pass = 0,
    Drop,
    Answer,
    ToStack,
    ToLink,
    ToNeighbour,
}

impl From<Verdict> for Settled {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        let (kind, interface) = match verdict {
            Verdict::Pass(_) => (Kind::Pass, 0),
            Verdict::Drop(_) => (Kind::Drop, 0),
            Verdict::Answer(_) => (Kind::Answer, 0),
            Verdict::ToStack(_) => (Kind::ToStack, 0),
            Verdict::ToLink { interface, .. } => (Kind::ToLink, interface),
            Verdict::ToNeighbour { interface, .. } => (Kind::ToNeighbour, interface),
        };
        Self { kind, reason: verdict.reason(), interface }
    }
}

impl Settled {
    /// The verdict.
    #[inline(always)]
    pub const fn verdict(&self) -> Verdict {
        let Self { kind, reason, interface } = *self;
        match kind {
            Kind::Pass => Verdict::Pass(reason),
            Kind::Drop => Verdict::Drop(reason),
            Kind::Answer => Verdict::Answer(reason),
            Kind::ToStack => Verdict::ToStack(reason),
            Kind::ToLink => Verdict::ToLink { reason, interface },
            Kind::ToNeighbour => Verdict::ToNeighbour { reason, interface },
        }
    }
}
