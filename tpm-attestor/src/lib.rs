//! The TPM: one thread that owns it, evidence collected from it, and pure functions that judge evidence.
