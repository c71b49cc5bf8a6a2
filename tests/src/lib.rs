//! Test harness of Podway: simulated nodes and pods in network namespaces, real traffic between
//! them, packets made byte by byte, and what the tests of every tier share.

pub mod need;
pub mod wait;

pub mod cases;
pub mod cgroup;
pub mod footprint;
pub mod foreign;
pub mod netns;
pub mod topology;
mod wiring;
mod xdp_pass;

pub mod agent;
pub mod cluster;
pub mod endurance;
pub mod manifests;
pub mod open_metrics;
pub mod pktgen;
pub mod process;
pub mod raw;
pub mod traffic;
pub mod web;

pub mod packet;

pub mod host_path;
pub mod kernel;
pub mod pins;
pub mod uplink;
pub mod world;

pub mod api_server;
pub mod control_plane;
pub mod deployment;
pub mod gateway_api;
pub mod real_api;

pub mod bench;

pub mod kube_proxy;
pub mod reference;
pub mod sharing;
