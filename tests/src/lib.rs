//! Test harness of Podway.
pub mod kernel;
