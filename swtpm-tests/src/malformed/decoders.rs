//! Decoders of what peers send.

use std::pin::pin;
use std::sync::Arc;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hardroot_identity::{
    Bundle, Certificate, Csr, MAX_BUNDLE_BYTES, MAX_CERTIFICATE_BYTES, MAX_CSR_BYTES, MAX_TOKEN_BYTES,
    Selector, SpiffeId, TrustDomain, bundles_from_map, verify_jwt_svid,
};
use hardroot_node_attestors::join_token::{JoinTokenServer, RedeemTokens, Redeemed};
use hardroot_node_attestors::template::Template;
use hardroot_node_attestors::tpm_quote::message::Message;
use hardroot_node_attestors::x509pop::{Challenge, Payload, Response};
use hardroot_node_attestors::{AttestError, ServerAttestor as _, ServerContext};
use hardroot_tpm_attestor::verify::{
    Attest, EkAnchors, PublicArea, Signature, certificate_key, spki_key, verify_ek_certificate,
};

use super::shapes::*;
use super::{Decoder, der};

pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

pub(super) static EXAMPLE: LazyLock<TrustDomain> =
    LazyLock::new(|| TrustDomain::new("example.org").expect("a trust domain"));

fn example() -> TrustDomain {
    EXAMPLE.clone()
}

fn jwt(bytes: &[u8]) -> bool {
    let keys: &[u8] = br#"{"keys":[{"kty":"EC","use":"jwt-svid","kid":"k","crv":"P-256",
"x":"Zq_97IN1zdnbBLnJodURl5oClO4-53yED0sw-FCTNOo","y":"dSitr63g7Wx0eOWsVeveWg-E1S5b3oWMkeS6jkhyWK4"}]}"#;
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let bundle = |_: &TrustDomain| Bundle::from_jwks(example(), keys).ok();
    verify_jwt_svid(text(bytes), &["audience"], bundle, now, Duration::from_secs(60)).is_ok()
}

fn ek_certificate(bytes: &[u8]) -> bool {
    const EK: &[u8] = include_bytes!("../../../tpm-attestor/testdata/swtpm/ek-ec-p384.pub");
    const MANUFACTURER: &[u8] = include_bytes!("../../../tpm-attestor/testdata/swtpm/manufacturer.pem");
    static KNOWN: LazyLock<(PublicArea, EkAnchors)> = LazyLock::new(|| {
        let ek = PublicArea::parse(EK).expect("the recorded key");
        (ek, EkAnchors::from_pem([MANUFACTURER]).expect("the recorded manufacturer"))
    });
    let (ek, anchors) = &*KNOWN;
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    verify_ek_certificate(bytes, &[bytes], anchors, ek, now).is_ok()
}

/// What the store would be asked for.
struct NoTokens;

#[async_trait::async_trait]
impl RedeemTokens for NoTokens {
    async fn redeem(&self, _: &str, _: &str, _: SystemTime) -> Result<Redeemed, AttestError> {
        Ok(Redeemed::Unknown)
    }
}

fn join_token(bytes: &[u8]) -> bool {
    static SERVER: LazyLock<JoinTokenServer> = LazyLock::new(|| JoinTokenServer::new(Arc::new(NoTokens)));
    let context =
        ServerContext { trust_domain: example(), csr_spki_der: Vec::new(), peer: None, now: UNIX_EPOCH };
    let judged = pin!(SERVER.begin(&context, bytes)).poll(&mut Context::from_waker(Waker::noop()));
    matches!(judged, Poll::Ready(Ok(_)))
}

pub(super) fn decoders() -> Vec<Decoder> {
    let d = Decoder::new;
    let wider = |decoder: Decoder, limit| Decoder { limit, ..decoder };
    vec![
        d("SPIFFE ID", "spiffe_id", 4096, &[letters, high_bytes], |b| text(b).parse::<SpiffeId>().is_ok()),
        d("selector", "selector", 4096, &[letters, high_bytes], |b| text(b).parse::<Selector>().is_ok()),
        d("JWT-SVID", "jwt_svid", MAX_TOKEN_BYTES, &[jwt_header_names, jwt_claims, jwt_dots, letters], jwt),
        d(
            "bundle, JWKS",
            "bundle_jwks",
            MAX_BUNDLE_BYTES,
            &[
                json_numbers,
                json_depth,
                json_names,
                json_escapes,
                jwks_numbers,
                jwks_objects,
                jwks_unknown,
                jwks_key_names,
                jwks_x5c,
                jwks_jwt_keys,
            ],
            |b| Bundle::from_jwks(example(), b).is_ok(),
        ),
        d(
            "bundle map",
            "bundle_jwks",
            MAX_BUNDLE_BYTES,
            &[json_names, json_numbers, map_of_empty_bundles],
            |b| bundles_from_map(b).is_ok(),
        ),
        // The reader of PEM collects a block in a buffer that doubles. PEM comes from the operator's files alone.
        wider(
            d("bundle, PEM", "bundle_jwks", MAX_BUNDLE_BYTES, &[pem_blocks, pem_open, letters], |b| {
                Bundle::from_pem(example(), b).is_ok()
            }),
            4.0,
        ),
        d("bundle, DER", "bundle_jwks", MAX_BUNDLE_BYTES, &[der::sequences, der::nested, high_bytes], |b| {
            Bundle::from_der_concat(example(), b).is_ok()
        }),
        d(
            "X.509 certificate",
            "x509_svid",
            MAX_CERTIFICATE_BYTES,
            &[
                der::many_names,
                der::many_extensions,
                der::many_uris,
                der::many_usages,
                der::directory_names,
                der::nested,
            ],
            |b| Certificate::parse(b).is_ok(),
        ),
        d("CSR", "csr", MAX_CSR_BYTES, &[der::request, der::request_attributes, der::nested], |b| {
            Csr::parse(b).is_ok()
        }),
        d("TPM public area", "tpm_public", 1024, &[zeros, high_bytes], |b| PublicArea::parse(b).is_ok()),
        d("TPM attestation", "tpm_attest", 2048, &[zeros, high_bytes], |b| Attest::parse(b).is_ok()),
        d("TPM signature", "tpm_signature", 1024, &[zeros, high_bytes], |b| Signature::parse(b).is_ok()),
        wider(
            d(
                "EK certificate",
                "ek_certificate",
                8192,
                &[
                    der::many_names,
                    der::many_extensions,
                    der::many_uris,
                    der::many_usages,
                    der::directory_names,
                    der::nested,
                ],
                ek_certificate,
            ),
            // x509-parser makes lists of names and extensions; a certificate has at most 8 KiB, so this is half a MiB.
            80.0,
        ),
        d("EK key", "ek_certificate", 8192, &[der::many_names, der::nested], |b| {
            certificate_key(b).is_ok() || spki_key(b).is_ok()
        }),
        d("tpm_quote payload", "tpm_quote_payload", 65536, &[zeros, high_bytes], |b| {
            Message::decode(b).is_ok()
        }),
        d("tpm_quote response", "tpm_quote_response", 65536, &[zeros, high_bytes], |b| {
            Message::decode(b).is_ok()
        }),
        d(
            "x509pop payload",
            "x509pop_payload",
            256 * 1024,
            &[
                x509pop_certificates,
                x509pop_one_certificate,
                x509pop_broken_base64,
                json_names,
                json_numbers,
                json_depth,
                json_escapes,
            ],
            |b| Payload::from_json(b).is_ok(),
        ),
        d(
            "x509pop response and challenge",
            "x509pop_response",
            16 * 1024,
            &[json_names, json_numbers, json_escapes],
            |b| Response::from_json(b).is_ok() || Challenge::from_json(b).is_ok(),
        ),
        d("join_token payload", "join_token", 4096, &[letters, high_bytes], join_token),
        // A tree, of a text in the operator's configuration.
        wider(
            d(
                "agent path template",
                "agent_path_template",
                64 * 1024,
                &[template_calls, template_parentheses, letters],
                |b| Template::parse(text(b)).is_ok(),
            ),
            100.0,
        ),
    ]
}
