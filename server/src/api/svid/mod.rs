//! `spire.api.server.svid.v1.SVID`: X.509-SVIDs for workloads.

mod names;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hardroot_api::spire::api::server::svid::v1::svid_server::Svid;
use hardroot_api::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
    MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
    MintX509svidResponse, NewDownstreamX509caRequest, NewDownstreamX509caResponse, NewJwtsvidRequest,
    NewJwtsvidResponse, NewX509svidParams, batch_new_x509svid_response,
};
use hardroot_api::spire::api::types::{self, X509svid};
use hardroot_identity::{Csr, SpiffeId, Template, TrustDomain};
use tonic::{Code, Request, Response, Status};
use tracing::error;

use crate::api::spiffe_id;
use crate::attest::chain;
use crate::audit::{Audit, Record, sha256_hex};
use crate::authority::slots::unix_seconds;
use crate::authority::{IssueError, Issued, Signer};
use crate::authz::{Caller, Turns};
use crate::datastore::Entry;
use crate::entries::AuthorizedEntries;

/// Certificates of one batch that are signed at the same time.
const PARALLEL: usize = 16;

/// The service.
pub struct SvidService {
    trust_domain: TrustDomain,
    default_ttl: Duration,
    entries: Arc<AuthorizedEntries>,
    signer: Arc<Signer>,
    audit: Audit,
}

impl SvidService {
    /// The service; `default_ttl` is for entries and requests that name no lifetime.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        default_ttl: Duration,
        entries: Arc<AuthorizedEntries>,
        signer: Arc<Signer>,
        audit: Audit,
    ) -> Self {
        Self { trust_domain, default_ttl, entries, signer, audit }
    }

    fn ttl(&self, seconds: i32) -> Duration {
        match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => self.default_ttl,
        }
    }

    /// One item of a batch: everything but the public key comes from the entry.
    async fn new_svid(
        &self,
        agent: &SpiffeId,
        params: &NewX509svidParams,
    ) -> Result<(Arc<Entry>, Issued), Status> {
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
        let csr = Csr::parse(&params.csr)
            .map_err(|error| Status::invalid_argument(format!("malformed CSR: {error}")))?;
        if !csr.signature_valid {
            return Err(Status::invalid_argument("invalid CSR signature"));
        }
        let issued = self
            .signer
            .sign_x509(
                Template::Workload { dns_names: &entry.dns_names },
                &entry.spiffe_id,
                &csr.spki_der,
                self.ttl(entry.x509_svid_ttl),
            )
            .await
            .map_err(not_issued)?;
        Ok((entry, issued))
    }

    async fn item(
        &self,
        agent: &SpiffeId,
        params: NewX509svidParams,
        record: &Record,
    ) -> batch_new_x509svid_response::Result {
        let outcome = self.new_svid(agent, &params).await;
        let mut facts = vec![("entry_id", params.entry_id.clone()), ("csr", sha256_hex(&params.csr))];
        match outcome {
            Ok((entry, issued)) => {
                facts.push(("spiffe_id", entry.spiffe_id.to_string()));
                facts.extend(of_certificate(&issued));
                self.audit.item(record, &facts, None);
                batch_new_x509svid_response::Result {
                    status: Some(types::Status { code: Code::Ok.into(), message: "OK".to_owned() }),
                    svid: Some(x509_svid(&entry.spiffe_id, issued)),
                }
            }
            Err(status) => {
                self.audit.item(record, &facts, Some(&status));
                batch_new_x509svid_response::Result {
                    status: Some(types::Status {
                        code: status.code().into(),
                        message: status.message().to_owned(),
                    }),
                    svid: None,
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let record = record_of(&request);
        let request = request.into_inner();
        record.add_csr(&request.csr);
        let (id, csr) = names::of_mint_csr(&self.trust_domain, &request.csr)?;
        record.add("spiffe_id", id.to_string());
        let template =
            Template::WorkloadWithSubject { subject_der: &csr.subject_der, dns_names: &csr.dns_names };
        let issued = self
            .signer
            .sign_x509(template, &id, &csr.spki_der, self.ttl(request.ttl))
            .await
            .map_err(not_issued)?;
        for (name, value) in of_certificate(&issued) {
            record.add(name, value);
        }
        Ok(Response::new(MintX509svidResponse { svid: Some(x509_svid(&id, issued)) }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let Some(Caller::Agent { id: agent, .. }) = request.extensions().get::<Caller>().cloned() else {
            return Err(Status::internal("caller ID missing from request context"));
        };
        let turns = request.extensions().get::<Turns>().cloned();
        let record = record_of(&request);
        let params = request.into_inner().params;
        if params.is_empty() {
            return Err(Status::invalid_argument("missing parameters"));
        }
        if let Some(turns) = turns {
            turns.take(params.len()).await?;
        }
        self.entries.current().await.map_err(|cause| {
            error!(error = %chain(&cause), "the caller's entries could not be read");
            Status::unavailable("failed to fetch registration entries")
        })?;
        record.by_handler();
        let results = stream::iter(params)
            .map(|params| self.item(&agent, params, &record))
            .buffered(PARALLEL)
            .collect()
            .await;
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn mint_jwtsvid(
        &self,
        _request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        Err(Status::unimplemented("this server does not issue JWT-SVIDs"))
    }

    async fn new_jwtsvid(
        &self,
        _request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(Status::unimplemented("this server does not issue JWT-SVIDs"))
    }

    async fn mint_witsvid(
        &self,
        _request: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("this server does not issue WIT-SVIDs"))
    }

    async fn batch_new_witsvid(
        &self,
        _request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented("this server does not issue WIT-SVIDs"))
    }

    async fn new_downstream_x509ca(
        &self,
        _request: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(Status::unimplemented("this server does not issue intermediate CAs"))
    }
}

fn record_of<T>(request: &Request<T>) -> Record {
    request.extensions().get::<Record>().cloned().unwrap_or_else(|| Record::new("SVID"))
}

fn of_certificate(issued: &Issued) -> [(&'static str, String); 3] {
    [
        ("key_id", issued.authority_id.clone()),
        ("serial_number", issued.serial.clone()),
        ("expires_at", unix_seconds(issued.not_after).to_string()),
    ]
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
    if cause.is_our_fault() {
        error!(error = %chain(&cause), "an X509-SVID could not be issued");
        Status::internal("failed to sign X509-SVID")
    } else {
        Status::invalid_argument(format!("failed to sign X509-SVID: {}", chain(&cause)))
    }
}
