//! Frames for tests and for the seeds of the differential test: built field by field with checksums
//! from full computation, checked by a verifier that shares no code with the data path, cut and
//! damaged at random, and drawn as an endless stream from a seed.

pub mod build;
pub mod damage;
pub mod pieces;
pub mod random;
pub mod stream;
pub mod verify;

pub use build::PacketBuilder;
pub use random::Random;
pub use stream::{Intent, PacketStream, Sample, World};
pub use verify::{FiveTuple, five_tuple, verify_checksums};
