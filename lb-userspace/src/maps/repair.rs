//! What is pinned where a map belongs and cannot be it, or is missing there: somebody was cut short, or it was put there
//! by others. It is taken away, and the loader makes the map anew; all other maps stay with what they hold.
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, MapType};
use lb_common::maps;

use super::layout::{Shape, shapes};
use super::table::io_error;
use super::{Pins, Sizes};

/// A map that is made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The map's name.
    pub map: &'static str,
    /// What was found in its place.
    pub fault: Fault,
}

/// What is wrong with a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is there although other maps are.
    Missing,
    /// Something else is there.
    Foreign(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("it is missing"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

/// What is at a path.
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A map.
    Map(MapData),
    /// Something else.
    Other(String),
}

/// Takes away what is pinned in the place of a map and is none of the layout; tells that, and what is missing beside
/// maps that are there.
///
/// # Errors
/// The process may not open the pins, or what is there cannot be removed, as a folder with something in it.
pub fn repair(pins: &Pins, sizes: &Sizes) -> Result<Vec<Repair>> {
    let is_first_start = maps::ALL.iter().all(|name| std::fs::symlink_metadata(pins.map(name)).is_err());
    let mut repairs = Vec::new();
    if is_first_start {
        return Ok(repairs);
    }
    for shape in shapes(sizes) {
        let path = pins.map(shape.name);
        let fault = match look(&path)? {
            Found::Nothing => Fault::Missing,
            Found::Map(map) => match difference(&map, &shape)? {
                Some(difference) => Fault::Foreign(difference),
                None => continue,
            },
            Found::Other(what) => Fault::Foreign(what),
        };
        if fault != Fault::Missing {
            remove(&path)?;
        }
        repairs.push(Repair { map: shape.name, fault });
    }
    Ok(repairs)
}

/// What is pinned at a path.
pub(super) fn look(path: &Path) -> Result<Found> {
    let cannot = || format!("cannot look at the pin {}", path.display());
    let kind = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        metadata => metadata.with_context(cannot)?.file_type(),
    };
    if kind.is_dir() {
        return Ok(Found::Other("it is a folder".into()));
    }
    if kind.is_symlink() {
        return Ok(Found::Other("it is a symbolic link".into()));
    }
    let map = match MapData::from_pin(path) {
        Ok(map) => map,
        Err(error) if io_error(&error).is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) => {
            return Err(error).with_context(cannot);
        }
        Err(error) => return Ok(Found::Other(format!("it cannot be opened: {error}"))),
    };
    // The kernel opens whatever is pinned, and answers the same question about it otherwise.
    let descriptor = format!("/proc/self/fd/{}", map.fd().as_fd().as_raw_fd());
    let object = std::fs::read_link(descriptor).with_context(cannot)?;
    match object.to_string_lossy().strip_prefix("anon_inode:") {
        Some("bpf-map") => Ok(Found::Map(map)),
        other => Ok(Found::Other(format!("it is no map but {}", other.unwrap_or("something else")))),
    }
}

/// How a map differs from what the layout asks for. The size of what the operator may choose is no difference, nor
/// that of a table without order, since its entries are in use.
pub(super) fn difference(map: &MapData, shape: &Shape) -> Result<Option<String>> {
    let info = map.info().with_context(|| format!("cannot ask the kernel about map {}", shape.name))?;
    let Ok(kind) = info.map_type() else {
        return Ok(Some("it is a map of an unknown type".into()));
    };
    if (kind, info.key_size(), info.value_size()) != (shape.kind, shape.key_bytes, shape.value_bytes) {
        let (key_bytes, value_bytes) = (info.key_size(), info.value_size());
        return Ok(Some(format!(
            "it is {kind:?} of {key_bytes} and {value_bytes} bytes, and this version needs: {:?} of {} and {}",
            shape.kind, shape.key_bytes, shape.value_bytes
        )));
    }
    let is_array = matches!(kind, MapType::Array | MapType::PerCpuArray | MapType::ArrayOfMaps);
    if is_array && shape.flag.is_none() && info.max_entries() != shape.entries_max {
        let (found, wanted) = (info.max_entries(), shape.entries_max);
        return Ok(Some(format!("it has {found} entries, and this version needs {wanted}")));
    }
    Ok(None)
}

/// Removes what is at a path, if anything: a pin, a link or an empty folder.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            bail!("cannot use {}: it is a folder with something in it; remove it", path.display())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the pin {}", path.display()))
        }
        _ => Ok(()),
    }
}
