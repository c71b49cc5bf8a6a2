//! The decision that Podway makes for each packet and each `connect()`: safe, pure code, generic over
//! the frame ([`packet::Packet`]) and the tables ([`tables::Tables`]). The kernel programs, the tests
//! and `podway explain` all run this same code.
//!
//! Modules stand in the order in which a packet meets them.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod packet;
pub mod tables;

pub mod header;
pub mod parse;

pub mod flow;
pub mod select;

pub mod checksum;
pub mod icmp;
pub mod reset;
pub mod rewrite;
pub mod sctp;

pub mod geneve;

pub mod path;
pub mod socket;
pub mod verdict;

#[cfg(not(target_arch = "bpf"))]
pub mod host;
