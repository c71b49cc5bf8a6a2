//! A thread of its own for fragments that came before their first one: it holds them for the programs, and
//! lets each enter or leave again, at the interface where it was held, once its datagram's ports are known.
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing::{debug, warn};

use lb_common::fragment::{FragmentKey, HeldFrame};
use lb_common::maps::HELD_FRAMES_BYTES;

use crate::attach::Reentry;
use crate::clock;
use crate::fragments::Waiting;
use crate::maps::{HeldFrames, Maps, Pins};

/// Time between two rounds: with [`Waiting`]'s bound and the ring's size, it bounds what a flood of fragments
/// costs here.
const ROUND: Duration = Duration::from_millis(5);
/// Frames that are read in one round: what the ring holds.
const ROUND_FRAMES_MAX: usize = HELD_FRAMES_BYTES as usize / size_of::<HeldFrame>();

/// Starts the thread, which lasts as long as the process.
///
/// # Errors
/// The ring cannot be opened, or no thread be made.
pub(super) fn start(pins: &Pins, mut maps: Maps, reentry: Reentry) -> Result<()> {
    let mut ring = HeldFrames::open(pins)?;
    // From before this agent: their datagrams are given up by now.
    (0..ROUND_FRAMES_MAX).map_while(|_| ring.next_frame()).for_each(drop);
    let run = move || {
        let mut waiting = Waiting::default();
        loop {
            if waiting.is_empty()
                && let Err(error) = wait_for_frames(&ring)
            {
                warn!(error = %error, "fragments that come before their first one are lost");
                return;
            }
            let now_ms = clock::now_ms();
            (0..ROUND_FRAMES_MAX)
                .map_while(|_| ring.next_frame())
                .for_each(|frame| waiting.hold(&frame, now_ms));
            for fragment in waiting.release(now_ms, |key| is_known(&mut maps, key)) {
                let interface = fragment.interface;
                if let Err(error) = reentry.send(interface, fragment.way, &fragment.bytes) {
                    debug!(interface, error = format!("{error:#}"), "a fragment is lost");
                }
            }
            let lost = waiting.take_lost();
            if lost > 0 {
                debug!(lost, "fragments without a first one are lost");
            }
            std::thread::sleep(ROUND);
        }
    };
    std::thread::Builder::new().name("fragments".into()).spawn(run).context("cannot start a thread")?;
    Ok(())
}

fn wait_for_frames(ring: &HeldFrames) -> rustix::io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(ring, PollFlags::IN)], None) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Whether the programs would find the ports of a fragment's datagram.
fn is_known(maps: &mut Maps, key: &FragmentKey) -> bool {
    let ports = maps.entry(key).ok().flatten();
    ports.is_some_and(|ports| ports.is_young(clock::now_s()))
}
