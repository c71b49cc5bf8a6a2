//! The ABI between Podway's kernel programs and its agent: one module per map family, and the few
//! computations that both sides must do alike.
//!
//! Every map type is `repr(C)` and `Pod`, its padding is named, its size is asserted where it is
//! defined and its bytes are pinned by a test. Integers of the wire are [`Be16`] and [`Be32`];
//! plain integers are in host order. Nothing here is `unsafe`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod address;
pub mod affinity;
pub mod backend_service;
pub mod bench;
pub mod byte_order;
pub mod config;
pub mod conntrack;
pub mod counters;
pub mod endpoint;
pub mod event;
pub mod flow_filter;
pub mod flow_hash;
pub mod fragment;
pub mod frontend;
pub mod interface;
pub mod maps;
pub mod neg;
pub mod protocol;
pub mod socket_flow;
pub mod source_range;
pub mod vip_filter;

pub use address::{Address, Prefix};
pub use byte_order::{Be16, Be32};
