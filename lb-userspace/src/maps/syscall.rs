//! bpf(2) commands that aya has no call for: maps of maps without CAP_SYS_ADMIN, and whole batches of
//! entries. With `mapped` and `announce::packet_socket`, all `unsafe` of this crate.
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use bytemuck::{Pod, Zeroable};

/// Commands of bpf(2) (`enum bpf_cmd`).
#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    MapCreate = 0,
    LookupElem = 1,
    UpdateElem = 2,
    DeleteElem = 3,
    ProgQuery = 16,
    LookupAndDeleteElem = 21,
    LookupBatch = 24,
    DeleteBatch = 27,
}

const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
/// Fails for an entry whose key is taken.
pub(super) const BPF_NOEXIST: u64 = 1;

/// `union bpf_attr` of BPF_MAP_CREATE, as far as it is used.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// `union bpf_attr` of the commands on one entry.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of the commands on batches.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` of BPF_PROG_QUERY.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Calls bpf(2) with an attribute whose addresses are of memory that lives through the call and is as long
/// as the command and the map say.
fn bpf<A: Pod>(command: Command, attribute: &mut A) -> io::Result<i64> {
    // SAFETY: the attribute is plain memory of the given size; the callers below fill its addresses from
    // slices whose lengths they check against what the kernel reads and writes.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as i64, &raw mut *attribute, size_of::<A>() as libc::c_ulong)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn raw(map: &impl AsFd) -> u32 {
    map.as_fd().as_raw_fd() as u32
}

fn address<T>(values: &[T]) -> u64 {
    values.as_ptr() as u64
}

/// Makes an LRU hash map.
///
/// # Errors
/// No memory, or no permission.
pub(super) fn create_lru_hash<K: Pod, V: Pod>(name: &str, entries_max: u32) -> io::Result<OwnedFd> {
    let mut map_name = [0; 16];
    // The last byte stays zero.
    map_name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
    let mut attribute = Create {
        map_type: BPF_MAP_TYPE_LRU_HASH,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries: entries_max,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        map_name,
    };
    let fd = bpf(Command::MapCreate, &mut attribute)?;
    // SAFETY: the kernel has just given this file descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The id of the map at a place of a map of maps; `None` where there is none.
///
/// # Errors
/// The kernel refuses.
pub(super) fn map_id_at(outer: &impl AsFd, index: u32) -> io::Result<Option<u32>> {
    let (key, mut id) = ([index], 0u32);
    let value = &raw mut id as u64;
    let mut attribute = Element { map_fd: raw(outer), padding: 0, key: address(&key), value, flags: 0 };
    match bpf(Command::LookupElem, &mut attribute) {
        Ok(_) => Ok(Some(id)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a map at a place of a map of maps. When it returns, no program runs that has seen the former one
/// there (`maybe_wait_bpf_programs`).
///
/// # Errors
/// The kernel refuses.
pub(super) fn set_map_at(outer: &impl AsFd, index: u32, inner: &impl AsFd) -> io::Result<()> {
    let (key, value) = ([index], [raw(inner)]);
    let mut attribute =
        Element { map_fd: raw(outer), padding: 0, key: address(&key), value: address(&value), flags: 0 };
    bpf(Command::UpdateElem, &mut attribute).map(drop)
}

/// Clears a place of a map of maps, and waits as [`set_map_at`].
///
/// # Errors
/// The kernel refuses.
pub(super) fn clear_map_at(outer: &impl AsFd, index: u32) -> io::Result<()> {
    let key = [index];
    let mut attribute = Element { map_fd: raw(outer), padding: 0, key: address(&key), value: 0, flags: 0 };
    match bpf(Command::DeleteElem, &mut attribute) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a walk through a map is: the kernel's number of a bucket, or an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor(Option<u32>);

/// The next entries of a hash map, at most as many as both slices hold; how many, and where to go on,
/// `None` at the end. Entries that are put or removed meanwhile may be seen or not; all others are seen once.
///
/// # Errors
/// `ENOSPC`: the slices are shorter than one bucket; others: the kernel refuses.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: &impl AsFd,
    cursor: Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<Cursor>)> {
    lookup_batch_per_cpu(map, cursor, keys, values, 1)
}

/// As [`lookup_batch`], of a map that has a value for each of `cpus` possible CPUs, which stand beside each other
/// in `values`; there is room for as many keys as these are. Of an array the cursor is the last index that was read.
///
/// # Errors
/// As [`lookup_batch`].
pub(super) fn lookup_batch_per_cpu<K: Pod, V: Pod>(
    map: &impl AsFd,
    cursor: Cursor,
    keys: &mut [K],
    values: &mut [V],
    cpus: usize,
) -> io::Result<(usize, Option<Cursor>)> {
    // The kernel takes four bytes for the place in a hash map, whatever the keys are.
    let (place, mut next) = ([cursor.0.unwrap_or(0)], 0u32);
    let mut attribute = Batch {
        in_batch: cursor.0.map_or(0, |_| address(&place)),
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len() / cpus) as u32,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    let result = bpf(Command::LookupBatch, &mut attribute);
    let found = attribute.count as usize;
    match result {
        Ok(_) => Ok((found, Some(Cursor(Some(next))))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((found, None)),
        Err(error) => Err(error),
    }
}

/// Takes an entry out of a hash map in one step, with the value that it had at that moment; `None` where there is none.
/// Linux 5.14.
///
/// # Errors
/// The kernel refuses.
pub(super) fn take<K: Pod, V: Pod>(map: &impl AsFd, key: &K) -> io::Result<Option<V>> {
    let mut value = V::zeroed();
    let mut attribute = Element {
        map_fd: raw(map),
        padding: 0,
        key: address(std::slice::from_ref(key)),
        value: &raw mut value as u64,
        flags: 0,
    };
    match bpf(Command::LookupAndDeleteElem, &mut attribute) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes one entry after the other until one is not there; how many were removed.
///
/// # Errors
/// Why the next one was refused, beside how many were removed before.
pub(super) fn delete_batch<K: Pod>(map: &impl AsFd, keys: &[K]) -> (usize, io::Result<()>) {
    let mut attribute = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: address(keys),
        values: 0,
        count: keys.len() as u32,
        map_fd: raw(map),
        elem_flags: 0,
        flags: 0,
    };
    let result = bpf(Command::DeleteBatch, &mut attribute).map(drop);
    let done = if result.is_ok() { keys.len() } else { (attribute.count as usize).min(keys.len()) };
    (done, result)
}

/// The ids of the programs that run for the processes of a cgroup at a hook (`enum bpf_attach_type`), those of the
/// cgroups above it too; at most [`CGROUP_PROGRAMS_MAX`], which is the kernel's own bound for one cgroup.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn programs_on_cgroup(cgroup: &impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    const BPF_F_QUERY_EFFECTIVE: u32 = 1;
    let mut ids = [0u32; CGROUP_PROGRAMS_MAX];
    let mut attribute = Query {
        target_fd: raw(cgroup),
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::zeroed()
    };
    bpf(Command::ProgQuery, &mut attribute)?;
    Ok(ids.iter().take(attribute.prog_cnt as usize).copied().collect())
}

/// `BPF_CGROUP_MAX_PROGS`.
const CGROUP_PROGRAMS_MAX: usize = 64;
