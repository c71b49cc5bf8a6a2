//! A capture file in the classic form, with nanoseconds (draft-ietf-opsawg-pcap, "General File Structure"): a header,
//! then the packets, all numbers in the byte order of the machine.
use std::io::{Result, Write};

use lb_common::event::EVENT_PACKET_BYTES_MAX;

/// Of files with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
const NS_PER_S: u64 = 1_000_000_000;

/// A capture file that is being written.
#[derive(Debug)]
pub struct PcapFile<W: Write>(W);

impl<W: Write> PcapFile<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(mut to: W) -> Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC.to_ne_bytes());
        VERSION.iter().for_each(|number| header.extend(number.to_ne_bytes()));
        // Two fields that are always zero.
        header.extend([0; 8]);
        header.extend((EVENT_PACKET_BYTES_MAX as u32).to_ne_bytes());
        header.extend(ETHERNET.to_ne_bytes());
        to.write_all(&header)?;
        Ok(Self(to))
    }

    /// Adds a packet, of which `bytes` may be the beginning alone, and hands all to the system: whoever reads along
    /// sees whole packets.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, at_unix_ns: u64, bytes: &[u8], length_bytes: u32) -> Result<()> {
        let numbers = [
            (at_unix_ns / NS_PER_S) as u32,
            (at_unix_ns % NS_PER_S) as u32,
            bytes.len() as u32,
            length_bytes.max(bytes.len() as u32),
        ];
        let mut record: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        record.extend(bytes);
        self.0.write_all(&record)?;
        self.0.flush()
    }
}
