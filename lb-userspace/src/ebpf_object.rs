//! The kernel programs inside this binary.

/// The eBPF object; `None` in a binary that was built without one (`cargo build` instead of
/// `cargo xtask build`). Aligned as an ELF reader needs it.
pub const EBPF_OBJECT: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/ebpf_object.rs"));
