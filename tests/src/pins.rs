//! Pins of a test's own.
use std::ops::Deref;

use anyhow::Result;
use lb_userspace::maps::Pins;

use crate::footprint::Footprint;

/// A pin path that no other test has. Dropping it removes what is pinned there; after a test that was killed
/// the next one does.
#[derive(Debug)]
pub struct TestPins {
    pins: Pins,
    _footprint: Footprint,
}

impl TestPins {
    /// Nothing is pinned yet.
    ///
    /// # Errors
    /// As [`Footprint::new`].
    pub fn new() -> Result<Self> {
        let footprint = Footprint::new()?;
        Ok(Self { pins: Pins::new(&footprint.pins("test")), _footprint: footprint })
    }
}

impl Deref for TestPins {
    type Target = Pins;

    fn deref(&self) -> &Pins {
        &self.pins
    }
}
