//! The `podway` binary.
fn main() {}
