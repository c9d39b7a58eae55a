//! X509-SVID issuance against the token's raw signing rate (row P1).

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use hardroot_api::spire::api::server::svid::v1::svid_client::SvidClient;
use hardroot_api::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};
use tokio::task::JoinSet;

use super::report::Row;
use super::{raw_token, wire};
use crate::site::Site;

const AGENTS: usize = 8;
const BATCH: usize = 50;
const BATCHES: usize = 50;

/// Eight agents ask for 20,000 SVIDs in batches of 50.
///
/// # Errors
/// The server or the token failed.
pub fn measure(runtime: &tokio::runtime::Runtime) -> Result<Vec<Row>> {
    let mut site = Site::new()?;
    site.server_lines =
        "    ratelimit {\n        attestation = false\n        signing = false\n    }\n".to_owned();
    site.start_server()?;
    site.write_bundle()?;
    let before = raw_token::rate(&site, 1)?;

    let mut jobs = Vec::new();
    for _ in 0..AGENTS {
        let token = site.join_token()?;
        let channel = runtime.block_on(wire::join(&site, &token))?;
        let parent = format!("spiffe://example.org/spire/agent/join_token/{token}");
        let entry = site.create_entry(&parent, "spiffe://example.org/app", &["unix:uid:1"], &[])?;
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::default().serialize_request(&key)?.der().to_vec();
        jobs.push((
            channel,
            BatchNewX509svidRequest { params: vec![NewX509svidParams { entry_id: entry, csr }; BATCH] },
        ));
    }
    let seconds = runtime.block_on(async {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for (channel, request) in jobs {
            tasks.spawn(async move {
                let mut api = SvidClient::new(channel);
                for _ in 0..BATCHES {
                    let answer = api.batch_new_x509svid(request.clone()).await?.into_inner();
                    let bad = answer.results.iter().find(|result| result.svid.is_none());
                    ensure!(bad.is_none(), "an item failed: {bad:?}");
                }
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.context("a task died")??;
        }
        anyhow::Ok(begun.elapsed().as_secs_f64())
    })?;
    let after = raw_token::rate(&site, 1)?;
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let measured = (AGENTS * BATCHES * BATCH) as f64 / seconds;
    Ok(vec![Row {
        what: format!("X509-SVIDs issued, SoftHSM P-256, {AGENTS} agents, batches of {BATCH}"),
        measured,
        limit: f64::midpoint(before, after),
        limit_is: "raw C_Sign loop, same token, before and after, idle machine".into(),
        unit: "/s",
    }])
}
