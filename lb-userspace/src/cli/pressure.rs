//! `podway get pressure`: how full the maps are that programs fill.
use anyhow::Result;
use lb_common::maps;
use serde::Serialize;

use crate::maps::Occupancy;
use crate::snapshot::Reading;

use super::output::Row;

/// A map.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PressureRow {
    map: &'static str,
    entries: u64,
    entries_max: u64,
    percent: u64,
    growing: bool,
}

impl Row for PressureRow {
    const HEADINGS: &'static [&'static str] = &["MAP", "ENTRIES", "BOUND", "PRESSURE", "GROWING"];
    const WIDE_HEADINGS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.map.to_owned(),
            self.entries.to_string(),
            self.entries_max.to_string(),
            format!("{}%", self.percent),
            if self.growing { "yes" } else { "no" }.to_owned(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The maps, each counted by a walk. Entries that are over count until they are swept.
pub(super) fn pressure(reading: &Reading) -> Result<Vec<PressureRow>> {
    let row = |(map, found): (&'static str, Occupancy)| PressureRow {
        map,
        entries: found.entries,
        entries_max: found.entries_max,
        percent: found.percent(),
        growing: map == maps::CONNTRACK && reading.is_growing(),
    };
    Ok(reading.trace_occupancy()?.map(row).into())
}
