//! Reading EVENTS, and MONITOR, which says what shall come there.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, RingBuf};
use lb_common::event::{Event, Monitor};
use lb_common::maps;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use super::Pins;
use super::table::{self, ArrayTable};

/// More events than the ring holds.
const RING_EVENTS_MAX: usize = maps::EVENTS_BYTES as usize / size_of::<Event>();

/// What became of packets, each told once, from [`Events::watch`] on until it is dropped. The descriptor is readable
/// while there are some.
pub struct Events {
    ring: RingBuf<MapData>,
    monitor: ArrayTable<Monitor>,
    _lock: OwnedFd,
}

impl Events {
    /// Opens the pinned maps, for one at a time.
    ///
    /// # Errors
    /// No such pins, no permission, or somebody else watches.
    pub fn open(pins: &Pins) -> Result<Self> {
        let dir = pins.maps();
        let ring = table::open(&dir, maps::EVENTS)?;
        let mut ring: RingBuf<MapData> =
            ring.try_into().with_context(|| format!("cannot use map {}", maps::EVENTS))?;
        let monitor = ArrayTable::open(&dir, maps::MONITOR)?;
        let lock = open(&dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let lock = lock.with_context(|| format!("cannot open {}", dir.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                // Of one who was killed.
                (0..RING_EVENTS_MAX).map_while(|_| ring.next().map(drop)).for_each(drop);
                Ok(Self { ring, monitor, _lock: lock })
            }
            Err(Errno::WOULDBLOCK) => {
                bail!("cannot watch {}: another `podway monitor` does; end it first", dir.display())
            }
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", dir.display())),
        }
    }

    /// Says what shall be told; to be said again before `until_s`.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn watch(&mut self, monitor: &Monitor) -> Result<()> {
        self.monitor.put(0, monitor).with_context(|| format!("cannot write map {}", maps::MONITOR))
    }

    /// The next event; `None` where there is none now. A record of another size is none of ours.
    pub fn next_event(&mut self) -> Option<Event> {
        let record = self.ring.next()?;
        bytemuck::try_pod_read_unaligned(&record).ok()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // What was said before ends by itself, so an error is no harm.
        let _ = self.monitor.put(0, &Monitor::default());
    }
}
