//! The source ranges of a backend service: new ones are put before the frontends that check them, and
//! those that are no longer wanted are deleted last, so that nobody who may come in is kept out at any
//! moment. Only the ranges that differ are written.
use std::collections::BTreeSet;

use lb_common::source_range::SourceRangeKey;

use crate::plan;

use super::Op;
use super::draft::Draft;

/// The operations for source ranges.
#[derive(Debug, Default)]
pub(super) struct RangeOps {
    pub(super) put: Vec<Op>,
    pub(super) delete: Vec<Op>,
}

impl Draft<'_> {
    /// Ranges past the bound are not written: their clients are refused, as by a range that is missing.
    pub(super) fn source_ranges(&mut self, id: u32, plan: &plan::BackendService) {
        let wanted: BTreeSet<SourceRangeKey> = plan
            .source_ranges
            .iter()
            .map(|(network, bits)| SourceRangeKey::of_range(id, &(*network).into(), *bits))
            .collect();
        let former = self.tables.source_ranges_of(id);
        let limit = self.tables.limits().source_ranges_max;
        let used = self.tables.source_ranges_used() + self.ranges.put.len() as u32;
        let free = limit.saturating_sub(used) as usize;
        let mut new: Vec<Op> =
            wanted.difference(former).map(|key| Op::PutSourceRange { key: *key }).collect();
        let without_place = new.len().saturating_sub(free);
        new.truncate(free);
        self.ranges.put.extend(new);
        let gone = former.difference(&wanted).map(|key| Op::DeleteSourceRange { key: *key });
        self.ranges.delete.extend(gone);
        if without_place > 0 {
            let (name, all) = (&plan.name, wanted.len());
            let full = format!("map SOURCE_RANGES is full ({limit} entries); raise --source-ranges-max");
            let message = format!(
                "cannot put {without_place} of the {all} source ranges of {name}, whose clients are refused: {full}"
            );
            self.bound(&name.service, message);
        }
    }

    /// All ranges of a backend service that goes.
    pub(super) fn delete_source_ranges(&mut self, id: u32) {
        let gone = self.tables.source_ranges_of(id).iter();
        self.ranges.delete.extend(gone.map(|key| Op::DeleteSourceRange { key: *key }));
    }
}
