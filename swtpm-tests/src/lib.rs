//! Whole-system tests, the demo and the benchmarks: real daemons, real emulators, real clients.
//!
//! [`site::Site`] is a complete installation in a temporary folder: emulators, a server, an agent. Everything
//! in it has its own loopback address and is stopped on drop.

pub mod pem;
