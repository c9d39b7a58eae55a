//! Federation relationships as messages and as stored, with SPIRE's rules and texts.

use hardroot_api::spire::api::types;
use hardroot_api::spire::api::types::federation_relationship::BundleEndpointProfile as WireProfile;
use hardroot_api::spire::common;
use hardroot_identity::{SpiffeId, TrustDomain};
use tonic::Status;

use crate::api::bundle::content::{self, BadContent};
use crate::api::convert::{self, BadMessage};
use crate::authority::published;
use crate::datastore::{BundleEndpointProfile, FederationRelationship};

/// Why a message is no federation relationship.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRelationship {
    #[error("failed to parse trust domain: {0}")]
    TrustDomain(BadMessage),
    #[error("failed to parse bundle endpoint URL: {0}")]
    Url(http::uri::InvalidUri),
    #[error("bundle endpoint URL must use the https scheme")]
    Scheme,
    #[error("bundle endpoint URL must specify the host")]
    NoHost,
    #[error("bundle endpoint URL must not contain user info")]
    UserInfo,
    #[error("unsupported bundle endpoint profile type: <nil>")]
    NoProfile,
    #[error("failed to parse endpoint SPIFFE ID: {0}")]
    Endpoint(BadMessage),
    #[error("failed to parse bundle: {0}")]
    Bundle(BadContent),
    #[error("failed to parse bundle: invalid trust domain: {0}")]
    BundleTrustDomain(BadMessage),
    #[error(
        "trust domain bundle (\"{named}\") must match the trust domain of the federation relationship \
         (\"{trust_domain}\")"
    )]
    OtherBundle { named: String, trust_domain: TrustDomain },
}

/// Which fields a mask names; all without one.
pub(super) fn mask(mask: Option<&types::FederationRelationshipMask>) -> types::FederationRelationshipMask {
    mask.copied().unwrap_or(types::FederationRelationshipMask {
        bundle_endpoint_url: true,
        bundle_endpoint_profile: true,
        trust_domain_bundle: true,
    })
}

/// Reads a message. Fields outside `mask` are not looked at: they get harmless values, which an update with
/// the same mask does not write.
pub(super) fn read(
    message: &types::FederationRelationship,
    mask: &types::FederationRelationshipMask,
) -> Result<(FederationRelationship, Option<common::Bundle>), BadRelationship> {
    let trust_domain = convert::trust_domain(&message.trust_domain).map_err(BadRelationship::TrustDomain)?;
    if mask.bundle_endpoint_url {
        check_url(&message.bundle_endpoint_url)?;
    }
    let profile = match &message.bundle_endpoint_profile {
        _ if !mask.bundle_endpoint_profile => BundleEndpointProfile::HttpsWeb,
        Some(WireProfile::HttpsWeb(_)) => BundleEndpointProfile::HttpsWeb,
        Some(WireProfile::HttpsSpiffe(profile)) => BundleEndpointProfile::HttpsSpiffe {
            endpoint_spiffe_id: profile
                .endpoint_spiffe_id
                .parse::<SpiffeId>()
                .map_err(|fault| BadRelationship::Endpoint(BadMessage::Id(fault)))?,
        },
        None => return Err(BadRelationship::NoProfile),
    };
    let bundle = match message.trust_domain_bundle.as_ref().filter(|_| mask.trust_domain_bundle) {
        None => None,
        Some(bundle) => {
            let named =
                convert::trust_domain(&bundle.trust_domain).map_err(BadRelationship::BundleTrustDomain)?;
            let stored = content::stored(&named, bundle).map_err(BadRelationship::Bundle)?;
            if named != trust_domain {
                let named = bundle.trust_domain.clone();
                return Err(BadRelationship::OtherBundle { named, trust_domain });
            }
            Some(stored)
        }
    };
    let bundle_endpoint_url = message.bundle_endpoint_url.clone();
    Ok((FederationRelationship { trust_domain, bundle_endpoint_url, profile }, bundle))
}

/// https, a host, and nobody's name or password (SPIFFE Federation 5.2.1 and 5.2.2).
fn check_url(text: &str) -> Result<(), BadRelationship> {
    let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
    if !scheme.eq_ignore_ascii_case("https") {
        return Err(BadRelationship::Scheme);
    }
    let authority = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next());
    let authority = authority.filter(|authority| !authority.is_empty()).ok_or(BadRelationship::NoHost)?;
    if authority.contains('@') {
        return Err(BadRelationship::UserInfo);
    }
    let url: http::Uri = text.parse().map_err(BadRelationship::Url)?;
    match url.host() {
        None | Some("" | "[]") => Err(BadRelationship::NoHost),
        Some(_) => Ok(()),
    }
}

/// A relationship and the stored form of its bundle as a message, with the fields of `mask`.
pub(super) fn message(
    relationship: &FederationRelationship,
    bundle: Option<&[u8]>,
    mask: &types::FederationRelationshipMask,
) -> Result<types::FederationRelationship, Status> {
    let bundle = match bundle.filter(|_| mask.trust_domain_bundle) {
        None => None,
        Some(data) => {
            let bundle = published::decode(&relationship.trust_domain, data).map_err(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "a stored bundle is damaged");
                Status::internal(format!("failed to convert datastore response: {error}"))
            })?;
            Some(content::message(&bundle, None)?)
        }
    };
    let profile = match &relationship.profile {
        BundleEndpointProfile::HttpsWeb => WireProfile::HttpsWeb(types::HttpsWebProfile {}),
        BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id } => {
            let endpoint_spiffe_id = endpoint_spiffe_id.to_string();
            WireProfile::HttpsSpiffe(types::HttpsspiffeProfile { endpoint_spiffe_id })
        }
    };
    Ok(types::FederationRelationship {
        trust_domain: relationship.trust_domain.to_string(),
        bundle_endpoint_url: if mask.bundle_endpoint_url {
            relationship.bundle_endpoint_url.clone()
        } else {
            String::new()
        },
        trust_domain_bundle: bundle,
        bundle_endpoint_profile: mask.bundle_endpoint_profile.then_some(profile),
    })
}
