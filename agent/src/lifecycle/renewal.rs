//! Renewal of the agent's SVID at half of its lifetime.

use hardroot_telemetry::Call;
use tokio::time::Instant;

use super::identity::{Attempt, chain_of};
use super::{Ended, Lifecycle, jitter, show_time};
use crate::attest::{AgentKey, check_agent_svid};
use crate::sync::{Hint, Server};

impl<S: Server> Lifecycle<S> {
    /// Renews. After a failure the old SVID stays in use; the log says until when.
    pub(super) async fn renew(&mut self) -> Result<(), Ended> {
        let Some(svid) = self.svid.clone() else { return Ok(()) };
        tracing::info!(spiffe_id = %svid.id, by = if svid.reattestable { "attestation" } else { "RenewAgent" }, "renewing the agent's SVID");
        let call = Call::start("agent_svid.rotate");
        let outcome = match self.key_for_renewal(&svid.key).await {
            Ok(key) if svid.reattestable => self.attest_with(&key).await,
            Ok(key) => self.renew_with(&key).await,
            Err(error) => Err(error),
        };
        call.done(outcome.as_ref().err().map_or("OK", Attempt::status));
        let Err(error) = outcome else { return Ok(()) };
        if let Attempt::Server(refused) = &error {
            self.judge(refused).await?;
        }
        let hint = match &error {
            Attempt::Server(refused) => refused.hint(),
            _ => Hint::Nothing,
        };
        let pause = self.renew_retry.after(Instant::now(), hint, jitter());
        tracing::warn!(
            error = %error,
            cause = %chain_of(&error),
            kept_until = %show_time(svid.not_after),
            retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            "renewal failed; the old SVID is kept"
        );
        Ok(())
    }

    /// The key for the next SVID; made once, however often the renewal has to be tried.
    async fn key_for_renewal(&mut self, current: &AgentKey) -> Result<AgentKey, Attempt> {
        if let Some(key) = &self.pending_key {
            return Ok(key.clone());
        }
        let key = self.keys.for_renewal(current).await?;
        if key != *current {
            self.pending_key = Some(key.clone());
        }
        Ok(key)
    }

    async fn renew_with(&mut self, key: &AgentKey) -> Result<(), Attempt> {
        let csr = self.keys.csr(key, self.csr.as_deref()).await?;
        self.csr = Some(csr.clone());
        let chain = self.server.renew(&csr).await?;
        let bundle = self.own_bundle().ok_or(Attempt::NoBundle)?;
        let checked = match check_agent_svid(&chain, &key.public.spki_der, &bundle, self.clock.now()) {
            Ok(checked) => checked,
            Err(_) => {
                // A server that has just changed its CA may sign with one that is not in the bundle here yet.
                let fresh = self.server.bundle().await?;
                let checked = check_agent_svid(&chain, &key.public.spki_der, &fresh, self.clock.now())?;
                self.take_own_bundle(fresh);
                checked
            }
        };
        self.use_svid(key.clone(), checked, false).await
    }
}
