//! What the TPM vouches for: credential activation, certification of a key, and quotes.

use tss_esapi::handles::{KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    Attest, Data, EncryptedSecret, IdObject, PcrSelectSize, PcrSelectionList, PcrSlot, Signature,
    SignatureScheme,
};
use tss_esapi::traits::Marshall;
use zeroize::Zeroizing;

use super::chip::{Chip, Cover, NONE};
use super::queue::Urgency;
use super::{EndorsementKey, Tpm, TpmError, WrappedKey};
use crate::verify::{self, AttestKind, HashAlg};

/// PCRs may be extended between reading and quoting them; then both are done again, this often.
const QUOTE_TRIES: usize = 4;

/// A quote and the PCR values it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// Values in ascending order of their PCRs.
    pub pcr_values: Vec<Vec<u8>>,
}

/// The AK's word on another key of the same TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certification {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The certified key's `TPMT_PUBLIC`.
    pub public: Vec<u8>,
}

/// What a full attestation needs of the TPM.
#[derive(Debug, Clone)]
pub struct ProofRequest {
    /// The endorsement key, as found before.
    pub ek: EndorsementKey,
    /// The attestation key under it.
    pub ak: WrappedKey,
    /// The agent's key, under the storage root key.
    pub key: WrappedKey,
    /// `TPMS_ID_OBJECT` of the server's credential.
    pub credential: Vec<u8>,
    /// The encrypted seed of the server's credential.
    pub encrypted_seed: Vec<u8>,
    /// Qualifying data of both attestations.
    pub qualifying_data: [u8; 32],
    /// PCR bank.
    pub bank: HashAlg,
    /// PCRs, ascending.
    pub pcrs: Vec<u8>,
}

/// The TPM's answer to a [`ProofRequest`].
#[derive(Debug, Clone)]
pub struct Proof {
    /// The secret from the credential.
    pub activation: Zeroizing<Vec<u8>>,
    /// The agent's key certified by the AK.
    pub certification: Certification,
    /// The quote.
    pub quote: Quote,
}

impl Tpm {
    /// Activates the credential, certifies the agent's key and quotes, in this order and as one job: three private-key operations.
    ///
    /// # Errors
    /// A key is not of this TPM, the credential is not for EK and AK, or the TPM fails.
    pub async fn prove(&self, request: ProofRequest) -> Result<Proof, TpmError> {
        self.run("prove itself", Urgency::Normal, self.timeout, move |chip| {
            // The credential first: a server that does not know EK and AK gets no signature.
            let (ak, activation) = chip.activate(&request)?;
            let srk = chip.srk()?;
            let key = chip.load(srk, None, &request.key)?;
            let certification = chip.certify(ak, key, &request)?;
            let quote = chip.quote(ak, &request.qualifying_data, request.bank, &request.pcrs)?;
            Ok(Proof { activation, certification, quote })
        })
        .await
    }

    /// Quotes PCRs: one private-key operation.
    ///
    /// # Errors
    /// The AK is not of this TPM, the bank is not active, or the TPM fails.
    pub async fn quote(
        &self,
        ek: &EndorsementKey,
        ak: &WrappedKey,
        qualifying_data: [u8; 32],
        bank: HashAlg,
        pcrs: &[u8],
    ) -> Result<Quote, TpmError> {
        let (ek, ak, pcrs) = (ek.clone(), ak.clone(), pcrs.to_vec());
        self.run("quote", Urgency::Normal, self.timeout, move |chip| {
            let ak = chip.load_attestation_key(&ek, &ak)?;
            chip.quote(ak, &qualifying_data, bank, &pcrs)
        })
        .await
    }

    /// Checks that this TPM loads an AK under that EK. It uses no private key.
    ///
    /// # Errors
    /// [`TpmError::ForeignKey`], [`TpmError::ReplacedEndorsementKey`], or the TPM fails.
    pub async fn check_attestation_key(&self, ek: &EndorsementKey, ak: &WrappedKey) -> Result<(), TpmError> {
        let (ek, ak) = (ek.clone(), ak.clone());
        self.run("load the attestation key", Urgency::Normal, self.timeout * 4, move |chip| {
            chip.load_attestation_key(&ek, &ak).map(|_handle| ())
        })
        .await
    }

    /// Reads PCR values, in the order of `pcrs`, which ascends.
    ///
    /// # Errors
    /// The bank is not active, or the TPM fails.
    pub async fn pcrs(&self, bank: HashAlg, pcrs: &[u8]) -> Result<Vec<Vec<u8>>, TpmError> {
        let pcrs = pcrs.to_vec();
        self.run("read PCRs", Urgency::Normal, self.timeout, move |chip| chip.pcrs(bank, &pcrs)).await
    }
}

impl Chip {
    fn load_attestation_key(&mut self, ek: &EndorsementKey, ak: &WrappedKey) -> Result<KeyHandle, TpmError> {
        let (parent, public) = self.endorsement_handle(ek)?;
        let session = self.endorsement_session(&public)?;
        let ak = self.load(parent, Some(session), ak)?;
        self.release(SessionHandle::from(session));
        self.release(parent);
        Ok(ak)
    }

    /// Loads the AK and gives it with the activated secret.
    fn activate(&mut self, request: &ProofRequest) -> Result<(KeyHandle, Zeroizing<Vec<u8>>), TpmError> {
        const OP: &str = "activate the credential";
        let command = |cause: tss_esapi::Error| TpmError::Command { op: OP, cause: cause.into() };
        let (parent, public) = self.endorsement_handle(&request.ek)?;
        let session = self.endorsement_session(&public)?;
        let ak = self.load(parent, Some(session), &request.ak)?;
        // There are three session slots too.
        self.release(SessionHandle::from(session));
        let policy = self.endorsement_session(&public)?;
        let credential = IdObject::try_from(request.credential.as_slice()).map_err(command)?;
        let seed = EncryptedSecret::try_from(request.encrypted_seed.as_slice()).map_err(command)?;
        // The secret comes back encrypted, so that nobody who listens on the bus has it.
        let session = self.authorisation(true, Cover::Both)?;
        let secret = self.run(OP, (Some(session), Some(policy), None), |tpm| {
            tpm.activate_credential(ak, parent, credential.clone(), seed.clone())
        })?;
        self.release(SessionHandle::from(policy));
        // An EK that is not persistent would not fit into three slots with what follows.
        self.release(parent);
        Ok((ak, Zeroizing::new(secret.value().to_vec())))
    }

    fn certify(
        &mut self,
        ak: KeyHandle,
        key: KeyHandle,
        request: &ProofRequest,
    ) -> Result<Certification, TpmError> {
        const OP: &str = "certify the agent's key";
        let data = Data::try_from(request.qualifying_data.as_slice())
            .map_err(|cause| TpmError::Command { op: OP, cause: cause.into() })?;
        let has_auth = !self.secrets.key.is_empty();
        // Both keys have the same auth value, and one session proves it for only one of them.
        let first = self.authorisation(has_auth, Cover::Nothing)?;
        let second = if has_auth { self.second_session()? } else { first };
        let (attest, signature) = self.run(OP, (Some(first), Some(second), None), |tpm| {
            tpm.certify(key.into(), ak, data.clone(), SignatureScheme::Null)
        })?;
        let (attest, signature) = marshalled(OP, &attest, &signature)?;
        Ok(Certification { attest, signature, public: request.key.public.clone() })
    }

    fn quote(
        &mut self,
        ak: KeyHandle,
        qualifying_data: &[u8],
        bank: HashAlg,
        pcrs: &[u8],
    ) -> Result<Quote, TpmError> {
        const OP: &str = "quote";
        let data = Data::try_from(qualifying_data)
            .map_err(|cause| TpmError::Command { op: OP, cause: cause.into() })?;
        let selection = selection(OP, bank, pcrs)?;
        for _ in 0..QUOTE_TRIES {
            let pcr_values = self.pcrs(bank, pcrs)?;
            let session = self.authorisation(!self.secrets.key.is_empty(), Cover::Nothing)?;
            let (attest, signature) = self.run(OP, (Some(session), None, None), |tpm| {
                tpm.quote(ak, data.clone(), SignatureScheme::Null, selection.clone())
            })?;
            let (attest, signature) = marshalled(OP, &attest, &signature)?;
            let decoded =
                verify::Attest::parse(&attest).map_err(|cause| TpmError::Evidence { op: OP, cause })?;
            let AttestKind::Quote { digest, .. } = decoded.kind() else {
                return Err(TpmError::Answer { op: OP, reason: "no quote".to_owned() });
            };
            let parts: Vec<&[u8]> = pcr_values.iter().map(Vec::as_slice).collect();
            // The AK signs with SHA-256, which is then the hash of the digest too (part 3, 18.4).
            if *digest == HashAlg::Sha256.digest(&parts) {
                return Ok(Quote { attest, signature, pcr_values });
            }
        }
        Err(TpmError::Answer { op: OP, reason: "the PCRs change faster than they can be quoted".to_owned() })
    }

    fn pcrs(&mut self, bank: HashAlg, pcrs: &[u8]) -> Result<Vec<Vec<u8>>, TpmError> {
        const OP: &str = "read PCRs";
        let mut values = Vec::with_capacity(pcrs.len());
        while let Some(missing) = pcrs.get(values.len()..).filter(|missing| !missing.is_empty()) {
            let selection = selection(OP, bank, missing)?;
            let (_, _, digests) = self.run(OP, NONE, |tpm| tpm.pcr_read(selection.clone()))?;
            // A TPM gives as many as fit, the lowest first.
            if digests.is_empty() || digests.len() > missing.len() {
                return Err(TpmError::Answer {
                    op: OP,
                    reason: format!("the {} bank is not active in this TPM", bank.as_str()),
                });
            }
            values.extend(digests.value().iter().map(|digest| digest.value().to_vec()));
        }
        Ok(values)
    }
}

fn marshalled(
    op: &'static str,
    attest: &Attest,
    signature: &Signature,
) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
    let command = |cause: tss_esapi::Error| TpmError::Command { op, cause: cause.into() };
    Ok((attest.marshall().map_err(command)?, signature.marshall().map_err(command)?))
}

fn selection(op: &'static str, bank: HashAlg, pcrs: &[u8]) -> Result<PcrSelectionList, TpmError> {
    let algorithm = match bank {
        HashAlg::Sha256 => HashingAlgorithm::Sha256,
        HashAlg::Sha384 => HashingAlgorithm::Sha384,
        HashAlg::Sha512 => HashingAlgorithm::Sha512,
    };
    let command = |cause: tss_esapi::Error| TpmError::Command { op, cause: cause.into() };
    let slots: Vec<PcrSlot> = pcrs
        .iter()
        .map(|pcr| PcrSlot::try_from(1_u32.checked_shl(u32::from(*pcr)).unwrap_or(0)))
        .collect::<Result<_, _>>()
        .map_err(command)?;
    PcrSelectionList::builder()
        .with_size_of_select(PcrSelectSize::ThreeOctets)
        .with_selection(algorithm, &slots)
        .build()
        .map_err(command)
}
