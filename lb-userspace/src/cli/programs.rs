//! `podway get programs`: where which program is attached.
use anyhow::Result;
use serde::Serialize;

use crate::attach::{AttachedProgram, Place};
use crate::snapshot::Reading;

use super::output::Row;

/// A program at a place.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProgramRow {
    program: String,
    mode: &'static str,
    interface: Option<String>,
    interface_index: Option<u32>,
    cgroup_inode: Option<u64>,
    /// A filter has none.
    link_id: Option<u32>,
    program_id: u32,
}

impl Row for ProgramRow {
    const HEADINGS: &'static [&'static str] = &["PROGRAM", "MODE", "ATTACHED TO", "LINK ID", "PROGRAM ID"];
    const WIDE_HEADINGS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let place = match (&self.interface, self.interface_index, self.cgroup_inode) {
            (Some(name), _, _) => name.clone(),
            (None, Some(index), _) => format!("interface {index}"),
            (None, None, Some(inode)) => format!("cgroup {inode}"),
            (None, None, None) => "-".to_owned(),
        };
        vec![
            self.program.clone(),
            self.mode.to_owned(),
            place,
            self.link_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            self.program_id.to_string(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The pinned links.
pub(super) fn programs(reading: &Reading) -> Result<Vec<ProgramRow>> {
    let row = |found: AttachedProgram| {
        let (interface_index, cgroup_inode) = match found.place {
            Place::Interface(index) => (Some(index), None),
            Place::Cgroup(inode) => (None, Some(inode)),
        };
        ProgramRow {
            program: found.program,
            mode: found.mode.name(),
            interface: found.interface,
            interface_index,
            cgroup_inode,
            link_id: found.link_id,
            program_id: found.program_id,
        }
    };
    Ok(reading.programs()?.into_iter().map(row).collect())
}
