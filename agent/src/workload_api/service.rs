//! The protocol: SpiffeWorkloadAPI, health and reflection.

use std::sync::Arc;

use futures_util::future::try_join_all;
use futures_util::stream::Empty;
use hardroot_api::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use hardroot_api::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest, WitsvidResponse,
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use hardroot_identity::{SpiffeId, verify_jwt_svid};
use hardroot_runtime::shutdown::Shutdown;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::connection::Caller;
use super::push::{Kind, Push};
use super::session::{Session, Wants, jwt_subjects};
use super::{LEEWAY, WorkloadApi, WorkloadApiError, claims};
use crate::source::{Availability, JwtSubject};

/// The name of the service; the protocol's file has no package.
const SERVICE: &str = "SpiffeWorkloadAPI";

/// The most audiences of one request, and identities it may be multiplied with.
const MAX_AUDIENCES: usize = 64;

/// What all calls share.
pub(super) struct Shared {
    pub(super) api: WorkloadApi,
    pub(super) attestations: Semaphore,
    pub(super) shutdown: Shutdown,
}

impl Shared {
    pub(super) fn new(api: WorkloadApi, shutdown: Shutdown) -> Self {
        let attestations = Semaphore::new(api.limits.attestations_at_once.max(1));
        Self { api, attestations, shutdown }
    }
}

/// All services of the socket.
pub(super) fn routes(shared: &Arc<Shared>) -> Result<(Routes, HealthReporter), WorkloadApiError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let workload = SpiffeWorkloadApiServer::new(Service { shared: Arc::clone(shared) })
        .max_decoding_message_size(shared.api.limits.max_message_bytes);
    let workload = InterceptedService::new(workload, require_header);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(hardroot_api::WORKLOAD_FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE)
            .with_service_name("grpc.health.v1.Health")
    };
    let routes = Routes::new(workload)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    Ok((routes, reporter))
}

/// Exactly one `workload.spiffe.io: true` (SPIFFE Workload Endpoint 4.3): a browser or a confused proxy cannot send it by accident.
fn require_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all("workload.spiffe.io").iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(request),
        _ => Err(Status::new(Code::InvalidArgument, "security header missing from request")),
    }
}

struct Service {
    shared: Arc<Shared>,
}

/// What a handler returns of a call that stays open: its messages come by [`Push`].
type Answers<T> = Empty<Result<T, Status>>;

impl Service {
    fn caller<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
        let caller = request.extensions().get::<Arc<Caller>>().cloned();
        caller.ok_or_else(|| Status::new(Code::Unavailable, "workload attestation failed"))
    }

    /// Messages made of updates, each only when it differs from the one before.
    async fn stream<T, R>(&self, request: Request<R>, kind: Kind) -> Result<Response<Answers<T>>, Status> {
        let wants = if kind == Kind::X509Svids { Wants::Identities } else { Wants::Bundles };
        let session = Session::start(&self.shared, Self::caller(&request)?, wants).await?;
        let mut response = Response::new(futures_util::stream::empty());
        response.extensions_mut().insert(Push::new(session, kind));
        Ok(response)
    }

    async fn token(&self, subject: &JwtSubject, audience: &[String]) -> Result<Jwtsvid, Status> {
        let svid = self
            .shared
            .api
            .jwt
            .fetch(subject, audience)
            .await
            .map_err(|why| Status::new(Code::Unavailable, format!("could not fetch JWT-SVID: {why}")))?;
        Ok(Jwtsvid { spiffe_id: subject.spiffe_id.to_string(), svid, hint: subject.hint.clone() })
    }
}

fn invalid(message: &str) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn no_wit() -> Status {
    Status::new(Code::Unimplemented, "this agent issues no WIT-SVIDs")
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Answers<X509svidResponse>>, Status> {
        self.stream(request, Kind::X509Svids).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Answers<X509BundlesResponse>>, Status> {
        self.stream(request, Kind::X509Bundles).await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Answers<JwtBundlesResponse>>, Status> {
        self.stream(request, Kind::JwtBundles).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let asked = request.get_ref();
        if asked.audience.is_empty() || asked.audience.iter().any(String::is_empty) {
            return Err(invalid("audience must be specified"));
        }
        if asked.audience.len() > MAX_AUDIENCES {
            return Err(invalid("too many audiences"));
        }
        let wanted: Option<SpiffeId> = match asked.spiffe_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|e| invalid(&format!("invalid requested SPIFFE ID: {e}")))?),
        };
        if wanted.as_ref().is_some_and(|id| !id.is_member_of(self.shared.api.source.trust_domain())) {
            return Err(invalid("invalid requested SPIFFE ID: it is of another trust domain"));
        }
        let caller = Self::caller(&request)?;
        let subjects = jwt_subjects(&self.shared, &caller).await?;
        let asked_for = |subject: &&JwtSubject| wanted.as_ref().is_none_or(|id| *id == subject.spiffe_id);
        let tokens = subjects.iter().filter(asked_for).map(|subject| self.token(subject, &asked.audience));
        let svids = try_join_all(tokens).await?;
        if svids.is_empty() {
            return Err(Status::new(Code::PermissionDenied, "no identity issued"));
        }
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        if request.get_ref().audience.is_empty() {
            return Err(invalid("audience must be specified"));
        }
        if request.get_ref().svid.is_empty() {
            return Err(invalid("svid must be specified"));
        }
        let mut session = Session::start(&self.shared, Self::caller(&request)?, Wants::Verdict).await?;
        let update = session.next().await?;
        let ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        let now = self.shared.api.clock.now();
        let judged =
            verify_jwt_svid(&svid, &[audience], |domain| update.bundles.get(domain).cloned(), now, LEEWAY)
                .map_err(|why| invalid(&why.to_string()))?;
        let claims = if judged.id.is_member_of(&update.trust_domain) {
            judged.claims
        } else {
            claims::foreign(judged.claims, &self.shared.api.foreign_claims)
        };
        let claims = Some(claims::to_struct(claims));
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id: judged.id.to_string(), claims }))
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Answers<WitsvidResponse>>, Status> {
        Err(no_wit())
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Answers<WitBundlesResponse>>, Status> {
        Err(no_wit())
    }
}

/// Health says "serving" as soon as callers can be told what they have, also if that is nothing. What it says at
/// first is settled before this returns, so that nobody sees the reporter's own first word.
pub(super) async fn follow_health(shared: &Arc<Shared>, reporter: HealthReporter) -> JoinHandle<()> {
    let mut availability = shared.api.source.subscribe(Vec::new());
    tell_health(&reporter, &mut availability).await;
    tokio::spawn(async move {
        while availability.changed().await.is_ok() {
            tell_health(&reporter, &mut availability).await;
        }
    })
}

async fn tell_health(
    reporter: &HealthReporter,
    availability: &mut tokio::sync::watch::Receiver<Availability>,
) {
    let status = match &*availability.borrow_and_update() {
        Availability::Starting => ServingStatus::NotServing,
        _ => ServingStatus::Serving,
    };
    for service in ["", SERVICE] {
        reporter.set_service_status(service, status).await;
    }
}
