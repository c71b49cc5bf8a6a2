//! From the desired state and the tables as they are to the operations between them.
//!
//! Operations are ordered so that every prefix of them leaves the tables valid ([`Tables::check`]):
//! what is referred to is written first (endpoints, rings aside, the switch to them, backend services,
//! source ranges, VIPs, frontends) and deleted last (frontends, VIPs, source ranges, backend services,
//! NEGs, endpoints). So the one
//! who applies them may stop anywhere, be killed anywhere, and skip all that follows a failed one.
//!
//! [`Tables`] is a mirror of the maps. It changes by [`Tables::apply`] alone, called for each operation
//! that the kernel took. What failed is therefore still missing in it, and the next diff asks for it
//! again: nobody keeps a list of things to retry. Ids and ring space are chosen while diffing and
//! become taken by applying, so an operation that never happens takes nothing.
use std::collections::BTreeSet;

use crate::model::{ObjectName, Problem};
use crate::plan::Desired;

mod check;
mod draft;
mod drain;
mod name;
mod op;
mod ring_space;
mod source_ranges;
mod tables;
mod vips;

pub use check::Violation;
pub use name::StoredName;
pub use op::Op;
pub(crate) use op::range_text;

pub use tables::{Dump, Limits, Tables};

/// The way from the tables as they are to the desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// What to do, in this order.
    pub ops: Vec<Op>,
    /// Bounds that were met, each naming its Service; the rest goes on. Those of the Services that this
    /// diff looked at: what an earlier one said of others still holds.
    pub problems: Vec<Problem>,
    /// The Services that did not get all they want: diff them again when something was deleted or a
    /// second has passed.
    pub pending: BTreeSet<ObjectName>,
}

/// The way for all Services, and away from everything that no Service wants: for the start, when the
/// tables are a dump of the pinned maps. `now_ms` is the monotonic clock of the host, since withdrawn endpoints
/// carry its time over restarts; [`Tables::apply`] gets the same.
#[must_use]
pub fn full(desired: &Desired, tables: &Tables, now_ms: u64) -> Diff {
    let mut draft = draft::Draft::new(desired, tables, now_ms);
    draft.adopt_nameless();
    for plan in desired.services().values() {
        draft.service(&plan.name);
    }
    draft.delete_unwanted();
    draft.finish()
}

/// The end of drains: gives up the withdrawn endpoints whose deadline has passed, and those that `is_idle`
/// says have no flow left, with the backend services that nothing else keeps.
#[must_use]
pub fn drains(desired: &Desired, tables: &Tables, is_idle: &dyn Fn(u32) -> bool, now_ms: u64) -> Diff {
    let mut draft = draft::Draft::new(desired, tables, now_ms);
    draft.end_drains(is_idle);
    draft.finish()
}

/// The way for some Services, at their cost: those that [`Desired::replace`] named since the last diff,
/// and those that were pending.
#[must_use]
pub fn services<'a>(
    desired: &Desired,
    tables: &Tables,
    changed: impl IntoIterator<Item = &'a ObjectName>,
    now_ms: u64,
) -> Diff {
    let mut draft = draft::Draft::new(desired, tables, now_ms);
    for name in changed {
        draft.service(name);
    }
    draft.finish()
}

#[cfg(test)]
mod tests;
