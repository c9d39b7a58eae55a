//! swtpm and SoftHSM for tests: one per test, own address, gone on drop.
