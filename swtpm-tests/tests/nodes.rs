//! How nodes join, stay and leave: every attestor, positive and negative, through the real daemons.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod common;

use std::fs;

use common::{NodeCertificates, enrol, fetch_id, me, only_agent, quote_site, token_site};
use hardroot_emulators::{Manufacturer, Shutdown, Swtpm, TpmProxy, code};
use hardroot_hsm_keymanager::tpm::{Config as TpmKeyManagerConfig, TpmKeyManager};
use hardroot_hsm_keymanager::{KeyId, KeyManager as _, KeyType};
use hardroot_swtpm_tests::site::{AgentSetup, Keys, Site};
use hardroot_swtpm_tests::wait;
use hardroot_tpm_attestor::device::{Config as TpmConfig, Tpm};

fn log(site: &Site) -> String {
    fs::read_to_string(site.folder().join("server.log")).unwrap()
}

fn wait_server_log(site: &Site, text: &str) {
    wait::until(text, wait::DEADLINE, || Ok(log(site).contains(text).then_some(()))).unwrap();
}

#[test]
fn an_enrolled_tpm_joins_and_its_workload_gets_an_svid() {
    let tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "required");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    let hash = enrol(&site, &agent);
    agent.start().unwrap();
    let id = only_agent(&site);
    assert_eq!(id, format!("spiffe://example.org/spire/agent/tpm_quote/{hash}"));
    let shown = site.server_command(&["agent", "show", "-spiffeID", &id, "-output", "json"]).unwrap();
    let shown = shown.success().unwrap().stdout;
    for selector in [&format!("ek_hash:{hash}"), "pcr:sha256:0:", "pcr:sha256:7:", "vendor:", "firmware:"] {
        assert!(shown.contains(selector), "{selector} is missing in {shown}");
    }
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    agent.stop().unwrap();
}

#[test]
fn a_tpm_that_is_not_enrolled_waits_outside_until_it_is() {
    let tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "required");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    agent.launch().unwrap();
    wait_server_log(&site, "not_enrolled");
    assert!(site.agent_ids().unwrap().is_empty());
    enrol(&site, &agent);
    wait::until("the enrolled node joins", wait::DEADLINE, || {
        Ok((!site.agent_ids()?.is_empty()).then_some(()))
    })
    .unwrap();
}

#[test]
fn endorsement_alone_suffices_when_the_operator_says_so_but_not_from_another_manufacturer() {
    let tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "endorsement");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    agent.start().unwrap();
    assert_eq!(site.agent_ids().unwrap().len(), 1);

    let foreign = Manufacturer::new().unwrap().make_tpm().unwrap();
    let mut other = site.agent("other", AgentSetup::tpm(&foreign.tcti())).unwrap();
    other.launch().unwrap();
    wait_server_log(&site, "ek_certificate");
    assert_eq!(site.agent_ids().unwrap().len(), 1, "a TPM of an unknown manufacturer joined");
}

#[test]
fn a_new_box_attests_with_five_private_key_operations_and_comes_back_with_one() {
    let tpm = Swtpm::start().unwrap();
    let proxy = TpmProxy::before(&tpm).unwrap();
    let site = quote_site(&tpm, "endorsement");
    let mut agent = site.agent("agent", AgentSetup::tpm(&proxy.tcti())).unwrap();
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    // An SVID means that the connection with the new certificate is in use.
    fetch_id(&agent, "spiffe://example.org/app");
    let counted = [code::ACTIVATE_CREDENTIAL, code::CERTIFY, code::QUOTE, code::SIGN].map(|c| proxy.count(c));
    assert_eq!(counted, [1, 1, 1, 2], "activation, certification, quote; the request and the TLS handshake");
    assert_eq!(proxy.private_key_operations(), 5);
    assert_eq!(proxy.salted_sessions(), 1, "one session for as long as the TPM is open");
    agent.stop().unwrap();

    proxy.reset_counts();
    agent.start().unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    assert_eq!(proxy.private_key_operations(), 1, "TLS with the stored certificate");
    assert_eq!(proxy.salted_sessions(), 0);
}

#[test]
fn an_enrolled_path_becomes_the_agent_id() {
    let tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "required");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    let hash = common::ek_hash(&agent);
    let enrolled = site
        .server_command(&["tpm", "enroll", "-ekHash", &hash, "-agentPath", "/site-7/gateway-1", "-note", "n"])
        .unwrap();
    enrolled.success().unwrap();
    agent.start().unwrap();
    assert_eq!(only_agent(&site), "spiffe://example.org/spire/agent/site-7/gateway-1");
}

#[test]
fn a_copied_state_directory_is_worthless_with_another_tpm() {
    let tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "required");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    enrol(&site, &agent);
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    agent.stop().unwrap();

    let stolen = tpm.manufacturer().unwrap().make_tpm().unwrap();
    let mut thief = site.agent("thief", AgentSetup::tpm(&stolen.tcti())).unwrap();
    let copied =
        std::process::Command::new("cp").args(["-a"]).arg(agent.data()).arg(thief.data()).status().unwrap();
    assert!(copied.success());
    thief.launch().unwrap();
    wait_server_log(&site, "not_enrolled");
    let ran = thief.workload(
        &hardroot_swtpm_tests::daemon::binary("hardroot-workload").unwrap(),
        None,
        &["fetch", "--timeout", "2"],
    );
    assert!(!ran.unwrap().ok(), "the thief's agent serves");
}

#[test]
fn a_restarted_agent_serves_again_without_attesting_anew() {
    let mut tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "required");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    enrol(&site, &agent);
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    let attested = log(&site).matches("evidence_digest").count();
    assert!(attested > 0);

    agent.stop().unwrap();
    agent.start().unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    // A power cut: the agent is killed and the TPM restarts.
    agent.daemon.take().unwrap().kill().unwrap();
    tpm.restart(Shutdown::PowerCut).unwrap();
    agent.start().unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    assert_eq!(log(&site).matches("evidence_digest").count(), attested, "the agent attested again");
}

#[test]
fn an_agent_renews_by_quote_and_keeps_its_identity() {
    let tpm = Swtpm::start().unwrap();
    let mut site = quote_site(&tpm, "required");
    site.stop_server().unwrap();
    site.server_lines = "    agent_ttl = \"10s\"\n".to_owned();
    site.start_server().unwrap();
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    enrol(&site, &agent);
    agent.start().unwrap();
    let id = only_agent(&site);
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    let attested = log(&site).matches("evidence_digest").count();
    wait::until("two renewals", wait::DEADLINE, || {
        Ok((log(&site).matches("evidence_digest").count() >= attested + 2).then_some(()))
    })
    .unwrap();
    assert_eq!(only_agent(&site), id);
    fetch_id(&agent, "spiffe://example.org/app");
}

#[test]
fn x509pop_lets_in_its_own_fleet_only() {
    let mut site = Site::new().unwrap();
    let fleet = NodeCertificates::make(&site, "gateway-1");
    let foreign = NodeCertificates::make(&site, "stranger");
    site.attestors = fleet.server_block();
    site.start_server().unwrap();
    site.write_bundle().unwrap();

    let mut setup = AgentSetup::join_token("unused");
    setup.lines.clear();
    setup.attestor = fleet.agent_block();
    let mut agent = site.agent("agent", setup.clone()).unwrap();
    agent.start().unwrap();
    let id = only_agent(&site);
    assert!(id.starts_with("spiffe://example.org/spire/agent/x509pop/"), "{id}");
    let shown = site.server_command(&["agent", "show", "-spiffeID", &id]).unwrap().success().unwrap().stdout;
    assert!(shown.contains("x509pop:subject:cn:gateway-1"), "{shown}");
    assert!(shown.contains("x509pop:serialnumber:0abc"), "{shown}");
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/app");

    setup.attestor = foreign.agent_block();
    let mut stranger = site.agent("stranger", setup).unwrap();
    stranger.launch().unwrap();
    wait::until("the stranger is told no", wait::DEADLINE, || {
        Ok(stranger.log().to_lowercase().contains("denied").then_some(()))
    })
    .unwrap();
    assert_eq!(only_agent(&site), id);
}

#[test]
fn x509pop_takes_the_nodes_key_from_the_tpm() {
    let tpm = Swtpm::start().unwrap();
    let mut site = Site::new().unwrap();
    let mut setup = AgentSetup::tpm(&tpm.tcti());
    let mut agent = site.agent("agent", setup.clone()).unwrap();
    // The key that the fleet's CA certifies is made in the chip, in the agent's key manager.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let spki = runtime.block_on(async {
        let chip = Tpm::open(TpmConfig::new(tpm.tcti().parse().unwrap())).await.unwrap();
        let folder = agent.data().join("keys");
        let keys = TpmKeyManager::open(chip, TpmKeyManagerConfig::new(folder)).await.unwrap();
        keys.generate(&KeyId::new("node").unwrap(), KeyType::EcP256).await.unwrap().spki_der
    });
    let fleet = NodeCertificates::make(&site, "gateway-1");
    fs::write(&fleet.certificate, fleet.certify("gateway-1", &spki)).unwrap();
    site.attestors = fleet.server_block();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    setup.attestor = format!(
        "    NodeAttestor \"x509pop\" {{\n        plugin_data {{\n            private_key_id = \"node\"\n            \
         certificate_path = \"{}\"\n        }}\n    }}\n",
        fleet.certificate.display()
    );
    agent.write_config(&site, &setup).unwrap();
    agent.start().unwrap();
    assert_eq!(site.agent_ids().unwrap().len(), 1);
}

#[test]
fn a_join_token_belongs_to_the_node_that_used_it() {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    site.write_bundle().unwrap();
    let token = site.join_token().unwrap();
    let mut agent = site.agent("agent", AgentSetup::join_token(&token)).unwrap();
    agent.start().unwrap();
    assert_eq!(only_agent(&site), format!("spiffe://example.org/spire/agent/join_token/{token}"));

    let mut thief = site.agent("thief", AgentSetup::join_token(&token)).unwrap();
    thief.launch().unwrap();
    let status = thief.running().unwrap().wait(wait::DEADLINE).unwrap();
    assert!(!status.success(), "an agent without a valid token must say so by its exit code");
    assert_eq!(site.agent_ids().unwrap().len(), 1);
    assert!(!log(&site).contains(&token[..18]) || !log(&site).contains(&format!("token={token}")));
}

#[test]
fn an_agent_with_the_wrong_bundle_does_not_trust_the_server() {
    let mut site = Site::new().unwrap();
    site.start_server().unwrap();
    let foreign = NodeCertificates::make(&site, "other");
    let token = site.join_token().unwrap();
    let mut setup = AgentSetup::join_token(&token);
    setup.bundle = Some(foreign.ca.clone());
    let mut agent = site.agent("agent", setup).unwrap();
    agent.launch().unwrap();
    wait::until("the agent says that it does not trust the server", wait::DEADLINE, || {
        let log = agent.log().to_lowercase();
        Ok((log.contains("trust") || log.contains("unknown issuer") || log.contains("unknownissuer"))
            .then_some(()))
    })
    .unwrap();
    assert!(site.agent_ids().unwrap().is_empty());
}

#[test]
fn an_evicted_agent_attests_again_and_a_banned_one_stops() {
    let tpm = Swtpm::start().unwrap();
    let site = quote_site(&tpm, "required");
    let mut agent = site.agent("agent", AgentSetup::tpm(&tpm.tcti())).unwrap();
    enrol(&site, &agent);
    agent.start().unwrap();
    let id = only_agent(&site);
    site.server_command(&["agent", "evict", "-spiffeID", &id]).unwrap().success().unwrap();
    wait::until("the evicted agent is back", wait::DEADLINE, || {
        Ok(site.agent_ids()?.contains(&id).then_some(()))
    })
    .unwrap();

    site.server_command(&["agent", "ban", "-spiffeID", &id]).unwrap().success().unwrap();
    let status = agent.running().unwrap().wait(wait::DEADLINE).unwrap();
    assert!(!status.success(), "a banned agent must end with its own exit code");
    agent.launch().unwrap();
    let status = agent.running().unwrap().wait(wait::DEADLINE).unwrap();
    assert!(!status.success(), "a banned agent must not come back");
}

#[test]
fn the_server_keeps_its_keys_and_its_agents_over_every_kind_of_restart() {
    let (mut site, agent) = token_site();
    let id = only_agent(&site);
    site.create_entry(&id, "spiffe://example.org/app", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/app");
    let bundle = site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout;

    site.stop_server().unwrap();
    // With the server away, the agent serves what it has.
    fetch_id(&agent, "spiffe://example.org/app");
    site.start_server().unwrap();
    assert_eq!(site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout, bundle);

    site.server.take().unwrap().kill().unwrap();
    site.start_server().unwrap();
    assert_eq!(site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout, bundle);
    site.create_entry(&id, "spiffe://example.org/later", &[&me()], &[]).unwrap();
    fetch_id(&agent, "spiffe://example.org/later");
}

#[test]
fn a_server_may_keep_its_keys_in_a_tpm() {
    let tpm = Swtpm::start().unwrap();
    let mut site = Site::new().unwrap();
    site.server_keys = Keys::Tpm(tpm.tcti());
    site.start_server().unwrap();
    let bundle = site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout;
    site.stop_server().unwrap();
    site.start_server().unwrap();
    assert_eq!(site.server_command(&["bundle", "show"]).unwrap().success().unwrap().stdout, bundle);
    site.write_bundle().unwrap();
    let token = site.join_token().unwrap();
    let mut agent = site.agent("agent", AgentSetup::join_token(&token)).unwrap();
    agent.start().unwrap();
}
