//! The pins of the maps of flows, one for each place of CONNTRACK, made good before they are opened: a flow is kept as
//! long as its map is in a place or has a pin.
use std::cmp::Reverse;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, MapType};
use lb_common::conntrack::{CURRENT, Flow, FlowKey, PREVIOUS};
use lb_common::maps;
use tracing::warn;

use super::conntrack::{id_of, new_flow_table, pin_name};
use super::repair::{Found, look, remove};
use super::syscall;

/// Makes sure that there is a current map, of `entries_max` entries where it has to be made, and that what is in a place
/// has its pin; removes the pins of maps that are in no place: somebody was killed before or after using them.
///
/// # Errors
/// The kernel refuses.
pub(super) fn prepare(dir: &Path, entries_max: u32) -> Result<()> {
    let outer = MapData::from_pin(dir.join(maps::CONNTRACK))?;
    if syscall::map_id_at(&outer.fd(), CURRENT)?.is_none() {
        fill(&outer, dir, entries_max)?;
    }
    for place in [CURRENT, PREVIOUS] {
        if let Some(id) = syscall::map_id_at(&outer.fd(), place)? {
            keep(&outer, dir, place, id, entries_max)?;
        }
    }
    let used = [CURRENT, PREVIOUS].map(|place| syscall::map_id_at(&outer.fd(), place));
    let used = used.into_iter().collect::<std::io::Result<Vec<Option<u32>>>>()?;
    for (name, _) in pinned(dir)? {
        if !used.iter().flatten().any(|id| pin_name(*id) == name) {
            remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Puts maps into empty places: those whose pins are left, the newest first, else a new one.
fn fill(outer: &MapData, dir: &Path, entries_max: u32) -> Result<()> {
    let mut left = Vec::new();
    for (name, map) in pinned(dir)? {
        if let Some(map) = map.filter(is_flow_table) {
            left.push((Reverse(id_of(&map)?), name, map));
        }
    }
    left.sort_by_key(|(id, ..)| *id);
    if left.is_empty() {
        return put_new(outer, dir, entries_max);
    }
    for (place, (_, name, map)) in [CURRENT, PREVIOUS].into_iter().zip(&left) {
        warn!(pin = name, place, "a map of flows was in no place, and is used");
        syscall::set_map_at(&outer.fd(), place, &map.fd())?;
    }
    Ok(())
}

/// Makes sure that the map in a place has its pin. One that cannot be opened without it, for lack of CAP_SYS_ADMIN,
/// is given up with its flows.
fn keep(outer: &MapData, dir: &Path, place: u32, id: u32, entries_max: u32) -> Result<()> {
    let pin = dir.join(pin_name(id));
    if let Found::Map(map) = look(&pin)?
        && id_of(&map)? == id
    {
        return Ok(());
    }
    remove(&pin)?;
    match MapData::from_id(id) {
        Ok(map) => {
            warn!(pin = %pin.display(), "the pin of a map of flows was lost, and is made again");
            map.pin(&pin).with_context(|| format!("cannot pin map {}", pin.display()))
        }
        Err(error) if place == CURRENT => {
            warn!(pin = %pin.display(), %error, "the pin of the flows' map was lost; open flows are lost");
            put_new(outer, dir, entries_max)
        }
        Err(error) => {
            warn!(pin = %pin.display(), %error, "the pin of the former map of flows was lost, with some flows");
            Ok(syscall::clear_map_at(&outer.fd(), place)?)
        }
    }
}

fn put_new(outer: &MapData, dir: &Path, entries_max: u32) -> Result<()> {
    let map = new_flow_table(entries_max)?;
    map.pin(dir.join(pin_name(id_of(&map)?)))?;
    Ok(syscall::set_map_at(&outer.fd(), CURRENT, &map.fd())?)
}

/// What is pinned under the names of maps of flows.
pub(super) fn pinned(dir: &Path) -> Result<Vec<(String, Option<MapData>)>> {
    let mut pins = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(&format!("{}_", maps::CONNTRACK)))
        else {
            continue;
        };
        let map = match look(&dir.join(name))? {
            Found::Map(map) => Some(map),
            Found::Nothing | Found::Other(_) => None,
        };
        pins.push((name.to_owned(), map));
    }
    Ok(pins)
}

/// Whether a map is one of flows.
pub(super) fn is_flow_table(map: &MapData) -> bool {
    map.info().is_ok_and(|info| {
        matches!(info.map_type(), Ok(MapType::LruHash))
            && info.key_size() as usize == size_of::<FlowKey>()
            && info.value_size() as usize == size_of::<Flow>()
    })
}
