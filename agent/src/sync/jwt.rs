//! `NewJWTSVID`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_api::spire::api::server::svid::v1::NewJwtsvidRequest;
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use zeroize::Zeroizing;

use super::grpc::GrpcServer;
use super::server::{IssuedJwt, JwtIssuer, ServerError};
use super::wire;

const RPC: &str = "NewJWTSVID";

fn protocol(reason: &str) -> ServerError {
    ServerError::Protocol { rpc: RPC, reason: reason.to_owned() }
}

/// A time in seconds since 1970 that must be set.
fn time(seconds: i64, name: &str) -> Result<SystemTime, ServerError> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    seconds
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| protocol(&format!("the answer does not say when the token {name}")))
}

#[async_trait::async_trait]
impl JwtIssuer for GrpcServer {
    async fn new_jwt_svid(
        &self,
        entry_id: &str,
        audience: &[String],
        limit: Duration,
    ) -> Result<IssuedJwt, ServerError> {
        self.call(RPC, limit, async {
            let message = NewJwtsvidRequest { entry_id: entry_id.to_owned(), audience: audience.to_vec() };
            let request = wire::within(message, limit);
            let mut client = SvidClient::new(self.channel().await?);
            let answer = client.new_jwtsvid(request).await.map_err(ServerError::call(RPC))?.into_inner();
            let svid = answer.svid.ok_or_else(|| protocol("the answer holds no SVID"))?;
            let token = Zeroizing::new(svid.token);
            let (issued_at, expires_at) = (time(svid.issued_at, "was made")?, time(svid.expires_at, "ends")?);
            if issued_at > expires_at {
                return Err(protocol("the token ends before it was made"));
            }
            Ok(IssuedJwt { token, expires_at, issued_at })
        })
        .await
    }
}
