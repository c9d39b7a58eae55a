//! JWT-SVIDs.

use std::time::Duration;

use hardroot_api::spire::api::server::svid::v1::{
    MintJwtsvidRequest, MintJwtsvidResponse, NewJwtsvidRequest, NewJwtsvidResponse,
};
use hardroot_api::spire::api::types;
use hardroot_identity::CannotSignJwt;
use tonic::{Request, Status};
use tracing::error;

use super::{SvidService, record_of, take, ttl};
use crate::api::{convert, faults, patience, spiffe_id};
use crate::attest::chain;
use crate::audit::Record;
use crate::authority::slots::unix_seconds;
use crate::authority::{JwtIssueError, JwtRequest, SignError};
use crate::authz::{Caller, Turns};

impl SvidService {
    /// `MintJWTSVID`: no entry needed, for its caller is an admin.
    pub(super) async fn mint_jwt(
        &self,
        record: &Record,
        patience: Option<Duration>,
        request: MintJwtsvidRequest,
    ) -> Result<MintJwtsvidResponse, Status> {
        let default = self.jwt_default()?;
        record.add("ttl", request.ttl);
        record.add_list("audience", &request.audience);
        let id = convert::workload(&self.config.trust_domain, request.id.as_ref())
            .map_err(|fault| faults::invalid("invalid SPIFFE ID", fault))?;
        let wanted = JwtRequest {
            id: &id,
            audience: &request.audience,
            ttl: ttl(request.ttl, default),
            with_token_id: false,
        };
        let svid = self.sign_jwt(record, wanted, patience).await?;
        Ok(MintJwtsvidResponse { svid: Some(svid) })
    }

    /// `NewJWTSVID`: identity, lifetime and `jti` come from the entry.
    pub(super) async fn new_jwt(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<NewJwtsvidResponse, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let turns = request.extensions().get::<Turns>().cloned();
        let patience = patience(&request);
        let record = record_of(&request);
        let request = request.into_inner();
        record.add("entry_id", request.entry_id.clone());
        record.add_list("audience", &request.audience);
        take(turns, 1, "JWT signing request rate limiting").await?;
        let default = self.jwt_default()?;
        let agent = self.agent(caller.as_ref()).await?;
        let entry = self
            .entries
            .find(&agent, &request.entry_id)
            .ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
        record.add("ttl", entry.jwt_svid_ttl);
        let ttl = ttl(entry.jwt_svid_ttl, default);
        let wanted = JwtRequest {
            id: &entry.spiffe_id,
            audience: &request.audience,
            ttl,
            with_token_id: entry.jwt_svid_include_jti,
        };
        let svid = self.sign_jwt(&record, wanted, patience).await?;
        Ok(NewJwtsvidResponse { svid: Some(svid) })
    }

    fn jwt_default(&self) -> Result<Duration, Status> {
        self.config.default_jwt_svid_ttl.ok_or_else(|| Status::unimplemented("JWT functionality is disabled"))
    }

    async fn sign_jwt(
        &self,
        record: &Record,
        wanted: JwtRequest<'_>,
        patience: Option<Duration>,
    ) -> Result<types::Jwtsvid, Status> {
        record.add("spiffe_id", wanted.id.to_string());
        if wanted.audience.is_empty() {
            return Err(Status::invalid_argument("at least one audience is required"));
        }
        let issued = self.signer.sign_jwt(wanted, patience).await.map_err(not_issued)?;
        record.add("key_id", issued.key_id.clone());
        record.add("expires_at", unix_seconds(issued.expires_at));
        Ok(types::Jwtsvid {
            token: issued.token,
            id: Some(spiffe_id(wanted.id)),
            expires_at: unix_seconds(issued.expires_at),
            issued_at: unix_seconds(issued.issued_at),
            hint: String::new(),
        })
    }
}

/// `Internal`, as SPIRE answers whatever stops a token here. What the caller can mend is told; the rest is in
/// the log.
#[expect(clippy::needless_pass_by_value, reason = "it is a map_err")]
fn not_issued(cause: JwtIssueError) -> Status {
    match &cause {
        JwtIssueError::Sign(SignError::Busy(full)) => faults::busy(full),
        JwtIssueError::Build(CannotSignJwt::NoAudience) => {
            Status::internal("failed to sign JWT-SVID: invalid JWT-SVID audience: cannot be empty")
        }
        JwtIssueError::NoKey => {
            error!(error = %chain(&cause), "a JWT-SVID could not be issued");
            Status::internal(format!("failed to sign JWT-SVID: {cause}"))
        }
        _ => {
            error!(error = %chain(&cause), "a JWT-SVID could not be issued");
            Status::internal("failed to sign JWT-SVID")
        }
    }
}
