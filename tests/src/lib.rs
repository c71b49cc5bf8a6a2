//! Test harness of Podway.

pub mod api_server;
