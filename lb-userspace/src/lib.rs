//! Podway's user space, in the order in which data flows through it.
pub mod ebpf_object;
pub mod model;

pub use ebpf_object::EBPF_OBJECT;
