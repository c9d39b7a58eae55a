use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{JoinTokenAgent, JoinTokenServer, RedeemTokens, Redeemed, is_token};
use crate::{
    AgentAttestor, AttestError, AttestationSubject, AttestedNode, ServerAttestor, ServerContext, Step,
};

#[derive(Default)]
struct Tokens(Mutex<HashMap<String, (SystemTime, Option<String>)>>);

#[async_trait::async_trait]
impl RedeemTokens for Tokens {
    async fn redeem(&self, token: &str, key: &str, now: SystemTime) -> Result<Redeemed, AttestError> {
        let mut tokens = self.0.lock().unwrap();
        Ok(match tokens.get_mut(token) {
            None => Redeemed::Unknown,
            Some((expiry, _)) if now >= *expiry => Redeemed::Expired,
            Some((_, bound @ None)) => {
                *bound = Some(key.to_owned());
                Redeemed::First
            }
            Some((_, Some(bound))) if bound == key => Redeemed::Again,
            Some(_) => Redeemed::ByAnother,
        })
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn server(token: &str) -> JoinTokenServer {
    let tokens = Tokens::default();
    tokens.0.lock().unwrap().insert(token.to_owned(), (at(600), None));
    JoinTokenServer::new(Arc::new(tokens))
}

fn context(key: &[u8], now: SystemTime) -> ServerContext {
    let trust_domain = "example.org".parse().unwrap();
    ServerContext { trust_domain, csr_spki_der: key.to_vec(), peer: None, now }
}

async fn attest(
    server: &JoinTokenServer,
    payload: &[u8],
    key: &[u8],
    now: SystemTime,
) -> Result<AttestedNode, AttestError> {
    match server.begin(&context(key, now), payload).await? {
        Step::Attested(node) => Ok(node),
        Step::Challenge(..) => panic!("join_token has no challenge"),
    }
}

async fn payload(token: &str) -> Vec<u8> {
    let agent = JoinTokenAgent::new(Zeroizing::new(token.to_owned())).unwrap();
    let subject =
        AttestationSubject { trust_domain: "example.org".parse().unwrap(), csr_spki_der: b"k".to_vec() };
    let (payload, mut session) = agent.begin(&subject).await.unwrap();
    assert!(matches!(session.respond(b"x").await, Err(AttestError::Malformed { .. })));
    payload
}

#[tokio::test]
async fn the_whole_exchange() {
    let server = server("5f1c-token");
    let node = attest(&server, &payload("5f1c-token\n").await, b"key", at(10)).await.unwrap();
    assert_eq!(node.agent_id.as_str(), "spiffe://example.org/spire/agent/join_token/5f1c-token");
    assert!(node.selectors.is_empty());
    assert!(!node.can_reattest);
    assert!(node.audit.contains(&("redeemed", "first".to_owned())));
}

#[tokio::test]
async fn a_lost_answer_does_not_burn_the_node_and_nobody_else_can_use_the_token() {
    let server = server("t");
    attest(&server, b"t", b"key", at(10)).await.unwrap();
    let again = attest(&server, b"t", b"key", at(599)).await.unwrap();
    assert!(again.audit.contains(&("redeemed", "again".to_owned())));
    let other = attest(&server, b"t", b"other", at(20)).await.unwrap_err();
    assert!(matches!(other, AttestError::Rejected { reason: "join_token_used_by_another_key", .. }));
    let late = attest(&server, b"t", b"key", at(600)).await.unwrap_err();
    assert!(matches!(late, AttestError::Unusable { .. }), "the same key too only until the token expires");
}

#[tokio::test]
async fn unknown_expired_and_malformed_tokens_are_invalid_arguments() {
    let server = server("t");
    for payload in [&b""[..], b"u", b"t\n", b"../t", b"t/t", b"..", b"\xff\xfe", &[b'a'; 513]] {
        let error = attest(&server, payload, b"key", at(1)).await.unwrap_err();
        assert!(matches!(error, AttestError::Unusable { .. }), "{payload:?}: {error}");
        assert!(error.to_string().starts_with("join token does not exist"), "{error}");
    }
    let error = attest(&server, b"t", b"key", at(600)).await.unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[test]
fn the_token_is_never_shown() {
    let agent = JoinTokenAgent::new(Zeroizing::new("s3cret".to_owned())).unwrap();
    assert!(!format!("{agent:?}").contains("s3cret"));
    let error = JoinTokenAgent::new(Zeroizing::new("s3cret value".to_owned())).unwrap_err();
    assert!(!format!("{error}{error:?}").contains("s3cret"));
}

proptest! {
    #[test]
    fn every_token_makes_an_agent_id(token in "\\PC{0,40}") {
        if is_token(&token) {
            let path = format!("/spire/agent/join_token/{token}");
            prop_assert!(hardroot_identity::SpiffeId::new(&"example.org".parse().unwrap(), &path).is_ok());
        }
    }
}
