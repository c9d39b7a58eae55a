//! SPIFFE IDs, trust domains, selectors, bundles and SVIDs: parsing, building and judging.
//!
//! No I/O, no clock of its own, no async: time and keys are arguments. The rules come from the SPIFFE
//! standards (SPIFFE-ID, X509-SVID, JWT-SVID, Trust Domain and Bundle).

mod asn1;
mod bundle;
mod bundle_jwks;
mod certificate;
mod csr;
mod dns_name;
mod extensions;
mod issue;
mod json;
mod jwk;
mod jwt;
mod jwt_svid;
mod key;
mod name;
mod oid;
mod pem;
mod selector;
mod spiffe_id;
mod x509_svid;

pub use bundle::{BadBundle, Bundle, JwtAuthority, MAX_BUNDLE_BYTES, X509Authority};
pub use bundle_jwks::{BadBundleMap, MAX_BUNDLE_MAP_BYTES, bundles_from_map, bundles_to_map};
pub use certificate::{BadCertificate, Certificate, MAX_CERTIFICATE_BYTES};
pub use csr::{
    BadCsr, Csr, MAX_CSR_BYTES, MAX_CSR_NAMES, assemble_csr, csr_to_be_signed, csr_to_be_signed_with_names,
};
pub use dns_name::{BadDnsName, MAX_DNS_NAME_BYTES, check_dns_name, check_dns_names};
pub use extensions::{
    AlternativeNames, BasicConstraints, ExtendedKeyUsage, ExtensionFault, Extensions, KeyUsage,
};
pub use issue::{CannotIssue, Issuer, NOT_BEFORE_CUSHION, TbsCertificate, Template, certificate};
pub use jwk::{BadJwk, MAX_KEY_ID_BYTES};
pub use jwt::{
    CannotSignJwt, JwtAlgorithm, JwtClaims, jwt_assemble, jwt_assemble_unverified, jwt_signing_input,
};
pub use jwt_svid::{BadJwtSvid, JwtSvid, MAX_TOKEN_BYTES, verify_jwt_svid};
pub use key::{
    BadPublicKey, MAX_RSA_BITS, MIN_RSA_BITS, PublicKeyKind, SignatureAlgorithm, check_public_key,
    subject_key_id,
};
pub use name::{DistinguishedName, name_text};
pub use pem::{BadPem, MAX_PEM_BYTES, pem_decode, pem_encode};
pub use selector::{BadSelector, Selector};
pub use spiffe_id::{BadSpiffeId, MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain};
pub use x509_svid::{
    BadX509Svid, LeafFault, MAX_CHAIN_CERTIFICATES, X509Svid, is_tainted, verify_x509_svid,
    verify_x509_svid_until,
};

#[cfg(test)]
mod tests;
