//! Pins of other layout versions.
//!
//! Of an older one the maps get a second pin, in the folder of this layout, wherever they are as this layout has them:
//! so the programs of the former agent and the new ones work on the same entries while one follows the other. What
//! differs is converted. Then the links are moved, each by a rename, so that no hook is without a program, and get the
//! new programs as any next agent gives them. The former folder goes last. Whoever is killed between leaves a state that
//! the next one goes on from.
//!
//! Of a newer one nobody here can tell what its maps mean, so its programs are left alone.
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use lb_common::counters::Reason;
use lb_common::maps::{self, LAYOUT_VERSION};
use tracing::{info, warn};

use super::conntrack::{id_of, pin_name};
use super::flow_pins::{is_flow_table, pinned};
use super::layout::shapes;
use super::repair::{Found, difference, look, remove};
use super::table::PerCpuTable;
use super::{Maps, Pins, Sizes};

/// Brings what a map in the former folder of maps holds to those of this layout.
type Convert = fn(&Path, &mut Maps) -> Result<()>;

/// What this version knows of an older layout.
struct Layout {
    version: u32,
    /// The map that this layout has otherwise, and what brings its content there.
    converted: (&'static str, Convert),
}

/// The older layouts whose maps are taken over.
const KNOWN: [Layout; 1] = [Layout { version: 2, converted: (maps::REASONS, convert_reasons_2) }];

/// Maps of an older layout that are in use now.
pub(super) struct TakenOver {
    dir: PathBuf,
    /// None where that is done: the map of this layout was there before.
    convert: Option<Convert>,
}

/// Pins the maps of the newest older layout for this one too; `None` where there is none to be taken over.
///
/// # Errors
/// Programs of a newer layout are attached, or a pin cannot be made.
pub(super) fn take_over(pins: &Pins, sizes: &Sizes) -> Result<Option<TakenOver>> {
    refuse_newer(pins)?;
    let Some((version, dir)) = pins.older()?.pop() else { return Ok(None) };
    let Some(layout) = KNOWN.iter().find(|layout| layout.version == version) else {
        warn!(layout = version, "the maps of this older layout are not known any more; open flows are lost");
        return Ok(None);
    };
    let former = dir.join("maps");
    let (name, convert) = layout.converted;
    let convert = matches!(look(&pins.map(name))?, Found::Nothing).then_some(convert);
    for shape in shapes(sizes) {
        let (from, to) = (former.join(shape.name), pins.map(shape.name));
        let Found::Map(map) = look(&from)? else { continue };
        if difference(&map, &shape)?.is_some() {
            if shape.name == maps::CONNTRACK && is_flow_table(&map) {
                // Before it could grow: the map of flows itself.
                pin_also(&map, &pins.map(&pin_name(id_of(&map)?)))?;
            }
            continue;
        }
        pin_also(&map, &to)?;
    }
    if former.exists() {
        for (name, map) in pinned(&former)? {
            map.map_or(Ok(()), |map| pin_also(&map, &pins.map(&name)))?;
        }
    }
    info!(from = version, to = LAYOUT_VERSION, "took the maps of an older layout over");
    Ok(Some(TakenOver { dir: former, convert }))
}

impl TakenOver {
    /// Brings what the older maps hold to those that this layout has otherwise.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub(super) fn convert(&self, maps: &mut Maps) -> Result<()> {
        let Some(convert) = self.convert else { return Ok(()) };
        convert(&self.dir, maps).with_context(|| format!("cannot convert the maps in {}", self.dir.display()))
    }
}

/// The reason that layout 3 has and layout 2 had not; the numbers of those behind it are greater by one.
const NEW_REASON_2: u32 = Reason::PassReply as u32;
/// REASONS of layout 2.
const REASONS_2: u32 = 31;

/// Layout 2 counted one reason less.
fn convert_reasons_2(former: &Path, maps: &mut Maps) -> Result<()> {
    let Found::Map(_) = look(&former.join(maps::REASONS))? else { return Ok(()) };
    let counts = PerCpuTable::<u64>::open(former, maps::REASONS)?;
    for number in 0..REASONS_2 {
        let ours = if number < NEW_REASON_2 { number } else { number + 1 };
        maps.reasons.put(ours, &counts.get(number)?)?;
    }
    Ok(())
}

fn pin_also(map: &MapData, pin: &Path) -> Result<()> {
    match look(pin)? {
        // A take-over that was cut short has been here, or an agent that did not know the older layout.
        Found::Map(_) => return Ok(()),
        Found::Nothing | Found::Other(_) => remove(pin)?,
    }
    map.pin(pin).with_context(|| format!("cannot pin map {}", pin.display()))
}

/// A newer agent's programs go on; what they do not use is what an upgrade left that was cut short.
fn refuse_newer(pins: &Pins) -> Result<()> {
    for (version, dir) in pins.newer()? {
        let links = dir.join("links");
        let is_attached = links.exists() && std::fs::read_dir(&links)?.next().is_some();
        if is_attached {
            bail!(
                "cannot use the pins in {}: programs of layout {version} are attached, and this version has layout \
                 {LAYOUT_VERSION}; start the newer version again, or run `podway remove` first (open flows are lost)",
                pins.root().display()
            );
        }
        pins.remove_version(&dir)?;
    }
    Ok(())
}

impl Pins {
    /// Moves the links of older layouts to this one's; where both have one, the older goes.
    ///
    /// # Errors
    /// A pin cannot be moved.
    pub fn adopt_links(&self) -> Result<()> {
        for (_, dir) in self.older()? {
            let links = dir.join("links");
            if !links.exists() {
                continue;
            }
            let cannot = || format!("cannot move the links in {}", links.display());
            for entry in std::fs::read_dir(&links).with_context(cannot)? {
                let from = entry.with_context(cannot)?.path();
                let to = self.links().join(from.file_name().unwrap_or(OsStr::new("")));
                if to.exists() {
                    remove(&from)?;
                } else {
                    std::fs::rename(&from, &to).with_context(cannot)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what is left of older layouts, whose maps and links are in use by this one.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn remove_older(&self) -> Result<()> {
        self.older()?.iter().try_for_each(|(version, dir)| {
            self.remove_version(dir)?;
            info!(layout = version, "removed the pins of an older layout");
            Ok(())
        })
    }
}
