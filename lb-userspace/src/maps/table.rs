//! Maps that are reached through bpf(2): hash maps, and arrays that no packet needs in memory.
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::{self, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use bytemuck::Pod;

use super::mapped::Plain;
use super::syscall::{self, Cursor};

/// A hash map, LRU or not.
pub struct HashTable<K: Pod, V: Pod> {
    map: maps::HashMap<MapData, Plain<K>, Plain<V>>,
    entries_max: u32,
    fd: OwnedFd,
}

/// Some entries of a hash map, and where the next ones are; `None` at the end.
#[derive(Debug)]
pub(super) struct EntryBatch<K, V> {
    pub(super) keys: Vec<K>,
    pub(super) values: Vec<V>,
    pub(super) next: Option<Cursor>,
}

/// An array map.
pub(super) struct ArrayTable<V: Pod> {
    map: maps::Array<MapData, Plain<V>>,
    fd: OwnedFd,
}

/// A per-CPU array map.
pub(super) struct PerCpuTable<V: Pod> {
    map: PerCpuArray<MapData, Plain<V>>,
    fd: OwnedFd,
}

/// Entries of a hash map that one call counts.
const COUNTED_ENTRIES_MAX: usize = 4_096;
/// Bytes of values that one call reads of an array.
const READ_BYTES_MAX: usize = 1 << 20;

/// Opens the pin of a map of the layout.
pub(super) fn open(dir: &Path, name: &str) -> Result<Map> {
    let path = dir.join(name);
    let data = MapData::from_pin(&path).map_err(|error| {
        let cause = io_error(&error).map(io::Error::kind);
        let remedy = match cause {
            Some(io::ErrorKind::NotFound) => "no agent has run with this pin path; see --pin-path",
            Some(io::ErrorKind::PermissionDenied) => "run as root or with CAP_BPF and CAP_NET_ADMIN",
            _ => "see --pin-path",
        };
        anyhow::Error::new(error).context(format!("cannot open map {}: {remedy}", path.display()))
    })?;
    Map::from_map_data(data).with_context(|| format!("cannot use map {}", path.display()))
}

/// The cause that the kernel gave.
pub(super) fn io_error(error: &MapError) -> Option<&io::Error> {
    match error {
        MapError::SyscallError(error) => Some(&error.io_error),
        MapError::IoError(error) => Some(error),
        MapError::CreateError { io_error, .. } => Some(io_error),
        _ => None,
    }
}

impl<K: Pod, V: Pod> HashTable<K, V> {
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        Self::of(open(dir, name)?, name)
    }

    pub(super) fn of(map: Map, name: &str) -> Result<Self> {
        let entries_max = entries_max(&map)?;
        let (Map::HashMap(data) | Map::LruHashMap(data)) = &map else {
            anyhow::bail!("map {name} is no hash map");
        };
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        let map = map.try_into().with_context(|| format!("cannot use map {name}"))?;
        Ok(Self { map, entries_max, fd })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The bound on its entries.
    pub(super) fn entries_max(&self) -> u32 {
        self.entries_max
    }

    pub(super) fn get(&self, key: &K) -> Result<Option<V>, MapError> {
        match self.map.get(&Plain(*key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.map.insert(Plain(*key), Plain(*value), 0)
    }

    /// Removes an entry; one that is not there is no error.
    pub(super) fn remove(&mut self, key: &K) -> Result<(), MapError> {
        match self.map.remove(&Plain(*key)) {
            Err(error) if io_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => {
                Ok(())
            }
            result => result,
        }
    }

    /// All entries, each as it was at some moment of the walk. A walk over a map that changes may begin
    /// again and give an entry twice, so the number of steps is bounded.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<(K, V), MapError>> {
        let entry = |(key, value): (Plain<K>, Plain<V>)| (key.0, value.0);
        let steps_max = 2 * self.entries_max() as usize;
        self.map.iter().take(steps_max).map(move |found| found.map(entry))
    }

    /// The entries from a place on, about `wanted` of them: a bucket of the map is never cut, so the batch
    /// grows where one is longer.
    pub(super) fn batch(&self, from: Cursor, wanted: usize) -> io::Result<EntryBatch<K, V>> {
        let mut count = wanted;
        loop {
            let (mut keys, mut values) = (vec![K::zeroed(); count], vec![V::zeroed(); count]);
            match syscall::lookup_batch(&self.fd, from, &mut keys, &mut values) {
                Err(error) if error.kind() == io::ErrorKind::StorageFull && count < self.batch_max() => {
                    count *= 2;
                }
                Err(error) => return Err(error),
                Ok((found, next)) => {
                    keys.truncate(found);
                    values.truncate(found);
                    return Ok(EntryBatch { keys, values, next });
                }
            }
        }
    }

    /// How many entries there are, by a walk.
    pub(super) fn used(&self) -> io::Result<u32> {
        let (mut used, mut next) = (0, Some(Cursor::default()));
        while let Some(from) = next {
            let batch = self.batch(from, COUNTED_ENTRIES_MAX)?;
            used += batch.keys.len() as u32;
            next = batch.next;
        }
        Ok(used)
    }

    fn batch_max(&self) -> usize {
        2 * self.entries_max as usize
    }

    /// Puts an entry unless the key is taken, which is no error. One by one: the kernel takes no such flag
    /// for a batch (`generic_map_update_batch`).
    pub(super) fn put_new(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        match self.map.insert(Plain(*key), Plain(*value), syscall::BPF_NOEXIST) {
            Err(error)
                if io_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::AlreadyExists) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Removes an entry if `is_wanted` says so of the value that it has at that moment, else puts it back unless the key
    /// is taken meanwhile. Whether it is gone; one that was not there is.
    pub(super) fn remove_if(&mut self, key: &K, is_wanted: impl FnOnce(&V) -> bool) -> Result<bool> {
        match syscall::take::<K, V>(&self.fd, key)? {
            Some(value) if !is_wanted(&value) => {
                self.put_new(key, &value)?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Removes entries; those that are not there are no error.
    pub(super) fn remove_all(&mut self, keys: &[K]) -> io::Result<()> {
        let mut left = keys;
        while !left.is_empty() {
            let (done, result) = syscall::delete_batch(&self.fd, left);
            let passed = match result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => done + 1,
                result => result.map(|()| left.len())?,
            };
            left = left.get(passed..).unwrap_or_default();
        }
        Ok(())
    }
}

impl<V: Pod> ArrayTable<V> {
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        let (map, fd) = array(dir, name)?;
        Ok(Self { map: map.try_into().with_context(|| format!("cannot use map {name}"))?, fd })
    }

    pub(super) fn count(&self) -> u32 {
        self.map.len()
    }

    pub(super) fn get(&self, index: u32) -> Result<V, MapError> {
        self.map.get(&index, 0).map(|value| value.0)
    }

    /// The values below an index, in few calls.
    pub(super) fn first(&self, count: u32) -> io::Result<Vec<V>> {
        let mut all = Vec::with_capacity(count as usize);
        read_first(&self.fd, count, 1, |values: &[V]| all.extend_from_slice(values))?;
        Ok(all)
    }

    pub(super) fn put(&mut self, index: u32, value: &V) -> Result<(), MapError> {
        self.map.set(index, Plain(*value), 0)
    }
}

/// An array map, and a descriptor of it.
fn array(dir: &Path, name: &str) -> Result<(Map, OwnedFd)> {
    let map = open(dir, name)?;
    let (Map::Array(data) | Map::PerCpuArray(data)) = &map else { anyhow::bail!("map {name} is no array") };
    let fd = data.fd().as_fd().try_clone_to_owned()?;
    Ok((map, fd))
}

/// Reads the values below an index, with `cpus` of them for each, in calls of [`READ_BYTES_MAX`].
fn read_first<V: Pod>(fd: &OwnedFd, count: u32, cpus: usize, mut each: impl FnMut(&[V])) -> io::Result<()> {
    // The kernel rounds values of per-CPU maps up to eight bytes.
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let some = (READ_BYTES_MAX / (size_of::<V>() * cpus)).max(1);
    let (mut keys, mut values) = (vec![0u32; some], vec![V::zeroed(); some * cpus]);
    let (mut left, mut next) = (count as usize, Some(Cursor::default()));
    while let Some(from) = next.filter(|_| left > 0) {
        let wanted = left.min(some);
        let (keys, values) = (&mut keys[..wanted], &mut values[..wanted * cpus]);
        let (found, after) = syscall::lookup_batch_per_cpu(fd, from, keys, values, cpus)?;
        each(&values[..found * cpus]);
        (left, next) = (left - found, after);
    }
    Ok(())
}

impl<V: Pod> PerCpuTable<V> {
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        let (map, fd) = array(dir, name)?;
        Ok(Self { map: map.try_into().with_context(|| format!("cannot use map {name}"))?, fd })
    }

    /// The values of all CPUs.
    pub(super) fn get(&self, index: u32) -> Result<Vec<V>, MapError> {
        Ok(self.map.get(&index, 0)?.iter().map(|value| value.0).collect())
    }

    /// What `sum` makes of the values of all CPUs, for each index below one, in few calls.
    pub(super) fn first(&self, count: u32, sum: impl Fn(&[V]) -> V) -> io::Result<Vec<V>> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        let mut all = Vec::with_capacity(count as usize);
        read_first(&self.fd, count, cpus, |values: &[V]| all.extend(values.chunks_exact(cpus).map(&sum)))?;
        Ok(all)
    }

    /// Sets the values of all CPUs to zero.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), MapError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        self.put(index, &vec![V::zeroed(); cpus])
    }

    /// Sets the values, one for each possible CPU.
    pub(super) fn put(&mut self, index: u32, values: &[V]) -> Result<(), MapError> {
        let values: Vec<Plain<V>> = values.iter().map(|value| Plain(*value)).collect();
        self.map.set(index, PerCpuValues::try_from(values)?, 0)
    }
}

/// The bound on a map's entries.
pub(super) fn entries_max(map: &Map) -> Result<u32> {
    let (Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::LpmTrie(data)
    | Map::PerCpuArray(data)) = map
    else {
        anyhow::bail!("a map of the layout has a type that is not in it");
    };
    let info = data.info().context("cannot ask the kernel about a map")?;
    ensure!(info.max_entries() > 0, "a map of the layout has no entries");
    Ok(info.max_entries())
}
