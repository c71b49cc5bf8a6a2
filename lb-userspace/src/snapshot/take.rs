//! Making a snapshot of this node.
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use lb_common::maps;
use serde_json::Value;

use crate::admin;
use crate::attach;
use crate::clock::{now_s, now_unix_ms};
use crate::explain::Origins;
use crate::maps::{Maps, Pins};

use super::{FORMAT, Header, LAYOUT_VERSION, LeftOut, MapHeader, NodeSnapshot, part};

/// The maps that are not read, and why.
const UNREAD: [(&str, &str); 3] = [
    (maps::HELD_FRAMES, "reading its frames would take them from the agent"),
    (maps::EVENTS, "reading its events would take them from `podway monitor`"),
    (maps::MONITOR, "it says only what `podway monitor` wants told"),
];

/// A snapshot of what is pinned and of what an agent of this node tells. Of the maps that programs fill, at most
/// `traces_max` entries each.
///
/// # Errors
/// No maps are pinned there, or they cannot be read.
pub fn take(pins: &Pins, run_dir: &Path, traces_max: u32) -> Result<NodeSnapshot> {
    let open = Maps::open(pins)?;
    let uname = rustix::system::uname();
    let mut header = Header {
        format: FORMAT,
        layout_version: LAYOUT_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        taken_unix_ms: now_unix_ms(),
        taken_s: now_s(),
        is_growing: open.is_growing(),
        maps: Vec::new(),
        left_out: UNREAD.iter().map(|(name, reason)| left_out(&part::map(name), reason)).collect(),
    };
    let mut parts = BTreeMap::new();
    for raw in open.raw(pins, traces_max)? {
        header.maps.push(MapHeader::of(&raw));
        parts.insert(part::map(raw.name), raw.bytes);
    }
    parts.insert(part::PROGRAMS.to_owned(), serde_json::to_vec(&attach::inspect(pins)?)?);
    take_agent(&mut header, &mut parts, run_dir);
    for (name, bytes) in Origins::new(run_dir).files() {
        parts.insert(format!("origins/{name}"), bytes);
    }
    Ok(NodeSnapshot { header, parts })
}

/// What the agent tells; without one the rest is worth having all the same.
fn take_agent(header: &mut Header, parts: &mut BTreeMap<String, Vec<u8>>, run_dir: &Path) {
    let answers: [(&str, Result<Vec<u8>>); 4] = [
        (part::HEALTH, admin::health(run_dir, None).and_then(|found| Ok(serde_json::to_vec(&found)?))),
        (part::INTERFACES, admin::interfaces(run_dir).and_then(|found| Ok(serde_json::to_vec(&found)?))),
        (part::FACTS, admin::facts(run_dir).map(String::into_bytes)),
        (part::PROBLEMS, problems(run_dir)),
    ];
    for (name, answer) in answers {
        match answer {
            Ok(bytes) => drop(parts.insert(name.to_owned(), bytes)),
            Err(error) => header.left_out.push(left_out(name, &format!("{error:#}"))),
        }
    }
    let facts = parts.get(part::FACTS).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    if let Some(name) = facts.as_ref().and_then(|facts| facts["node"]["name"].as_str()) {
        header.node = name.to_owned();
    }
}

/// The list that an agent keeps in its run directory.
fn problems(run_dir: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", run_dir.display());
    for entry in std::fs::read_dir(run_dir).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("problems-") && name.ends_with(".json")) {
            return std::fs::read(entry.path()).with_context(cannot);
        }
    }
    anyhow::bail!("no list of problems in {}", run_dir.display())
}

fn left_out(part: &str, reason: &str) -> LeftOut {
    LeftOut { part: part.to_owned(), reason: reason.to_owned() }
}
