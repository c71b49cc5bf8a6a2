//! `podway get pressure`: how full the maps are that programs fill.
use anyhow::Result;
use lb_common::affinity::AffinityKey;
use lb_common::conntrack::FlowKey;
use lb_common::fragment::FragmentKey;
use lb_common::socket_flow::SocketFlowKey;
use serde::Serialize;

use crate::maps::{Maps, Place, Traces};
use crate::sweep::Found;

use super::output::Row;

/// Entries that are read at once.
const BATCH_ENTRIES_MAX: usize = 4_096;

/// A map.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PressureRow {
    map: &'static str,
    entries: u32,
    entries_max: u32,
    percent: u32,
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
pub(super) fn pressure(maps: &mut Maps) -> Result<Vec<PressureRow>> {
    let is_growing = maps.is_growing();
    Ok(vec![
        PressureRow { growing: is_growing, ..row::<FlowKey>(maps)? },
        row::<AffinityKey>(maps)?,
        row::<SocketFlowKey>(maps)?,
        row::<FragmentKey>(maps)?,
    ])
}

fn row<K: Traces>(maps: &mut Maps) -> Result<PressureRow> {
    let mut found = Found { entries_max: maps.entries_max::<K>(), ..Found::default() };
    let mut place = Some(Place::default());
    while let Some(from) = place {
        let batch = maps.some_entries::<K>(from, BATCH_ENTRIES_MAX)?;
        found.entries += batch.entries.len() as u32;
        place = batch.next;
    }
    Ok(PressureRow {
        map: K::NAME,
        entries: found.entries,
        entries_max: found.entries_max,
        percent: found.pressure_percent(),
        growing: false,
    })
}
