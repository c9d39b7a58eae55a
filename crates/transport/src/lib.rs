//! rustls and tonic glue: SPIFFE verifiers, keys that sign elsewhere, channels and listeners.
