//! Writing ROUTE_GENERATION.
use anyhow::{Context as _, Result};
use lb_common::maps;

use super::Pins;
use super::table::ArrayTable;

/// The number that next hops were found under: the programs use none that was found under another one.
pub struct RouteGeneration(ArrayTable<u32>);

impl RouteGeneration {
    /// Opens the pinned map, of which this must be the only writer.
    ///
    /// # Errors
    /// No such pin, or no permission.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self(ArrayTable::open(&pins.maps(), maps::ROUTE_GENERATION)?))
    }

    /// Makes all next hops old.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn raise(&mut self) -> Result<()> {
        let raised = self.0.get(0).and_then(|number| self.0.put(0, &number.wrapping_add(1)));
        raised.with_context(|| format!("cannot write map {}", maps::ROUTE_GENERATION))
    }
}
