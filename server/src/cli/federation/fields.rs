//! The fields of federation relationships, as flags and as the JSON of `-data`.

use std::path::PathBuf;

use clap::Args;
use hardroot_api::spire::api::types;
use hardroot_api::spire::api::types::federation_relationship::BundleEndpointProfile;
use hardroot_identity::{SpiffeId, TrustDomain};
use serde::Deserialize;

use crate::cli::CliError;
use crate::cli::bundle::{Format, parse_bundle};
use crate::cli::flags::read_data;

/// The fields of one relationship, or a file with many.
#[derive(Debug, Args)]
pub(super) struct Fields {
    /// The trust domain to federate with
    #[arg(long = "trustDomain", value_name = "NAME", default_value = "")]
    trust_domain: String,
    /// Where its bundle is served, an https URL
    #[arg(long = "bundleEndpointURL", value_name = "URL", default_value = "")]
    bundle_endpoint_url: String,
    /// How the endpoint proves itself: https_web or https_spiffe
    #[arg(long = "bundleEndpointProfile", value_name = "PROFILE", default_value = "")]
    bundle_endpoint_profile: String,
    /// With https_spiffe: the SPIFFE ID that the endpoint must have
    #[arg(long = "endpointSpiffeID", value_name = "ID", default_value = "")]
    endpoint_spiffe_id: String,
    /// A file with the trust domain's bundle, to be stored too
    #[arg(long = "trustDomainBundlePath", value_name = "FILE")]
    trust_domain_bundle_path: Option<PathBuf>,
    /// How that file is written
    #[arg(long = "trustDomainBundleFormat", value_enum, ignore_case = true, default_value = "pem")]
    trust_domain_bundle_format: Format,
    /// A JSON file with {"federationRelationships": [...]} instead of the flags above; - reads standard input
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "federationRelationships")]
    relationships: Vec<Item>,
}

/// One relationship of a file, with SPIRE's names. A name that is not known is an error: a mistyped one must
/// not be passed over.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Item {
    trust_domain: String,
    #[serde(rename = "bundleEndpointURL", alias = "bundleEndpointUrl")]
    bundle_endpoint_url: String,
    bundle_endpoint_profile: String,
    #[serde(rename = "endpointSPIFFEID", alias = "endpointSpiffeID", alias = "endpointSpiffeId")]
    endpoint_spiffe_id: String,
    trust_domain_bundle: Option<serde_json::Value>,
    trust_domain_bundle_format: String,
}

impl Fields {
    /// The relationships that the flags or the file name.
    pub(super) fn read(&self) -> Result<Vec<types::FederationRelationship>, CliError> {
        let Some(path) = self.data.as_ref().filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(vec![self.of_flags()?]);
        };
        if !self.is_empty() {
            return Err(CliError::usage(
                "cannot use other flags to specify relationship fields when 'data' flag is set",
            ));
        }
        let data = read_data(path)?;
        of_file(&data).map_err(|reason| CliError::File {
            op: "parsing",
            path: path.display().to_string(),
            reason,
        })
    }

    fn is_empty(&self) -> bool {
        self.trust_domain.is_empty()
            && self.bundle_endpoint_url.is_empty()
            && self.bundle_endpoint_profile.is_empty()
            && self.endpoint_spiffe_id.is_empty()
            && self.trust_domain_bundle_path.is_none()
            && self.trust_domain_bundle_format == Format::Pem
    }

    fn of_flags(&self) -> Result<types::FederationRelationship, CliError> {
        let (mut relationship, owner) = relationship(
            &self.trust_domain,
            &self.bundle_endpoint_url,
            &self.bundle_endpoint_profile,
            &self.endpoint_spiffe_id,
        )
        .map_err(CliError::usage)?;
        if let Some(path) = self.trust_domain_bundle_path.as_ref().filter(|path| !path.as_os_str().is_empty())
        {
            let data = read_data(path)?;
            relationship.trust_domain_bundle = Some(
                bundle(&owner, self.trust_domain_bundle_format, &data)
                    .map_err(|fault| CliError::usage(format!("cannot parse bundle file: {fault}")))?,
            );
        }
        Ok(relationship)
    }
}

fn of_file(data: &[u8]) -> Result<Vec<types::FederationRelationship>, String> {
    let file: File =
        serde_json::from_slice(data).map_err(|cause| format!("failed to parse JSON: {cause}"))?;
    let read = |(at, item)| of_item(item).map_err(|fault| format!("could not parse item {at}: {fault}"));
    file.relationships.into_iter().enumerate().map(read).collect()
}

fn of_item(item: Item) -> Result<types::FederationRelationship, String> {
    let (mut relationship, owner) = relationship(
        &item.trust_domain,
        &item.bundle_endpoint_url,
        &item.bundle_endpoint_profile,
        &item.endpoint_spiffe_id,
    )?;
    if let Some(given) = item.trust_domain_bundle {
        let bad = |fault: String| format!("cannot parse bundle raw message: {fault}");
        let (format, data) = match (item.trust_domain_bundle_format.as_str(), given) {
            ("pem", serde_json::Value::String(pem)) => (Format::Pem, pem),
            ("pem", _) => return Err(bad("a PEM bundle is a string".to_owned())),
            ("spiffe", document) => (Format::Spiffe, document.to_string()),
            (other, _) => return Err(bad(format!("bundle format {other:?} is unsupported"))),
        };
        relationship.trust_domain_bundle = Some(bundle(&owner, format, data.as_bytes()).map_err(bad)?);
    }
    Ok(relationship)
}

/// A relationship without its bundle, and whose bundle would be given.
fn relationship(
    trust_domain: &str,
    url: &str,
    profile: &str,
    endpoint: &str,
) -> Result<(types::FederationRelationship, String), String> {
    if trust_domain.is_empty() {
        return Err("trust domain is required".to_owned());
    }
    if url.is_empty() {
        return Err("bundle endpoint URL is required".to_owned());
    }
    let (profile, owner) = match profile {
        "https_web" => (BundleEndpointProfile::HttpsWeb(types::HttpsWebProfile {}), trust_domain.to_owned()),
        "https_spiffe" => {
            if endpoint.is_empty() {
                return Err(
                    "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set".to_owned()
                );
            }
            let id: SpiffeId = endpoint
                .parse()
                .map_err(|fault| format!("cannot parse bundle endpoint SPIFFE ID: {fault}"))?;
            let profile = types::HttpsspiffeProfile { endpoint_spiffe_id: endpoint.to_owned() };
            (BundleEndpointProfile::HttpsSpiffe(profile), id.trust_domain_name().to_owned())
        }
        other => return Err(format!("unknown bundle endpoint profile type: {other:?}")),
    };
    let relationship = types::FederationRelationship {
        trust_domain: trust_domain.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        trust_domain_bundle: None,
        bundle_endpoint_profile: Some(profile),
    };
    Ok((relationship, owner))
}

fn bundle(owner: &str, format: Format, data: &[u8]) -> Result<types::Bundle, String> {
    let owner = TrustDomain::from_name_or_id(owner).map_err(|fault| fault.to_string())?;
    parse_bundle(owner, format, data).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_file_is_judged_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _read = of_file(&bytes).is_ok();
        }
    }

    #[test]
    fn files_are_read_with_spires_names_and_their_faults_named() {
        let read = |text: &str| of_file(text.as_bytes());
        let web =
            r#"{"trustDomain":"a.test","bundleEndpointURL":"https://a","bundleEndpointProfile":"https_web"}"#;
        let list = |item: &str| format!(r#"{{"federationRelationships":[{web},{item}]}}"#);
        let got =
            read(&list(&web.replace("https_web", r#"https_spiffe","endpointSPIFFEID":"spiffe://a.test/e"#)));
        assert_eq!(got.map(|all| all.len()), Ok(2));
        for (item, fault) in [
            ("{}".to_owned(), "could not parse item 1: trust domain is required"),
            (r#"{"trustDomain":"a"}"#.to_owned(), "could not parse item 1: bundle endpoint URL is required"),
            (
                web.replace("https_web", "x"),
                r#"could not parse item 1: unknown bundle endpoint profile type: "x""#,
            ),
            (
                web.replace("https_web", "https_spiffe"),
                "could not parse item 1: endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set",
            ),
            (
                web.replace('}', r#","trustDomainBundle":{}}"#),
                r#"could not parse item 1: cannot parse bundle raw message: bundle format "" is unsupported"#,
            ),
        ] {
            assert_eq!(read(&list(&item)).err().as_deref(), Some(fault));
        }
        let unknown = read(&list(&web.replace("trustDomain", "trustDomian"))).err().unwrap_or_default();
        assert!(unknown.starts_with("failed to parse JSON: unknown field `trustDomian`"), "{unknown}");
    }
}
