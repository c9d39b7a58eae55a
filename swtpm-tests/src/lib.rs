//! Whole-system tests, the demo and the benchmarks, on real emulators and real clients.
