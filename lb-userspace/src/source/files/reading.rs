//! Reading manifest files: which ones may have changed, and several at a time.
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::manifest::{self, Manifest, Syntax};

/// Largest manifest file. A larger one is a problem, and what it gave before stays.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Files that are read before what they hold is taken over: their objects are in memory at once.
pub(super) const BATCH_FILES: usize = 512;

/// Most threads that read.
const THREADS_MAX: usize = 8;

/// Age from which a file's time of change tells it from a later state: coarser than the clock of any file system.
const SETTLED: Duration = Duration::from_secs(3);

/// What a file system says of a file: whatever is written to it, or renamed over it, changes that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length_bytes: u64,
    changed: Duration,
}

impl Stamp {
    /// The stamp of a file, `None` where it is so young that a later change may have the same one.
    pub(super) fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let seconds = u64::try_from(metadata.ctime()).ok()?;
        let changed = Duration::new(seconds, u32::try_from(metadata.ctime_nsec()).ok()?);
        let age = now.duration_since(UNIX_EPOCH).ok()?.checked_sub(changed)?;
        let stamp =
            Self { device: metadata.dev(), inode: metadata.ino(), length_bytes: metadata.len(), changed };
        (age > SETTLED).then_some(stamp)
    }
}

/// What a look at a file finds.
pub(super) enum Found {
    /// The text is that of the hash that is known.
    Known,
    /// Another text.
    Read {
        /// Its hash.
        text_hash: u64,
        /// What it holds.
        manifest: Manifest,
    },
    /// None, for a reason.
    Unreadable(String),
}

/// Reads files of a folder, each with the hash of its text that is known, in several threads.
pub(super) fn read_all(dir: &Path, files: &[(&str, Option<u64>)]) -> Vec<Found> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let read = |(name, known): &(&str, Option<u64>)| read(&dir.join(name), *known);
    let share = files.len().div_ceil(threads).max(1);
    if files.len() <= 1 {
        return files.iter().map(read).collect();
    }
    thread::scope(|scope| {
        let shares = files.chunks(share);
        let running: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().map(read).collect::<Vec<_>>())).collect();
        let joined = running.into_iter().map(thread::ScopedJoinHandle::join);
        joined.flat_map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn read(path: &Path, known: Option<u64>) -> Found {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(reason) => return Found::Unreadable(reason),
    };
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let text_hash = hasher.finish();
    if known == Some(text_hash) {
        return Found::Known;
    }
    let syntax = path.to_str().and_then(Syntax::of_file).unwrap_or(Syntax::Yaml);
    Found::Read { text_hash, manifest: manifest::read(&text, syntax) }
}

fn read_text(path: &Path) -> Result<String, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes are more than {FILE_BYTES_MAX}; split it"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_just_written_has_no_stamp() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(Stamp::of(&metadata, SystemTime::now()), None);
    }

    #[test]
    fn an_older_file_has_one_that_a_rename_over_it_changes() {
        let [first, second] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        let later = SystemTime::now() + Duration::from_secs(60);
        let stamp = |file: &Path| Stamp::of(&fs::metadata(file).unwrap(), later);
        let before = stamp(first.path());
        assert_eq!(before.map(|stamp| stamp.length_bytes), Some(0));
        fs::rename(second.path(), first.path()).unwrap();
        assert_ne!(stamp(first.path()), before);
    }
}
