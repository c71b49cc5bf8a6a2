//! Loading the eBPF object onto the pinned maps.
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use aya::maps::{MapError, MapInfo};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::maps;
use rustix::thread::CapabilitySet;
use tracing::warn;

use super::flow_pins;
use super::former;
use super::layout::{Shape, shapes};
use super::repair::{Fault, Repair, repair};
use super::table::io_error;
use super::{Maps, Pins, Sizes};

/// The eBPF object, and where it came from for messages.
#[derive(Clone, Debug)]
pub enum Object {
    /// The one inside this binary.
    Embedded(&'static [u8]),
    /// A file.
    File(PathBuf),
}

impl Object {
    /// The object of a file, else the one inside this binary.
    ///
    /// # Errors
    /// No file is given and the binary has none inside.
    pub fn choose(file: Option<PathBuf>) -> Result<Self> {
        match (file, crate::EBPF_OBJECT) {
            (Some(path), _) => Ok(Self::File(path)),
            (None, Some(bytes)) => Ok(Self::Embedded(bytes)),
            (None, None) => bail!(
                "this binary has no eBPF programs inside; build it with `cargo xtask build`, or give the object \
                 with --ebpf-object FILE"
            ),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Embedded(_) => "inside this binary".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn bytes(&self) -> Result<std::borrow::Cow<'static, [u8]>> {
        match self {
            Self::Embedded(bytes) => Ok((*bytes).into()),
            Self::File(path) => {
                let bytes = std::fs::read(path);
                Ok(bytes.with_context(|| format!("cannot read eBPF object {}", path.display()))?.into())
            }
        }
    }
}

/// Loads the object: maps that are pinned are kept with all they hold, also those of an older layout, the others are
/// made and pinned. The programs are not loaded yet.
///
/// # Errors
/// A missing capability, an unusable object, pins of a newer layout, or something in the place of a map that cannot be
/// removed.
pub fn load(object: &Object, pins: &Pins, sizes: &Sizes) -> Result<(Ebpf, Maps)> {
    check_capabilities()?;
    let bytes = object.bytes()?;
    pins.create()?;
    let taken_over = former::take_over(pins, sizes)?;
    let mut repairs = repair(pins, sizes)?;
    if taken_over.is_some() {
        repairs.retain(|repair| repair.fault != Fault::Missing);
    }
    for Repair { map, fault } in &repairs {
        warn!(map, %fault, "cannot use what is pinned in the place of a map; it is made anew");
    }
    let mut loader = EbpfLoader::new();
    for shape in shapes(sizes) {
        let entries_max = kept_or_wanted(pins, &shape)?;
        loader.map_max_entries(shape.name, entries_max);
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
    let may_have_flows = !flow_pins::pinned(&pins.maps())?.is_empty();
    let is_filter_due = may_have_flows && !pins.map(maps::FLOW_FILTER).exists();
    let ebpf = loader.load(&bytes).map_err(|error| unusable(object, error))?;
    for name in maps::ALL {
        if ebpf.map(name).is_none() {
            bail!("cannot use the eBPF object {}: it has no map {name}; {OBJECT_REMEDY}", object.name());
        }
    }
    let made = flow_pins::prepare(&pins.maps(), sizes.conntrack_max);
    made.with_context(|| format!("cannot make the flows' map in {}", pins.maps().display()))?;
    let mut maps = Maps::open_for_writing(pins)?;
    if is_filter_due {
        maps.fill_flow_filter();
    }
    maps.recover(&repairs.iter().map(|repair| repair.map).collect::<Vec<_>>())?;
    taken_over.map_or(Ok(()), |taken_over| taken_over.convert(&mut maps))?;
    Ok((ebpf, maps))
}

/// The size of the pinned map where there is one, else the wanted size.
fn kept_or_wanted(pins: &Pins, shape: &Shape) -> Result<u32> {
    let path = pins.map(shape.name);
    if !path.exists() {
        return Ok(shape.entries_max);
    }
    let info = MapInfo::from_pin(&path).with_context(|| format!("cannot open map {}", path.display()))?;
    if info.max_entries() != shape.entries_max {
        warn!(
            map = shape.name,
            kept = info.max_entries(),
            wanted = shape.entries_max,
            flag = shape.flag.unwrap_or("none"),
            "the pinned map has another size and is kept, since its entries are in use"
        );
    }
    Ok(info.max_entries())
}

const OBJECT_REMEDY: &str = "build it again with `cargo xtask build-ebpf`";

fn unusable(object: &Object, error: EbpfError) -> anyhow::Error {
    let name = object.name();
    let message = match &error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => match io_error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                format!("cannot make map {name}: the kernel does not permit it; {CAPABILITY_REMEDY}")
            }
            std::io::ErrorKind::OutOfMemory => {
                format!(
                    "cannot make map {name}: out of memory; give it fewer entries (see `podway agent --help`)"
                )
            }
            // `bpf(2)` answers ENOSYS where it is compiled out.
            std::io::ErrorKind::Unsupported => format!(
                "cannot make map {name}: this kernel has no BPF; use one with CONFIG_BPF_SYSCALL (6.6 or newer)"
            ),
            _ => format!("cannot make map {name}"),
        },
        EbpfError::MapError(MapError::PinError { name: Some(name), .. }) => {
            format!("cannot pin map {name}; the pin path must be on a BPF file system (see --pin-path)")
        }
        EbpfError::MapError(error) if io_error(error).is_some() => "cannot fill a map of the object".into(),
        _ => format!("cannot use the eBPF object {name}: it is damaged or none; {OBJECT_REMEDY}"),
    };
    anyhow::Error::new(error).context(message)
}

const CAPABILITY_REMEDY: &str = "run as root outside a container, or give the process CAP_BPF, CAP_NET_ADMIN and \
                                 CAP_PERFMON (in Kubernetes: securityContext.capabilities.add)";

/// Names the capabilities that are missing before the kernel says a bare "not permitted".
fn check_capabilities() -> Result<()> {
    match &missing_capabilities()?[..] {
        [] => Ok(()),
        missing => {
            bail!("cannot load BPF programs: this process lacks {}; {CAPABILITY_REMEDY}", missing.join(", "))
        }
    }
}

/// The capabilities that an agent needs and this process has not.
///
/// # Errors
/// The kernel does not tell them.
pub fn missing_capabilities() -> Result<Vec<&'static str>> {
    let sets = rustix::thread::capabilities(None).context("cannot read this process's capabilities")?;
    let has = |wanted: CapabilitySet| sets.effective.contains(wanted);
    // CAP_SYS_ADMIN includes the other two (capabilities(7)).
    let needs = [
        ("CAP_BPF", has(CapabilitySet::BPF) || has(CapabilitySet::SYS_ADMIN)),
        ("CAP_PERFMON", has(CapabilitySet::PERFMON) || has(CapabilitySet::SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CapabilitySet::NET_ADMIN)),
    ];
    Ok(needs.iter().filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect())
}
