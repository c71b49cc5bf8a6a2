//! One agent per pin path: a lock on the directory of the pins. It lasts as long as the process, however
//! that ends, and is seen from every namespace that sees the pins.
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::maps::Pins;

/// How long an agent waits for another one that is just ending: one that was killed holds the lock until
/// its memory is gone, and a supervisor may not wait for that.
const HANDOVER_MAX: Duration = Duration::from_secs(2);
const HANDOVER_STEP: Duration = Duration::from_millis(20);

/// The right to change what is pinned below a path, until it is dropped.
#[derive(Debug)]
pub struct Instance {
    _lock: OwnedFd,
}

impl Instance {
    /// Takes the right.
    ///
    /// # Errors
    /// Another agent has it; the message names its process.
    pub fn take(pins: &Pins) -> Result<Self> {
        pins.create()?;
        let root = pins.root();
        let dir = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let dir = dir.with_context(|| format!("cannot open {}", root.display()))?;
        let deadline = Instant::now() + HANDOVER_MAX;
        loop {
            match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: dir }),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(HANDOVER_STEP),
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot lock the directory {}", root.display()));
                }
            }
        }
        let holder = match holder(&dir) {
            Some(pid) => format!("the agent with process id {pid}"),
            None => "an agent in another process namespace".into(),
        };
        bail!(
            "cannot manage the pins in {}: {holder} does; stop it or give another --pin-path",
            root.display()
        )
    }
}

/// The process that holds the lock, from `/proc/locks`, where it is in our process namespace.
fn holder(dir: &OwnedFd) -> Option<u32> {
    let stat = rustix::fs::fstat(dir).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    holder_in(&locks, &format!("{major:02x}:{minor:02x}:{}", stat.st_ino))
}

fn holder_in(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = fields[..] else { return None };
        if at == file { pid.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_the_one_whose_lock_is_on_the_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:27:173007 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:27:173008 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:27:173007 0 EOF\n";
        assert_eq!(holder_in(locks, "00:27:173007"), Some(13));
        assert_eq!(holder_in(locks, "00:27:17300"), None);
    }
}
