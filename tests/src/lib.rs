//! Test harness of Podway.
pub mod kernel;
pub mod need;
