//! CONNTRACK in the kernel: the map that flows are entered into and, while it grows, the one before.
//!
//! Each map has a pin of its own, `CONNTRACK_ID`, made before it is put into the map of maps and removed
//! after it is taken out: so it is found without the right to open any map by its id.
//!
//! Growing, each step leaving every flow where a program finds it:
//! 1. The larger map is made and pinned.
//! 2. It becomes the current one, the former one the previous. A program that misses a flow looks in the
//!    previous map and moves what it finds there. Both places are written apart, the previous one first: so
//!    a former map is in both for a moment.
//! 3. All flows are moved in batches, none over one that is there already: a program was faster, and has
//!    noted something in it since.
//! 4. The previous map is taken out.
//!
//! Whoever is killed between leaves a state that the next one goes on from.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData, MapError};
use lb_common::conntrack::{CURRENT, Flow, FlowKey, PREVIOUS};
use lb_common::maps;

use super::syscall::{self, Cursor};
use super::table::HashTable;

/// Entries that are moved by one call.
const MOVE_ENTRIES_MAX: usize = 4_096;

/// The open maps of CONNTRACK.
pub(super) struct Conntrack {
    dir: PathBuf,
    outer: MapData,
    current: FlowTable,
    previous: Option<FlowTable>,
    moved_to: Cursor,
}

/// One map of flows.
struct FlowTable {
    id: u32,
    table: HashTable<FlowKey, Flow>,
}

/// Makes a map of flows of `entries_max` entries.
///
/// # Errors
/// No memory, or no permission.
pub fn new_flow_table(entries_max: u32) -> Result<MapData> {
    let made = syscall::create_lru_hash::<FlowKey, Flow>(maps::CONNTRACK, entries_max);
    let fd = made.with_context(|| format!("cannot make a map of {entries_max} flows"))?;
    Ok(MapData::from_fd(fd)?)
}

/// The pin of a map of flows by its id.
pub(super) fn pin_name(id: u32) -> String {
    format!("{}_{id}", maps::CONNTRACK)
}

/// The kernel's id of a map.
pub(super) fn id_of(map: &MapData) -> Result<u32> {
    Ok(map.info().context("cannot ask the kernel about a map")?.id())
}

impl FlowTable {
    fn open(dir: &Path, id: u32) -> Result<Self> {
        Ok(Self { id, table: HashTable::open(dir, &pin_name(id))? })
    }

    fn of(map: MapData) -> Result<Self> {
        let id = id_of(&map)?;
        let table = HashTable::of(Map::from_map_data(map)?, maps::CONNTRACK)?;
        Ok(Self { id, table })
    }
}

impl Conntrack {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let Map::ArrayOfMaps(outer) = super::table::open(dir, maps::CONNTRACK)? else {
            anyhow::bail!("map {} is no array of maps", maps::CONNTRACK);
        };
        let id_at = |slot| syscall::map_id_at(&outer.fd(), slot).context("cannot read map CONNTRACK");
        let current = id_at(CURRENT)?.context("map CONNTRACK has no current map; start an agent")?;
        let current = FlowTable::open(dir, current)?;
        // Its pin may go while it is looked for: then all its flows are in the current map.
        let previous = id_at(PREVIOUS)?.filter(|id| dir.join(pin_name(*id)).exists());
        let previous = previous.map(|id| FlowTable::open(dir, id)).transpose()?;
        Ok(Self { dir: dir.to_owned(), current, previous, outer, moved_to: Cursor::default() })
    }

    /// The map that flows are entered into.
    pub(super) fn current(&mut self) -> &mut HashTable<FlowKey, Flow> {
        &mut self.current.table
    }

    /// The map that flows are entered into, for reading.
    pub(super) fn current_table(&self) -> &HashTable<FlowKey, Flow> {
        &self.current.table
    }

    pub(super) fn get(&self, key: &FlowKey) -> Result<Option<Flow>, MapError> {
        match (self.current.table.get(key)?, &self.previous) {
            (None, Some(previous)) => previous.table.get(key),
            (found, _) => Ok(found),
        }
    }

    /// All entries; of one that is in both maps the current one.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<(FlowKey, Flow), MapError>> {
        let is_unmoved = |found: &Result<(FlowKey, Flow), MapError>| match found {
            Ok((key, _)) => !matches!(self.current.table.get(key), Ok(Some(_))),
            Err(_) => true,
        };
        let previous = self.previous.iter().flat_map(|previous| previous.table.entries());
        self.current.table.entries().chain(previous.filter(is_unmoved))
    }

    /// Whether flows are still to be moved.
    pub(super) fn is_growing(&self) -> bool {
        self.previous.is_some()
    }

    /// Begins to grow: steps 1 and 2.
    pub(super) fn grow(&mut self, entries_max: u32) -> Result<()> {
        ensure!(self.previous.is_none(), "CONNTRACK is growing already");
        let map = new_flow_table(entries_max)?;
        let pin = self.dir.join(pin_name(id_of(&map)?));
        map.pin(&pin).with_context(|| format!("cannot pin map {}", pin.display()))?;
        let outer = self.outer.fd();
        let cannot = "cannot switch CONNTRACK to a larger map";
        syscall::set_map_at(&outer, PREVIOUS, &self.current.table.fd()).context(cannot)?;
        syscall::set_map_at(&outer, CURRENT, &map.fd()).context(cannot)?;
        self.previous = Some(std::mem::replace(&mut self.current, FlowTable::of(map)?));
        self.moved_to = Cursor::default();
        Ok(())
    }

    /// Moves some flows (step 3) and, after the last ones, takes the previous map out (step 4); how many
    /// entries were looked at.
    pub(super) fn move_some(&mut self) -> Result<usize> {
        let Some(previous) = self.previous.take_if(|previous| previous.id == self.current.id) else {
            return self.move_batch();
        };
        // Somebody was killed after writing the first of the two places.
        drop(previous);
        self.clear_previous(None)?;
        Ok(0)
    }

    fn move_batch(&mut self) -> Result<usize> {
        let Some(previous) = &self.previous else { return Ok(0) };
        let batch = previous.table.batch(self.moved_to, MOVE_ENTRIES_MAX).context("cannot read CONNTRACK")?;
        for (key, value) in batch.keys.iter().zip(&batch.values) {
            let moved = self.current.table.put_new(key, value);
            moved.context("cannot move flows to the larger CONNTRACK")?;
        }
        match batch.next {
            Some(next) => self.moved_to = next,
            None => {
                let id = self.previous.take().map(|previous| previous.id);
                self.clear_previous(id)?;
            }
        }
        Ok(batch.keys.len())
    }

    fn clear_previous(&mut self, id: Option<u32>) -> Result<()> {
        let cleared = syscall::clear_map_at(&self.outer.fd(), PREVIOUS);
        cleared.context("cannot take the former map out of CONNTRACK")?;
        if let Some(id) = id {
            let pin = self.dir.join(pin_name(id));
            std::fs::remove_file(&pin).with_context(|| format!("cannot remove {}", pin.display()))?;
        }
        Ok(())
    }
}
