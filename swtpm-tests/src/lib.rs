//! Whole-system tests, the demo and the benchmarks: real daemons, real emulators, real clients.
//!
//! [`site::Site`] is an installation in a temporary folder: emulators, a server, agents. Everything in it has
//! its own loopback address and is stopped on drop.

pub mod daemon;
pub mod malformed;
pub mod measure;
pub mod site;
pub mod wait;
