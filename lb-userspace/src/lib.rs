//! Podway's user space, in the order in which data flows through it.
pub mod diff;
pub mod ids;
pub mod model;
pub mod plan;
pub mod ring;
pub mod source;
