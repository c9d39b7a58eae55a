//! WIT-SVIDs: this server has no key for them, and answers as SPIRE does without its feature flag `wit-svid`.

use hardroot_api::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, NewWitsvidParams, batch_new_witsvid_response,
};
use hardroot_identity::{PublicKeyKind, SpiffeId, check_public_key};
use tonic::{Request, Status};

use super::SvidService;
use crate::api::faults;

impl SvidService {
    /// `BatchNewWITSVID`: each item is judged, and then there is no key.
    pub(super) async fn batch_new_wit(
        &self,
        request: Request<BatchNewWitsvidRequest>,
    ) -> Result<BatchNewWitsvidResponse, Status> {
        let (agent, record, params) = self.batch(request, |message| message.params).await?;
        let results = params
            .into_iter()
            .map(|params| {
                let refused = self.refuse_wit(&agent, &params);
                self.audit.item(&record, &[("entry_id", params.entry_id)], Some(&refused));
                batch_new_witsvid_response::Result { status: Some(faults::item(&refused)), svid: None }
            })
            .collect();
        Ok(BatchNewWitsvidResponse { results })
    }

    fn refuse_wit(&self, agent: &SpiffeId, params: &NewWitsvidParams) -> Status {
        if params.entry_id.is_empty() {
            return Status::invalid_argument("missing entry ID");
        }
        if params.public_key.is_empty() {
            return Status::invalid_argument("missing public key");
        }
        if self.entries.find(agent, &params.entry_id).is_none() {
            return Status::not_found("entry not found or not authorized");
        }
        let kind = match check_public_key(&params.public_key) {
            Ok(kind) => kind,
            Err(fault) => return faults::invalid("malformed public key", fault),
        };
        if let Err(fault) = check_algorithm(kind, &params.signing_algorithm) {
            return faults::invalid("invalid signing algorithm or key type", fault);
        }
        Status::internal("failed to sign WIT-SVID: WIT key is not available for signing")
    }
}

fn check_algorithm(kind: PublicKeyKind, algorithm: &str) -> Result<(), String> {
    let (name, allowed): (_, &[&str]) = match kind {
        PublicKeyKind::Rsa { .. } => ("RSA", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        PublicKeyKind::EcP256 => ("ec-p256", &["ES256"]),
        PublicKeyKind::EcP384 => ("ec-p384", &["ES384"]),
        PublicKeyKind::EcP521 => ("ec-p521", &["ES512"]),
    };
    if allowed.contains(&algorithm) {
        return Ok(());
    }
    Err(format!("unsupported signing algorithm for {name} key: {algorithm}"))
}
