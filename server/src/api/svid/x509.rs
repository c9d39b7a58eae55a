//! X509-SVIDs.

use futures_util::{StreamExt, stream};
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, BatchNewX509svidResponse, MintX509svidRequest, MintX509svidResponse,
    NewX509svidParams, batch_new_x509svid_response,
};
use hardroot_api::spire::api::types::X509svid;
use hardroot_identity::{SpiffeId, Template};
use tonic::{Request, Status};
use tracing::error;

use super::{SvidService, key_of_csr, names, of_certificate, ttl};
use crate::api::{faults, patience, spiffe_id};
use crate::attest::chain;
use crate::audit::{Details, Record, sha256_hex};
use crate::authority::queue::{Class, Places};
use crate::authority::slots::unix_seconds;
use crate::authority::{IssueError, Issued};
use crate::datastore::Entry;

impl SvidService {
    /// `MintX509SVID`: here the CSR names identity, subject and DNS names, for its caller is an admin.
    pub(super) async fn mint_x509(
        &self,
        record: &Record,
        request: MintX509svidRequest,
    ) -> Result<MintX509svidResponse, Status> {
        record.add_csr(&request.csr);
        record.add("ttl", request.ttl);
        let (id, csr) = names::of_mint_csr(&self.config.trust_domain, &request.csr)?;
        record.add("spiffe_id", id.to_string());
        record.add_list("dns_name", &csr.dns_names);
        let template =
            Template::WorkloadWithSubject { subject_der: &csr.subject_der, dns_names: &csr.dns_names };
        let issued = self
            .signer
            .sign_x509(template, &id, &csr.spki_der, ttl(request.ttl, self.config.default_x509_svid_ttl))
            .await
            .map_err(not_issued)?;
        record.extend(of_certificate(&issued));
        Ok(MintX509svidResponse { svid: Some(x509_svid(&id, issued)) })
    }

    /// `BatchNewX509SVID`. Items that cannot be signed in time are refused one by one; agents ask for them again.
    pub(super) async fn batch_new_x509(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<BatchNewX509svidResponse, Status> {
        let patience = patience(&request);
        let (agent, record, params) = self.batch(request, |message| message.params).await?;
        let queue = self.signer.queue();
        let places = queue.admit(Class::Workload, params.len(), patience).map_err(|full| {
            let refused = faults::busy(&full);
            self.audit.item(&record, Details::default(), Some(&refused));
            refused
        })?;
        let results = stream::iter(params)
            .map(|params| self.x509_item(&agent, params, &places, &record))
            .buffered(queue.width())
            .collect()
            .await;
        Ok(BatchNewX509svidResponse { results })
    }

    /// One item of a batch: everything but the public key comes from the entry.
    async fn new_x509(
        &self,
        agent: &SpiffeId,
        params: &NewX509svidParams,
        places: &Places,
    ) -> Result<(Entry, Issued), Status> {
        if params.entry_id.is_empty() {
            return Err(Status::invalid_argument("missing entry ID"));
        }
        if params.csr.is_empty() {
            return Err(Status::invalid_argument("missing CSR"));
        }
        let entry = self
            .entries
            .find(agent, &params.entry_id)
            .ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        let csr = key_of_csr(&params.csr)?;
        let issued = self
            .signer
            .sign_x509_in(
                places,
                Template::Workload { dns_names: &entry.dns_names },
                &entry.spiffe_id,
                &csr.spki_der,
                ttl(entry.x509_svid_ttl, self.config.default_x509_svid_ttl),
            )
            .await
            .map_err(not_issued)?;
        Ok((entry, issued))
    }

    async fn x509_item(
        &self,
        agent: &SpiffeId,
        params: NewX509svidParams,
        places: &Places,
        record: &Record,
    ) -> batch_new_x509svid_response::Result {
        let outcome = self.new_x509(agent, &params, places).await;
        let mut facts = Details::default();
        facts.add("entry_id", params.entry_id.as_str());
        facts.add("csr", sha256_hex(&params.csr));
        let outcome = match outcome {
            Ok((entry, issued)) => {
                facts.add("spiffe_id", entry.spiffe_id.as_str());
                facts.extend(of_certificate(&issued));
                let recorded = self.audit.issued(record, facts);
                recorded.map(|()| x509_svid(&entry.spiffe_id, issued))
            }
            Err(status) => {
                self.audit.item(record, facts, Some(&status));
                Err(status)
            }
        };
        let (status, svid) = faults::outcome(outcome);
        batch_new_x509svid_response::Result { status, svid }
    }
}

fn x509_svid(id: &SpiffeId, issued: Issued) -> X509svid {
    X509svid {
        id: Some(spiffe_id(id)),
        expires_at: unix_seconds(issued.not_after),
        cert_chain: issued.chain,
        hint: String::new(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is a map_err")]
fn not_issued(cause: IssueError) -> Status {
    if let Some(full) = cause.busy() {
        faults::busy(full)
    } else if cause.is_our_fault() {
        error!(error = %chain(&cause), "an X509-SVID could not be issued");
        Status::internal("failed to sign X509-SVID")
    } else {
        Status::invalid_argument(format!("failed to sign X509-SVID: {}", chain(&cause)))
    }
}
