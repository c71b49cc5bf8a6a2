//! Podway's user space, in the order in which data flows through it.
pub mod model;
pub mod source;
