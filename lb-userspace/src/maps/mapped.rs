//! Memory shared with the kernel: array maps that both sides read and write. `unsafe` of this crate
//! is in this file, in `syscall` and in `announce::packet_socket`.
//!
//! A value of a mapped map is never seen as a Rust reference to its type, since kernel programs on
//! other CPUs read it meanwhile: it is a row of atomic words, and what must not be seen by halves is
//! one of them.
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A map's key or value for aya, which has a mark of its own for types that are plain bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: `bytemuck::Pod` promises what `aya::Pod` asks for (any bytes are a value, no padding), and
// the wrapper has the layout of what it wraps.
unsafe impl<T: bytemuck::Pod> aya::Pod for Plain<T> {}

/// Whether a mapping may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading only: whoever stores all the same is stopped by the processor.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// The values of an array map in this process's memory.
#[derive(Debug)]
pub(super) struct Mapped {
    base: NonNull<u8>,
    len_bytes: usize,
    stride_bytes: usize,
    count: u32,
}

// SAFETY: the memory belongs to the kernel's map, lives as long as the mapping does, and is reached
// through atomics alone.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps an array map of `count` values of `value_bytes` each.
    ///
    /// # Errors
    /// The map was made without `BPF_F_MMAPABLE`, or the process may not map so much memory.
    pub(super) fn new(map: impl AsFd, count: u32, value_bytes: usize, access: Access) -> io::Result<Self> {
        // The kernel keeps array values at multiples of eight bytes (`array_map_alloc`).
        let stride_bytes = value_bytes.next_multiple_of(8);
        let len_bytes = stride_bytes * count as usize;
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe { mmap(std::ptr::null_mut(), len_bytes, protection, MapFlags::SHARED, map, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len_bytes, stride_bytes, count })
    }

    /// How many values there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The 32-bit words of a value; of one shorter than its place, with the zeros that follow.
    pub(super) fn words(&self, index: u32) -> Option<&[AtomicU32]> {
        if index >= self.count {
            return None;
        }
        let offset = index as usize * self.stride_bytes;
        // SAFETY: the index is below the count, so the value is inside the mapping, which lives as long
        // as `self`. The mapping begins at a page and the stride is a multiple of eight, so the words are
        // aligned. Nothing else refers to this memory but through atomics, here and in the kernel.
        Some(unsafe {
            let value = self.base.add(offset).cast::<AtomicU32>();
            std::slice::from_raw_parts(value.as_ptr(), self.stride_bytes / size_of::<AtomicU32>())
        })
    }

    /// The value as one 64-bit word, of a map whose values are eight bytes.
    pub(super) fn word64(&self, index: u32) -> Option<&AtomicU64> {
        if index >= self.count || self.stride_bytes != size_of::<AtomicU64>() {
            return None;
        }
        // SAFETY: as in `words`; the stride is eight bytes, so the word is the whole value.
        Some(unsafe { self.base.add(index as usize * self.stride_bytes).cast::<AtomicU64>().as_ref() })
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and references into it do not outlive `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len_bytes) };
        // Can only fail for a range that is no mapping.
        debug_assert!(unmapped.is_ok());
    }
}
