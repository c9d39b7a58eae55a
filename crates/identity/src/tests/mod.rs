//! One test per requirement. Names that begin with `a1` to `a4` follow the conformance checklist: SPIFFE-ID,
//! X509-SVID, JWT-SVID, trust domain and bundle.

mod bundle;
mod csr;
mod issue;
mod jwt;
mod names;
mod openssl;
mod properties;
mod spiffe_id;
mod support;
mod x509;
