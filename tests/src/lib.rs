//! Test harness of Podway.
