//! Podway's packet path.
#![no_std]
