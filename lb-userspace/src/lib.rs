//! Podway's user space, in the order in which data flows through it.
pub mod source;

pub mod model;
pub mod plan;

pub mod l7;

pub mod ids;
pub mod ring;

pub mod clock;
pub mod diff;
pub mod kernel_release;
pub mod memory;
pub mod stable_hash;

pub mod ebpf_object;
pub use ebpf_object::EBPF_OBJECT;

pub mod maps;

pub mod drain;
pub mod fragments;
pub mod sockets;
pub mod sweep;

pub mod announce;
pub mod attach;
pub mod events;
pub mod gates;
pub mod health;
pub mod ingress_status;
pub mod lb_pool;
pub mod neg_status;
pub mod peers;
pub mod service_health;

pub mod explain;
pub mod kube_proxy;

pub mod doctor;
pub mod monitor;
pub mod snapshot;
pub mod top;

pub mod metrics;
pub mod plain_server;
pub mod web;

pub mod admin;
pub mod agent;
pub mod cli;
