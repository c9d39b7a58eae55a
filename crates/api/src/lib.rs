//! The wire: SPIRE's and SPIFFE's protocols and the generated code.
