//! Reading HELD_FRAMES.
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use lb_common::fragment::HeldFrame;
use lb_common::maps;

use super::Pins;
use super::table::open;

/// The frames that the programs held, each given once. The descriptor is readable while there are some.
pub struct HeldFrames(RingBuf<MapData>);

impl HeldFrames {
    /// Opens the pinned ring, of which this must be the only reader.
    ///
    /// # Errors
    /// No such pin, or no permission.
    pub fn open(pins: &Pins) -> Result<Self> {
        let map = open(&pins.maps(), maps::HELD_FRAMES)?;
        Ok(Self(map.try_into().with_context(|| format!("cannot use map {}", maps::HELD_FRAMES))?))
    }

    /// The next frame; `None` where there is none now. A record of another size is none of ours.
    pub fn next_frame(&mut self) -> Option<HeldFrame> {
        let record = self.0.next()?;
        bytemuck::try_pod_read_unaligned(&record).ok()
    }
}

impl AsFd for HeldFrames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
