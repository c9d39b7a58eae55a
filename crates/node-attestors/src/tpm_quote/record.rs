//! What the server remembers of a node.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hardroot_tpm_attestor::verify::ClockInfo;
use serde::{Deserialize, Serialize};

/// A node's record, JSON in the datastore under the agent ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// SHA-256 of the EK's `SubjectPublicKeyInfo`, hex. It never changes under one agent ID.
    pub(super) ek_hash: String,
    ak_public: String,
    /// SHA-256 of the certified agent key's `SubjectPublicKeyInfo`, hex.
    pub(super) key_hash: String,
    /// The policy under which the node attested, hex.
    pub(super) policy_id: String,
    /// The TPM's clock and counters then.
    pub(super) clock: ClockInfo,
    /// What the EK's certificate said, if it was verified.
    pub(super) facts: Facts,
}

/// What a verified EK certificate said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facts {
    pub(super) issuer_cn: Option<String>,
    pub(super) vendor: Option<String>,
    pub(super) model: Option<String>,
    /// When the certificate ends, Unix seconds; 0 when there is none.
    pub(super) until: i64,
}

impl Record {
    pub(super) fn new(
        ek_hash: String,
        ak_public: &[u8],
        key_hash: String,
        policy_id: String,
        clock: ClockInfo,
        facts: Facts,
    ) -> Self {
        let ak_public = BASE64_STANDARD.encode(ak_public);
        Self { version: 1, ek_hash, ak_public, key_hash, policy_id, clock, facts }
    }

    /// Reads a record; `None` when it is of another version or damaged.
    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(data).ok().filter(|record| record.version == 1)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // A struct of strings and numbers always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn ak_public(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(&self.ak_public).ok()
    }
}
