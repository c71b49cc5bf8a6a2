//! Test harness of Podway: simulated nodes and pods in network namespaces, real traffic between
//! them, packets made byte by byte, and what the tests of every tier share.

pub mod api_server;
pub mod cgroup;
pub mod footprint;
pub mod kernel;
pub mod netns;
pub mod packet;
pub mod topology;
pub mod wait;
mod wiring;
pub mod world;
