// This file is made by `make proto`.
static SPIRE_SERVER_JOURNAL_ENTRIES: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_SERVER_JOURNAL_X509CA_ENTRY, size_of::<crate::spire::server::journal::X509caEntry>())),
        (2, Kind::Messages(&SPIRE_SERVER_JOURNAL_JWT_KEY_ENTRY, size_of::<crate::spire::server::journal::JwtKeyEntry>())),
        (3, Kind::Messages(&SPIRE_SERVER_JOURNAL_WIT_KEY_ENTRY, size_of::<crate::spire::server::journal::WitKeyEntry>())),
    ],
};
static SPIRE_SERVER_JOURNAL_WIT_KEY_ENTRY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (4, Kind::Text),
        (5, Kind::Text),
        (7, Kind::Text),
    ],
};
static SPIRE_SERVER_JOURNAL_JWT_KEY_ENTRY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (4, Kind::Text),
        (5, Kind::Text),
        (7, Kind::Text),
    ],
};
static SPIRE_SERVER_JOURNAL_X509CA_ENTRY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (3, Kind::Text),
        (4, Kind::Texts),
        (6, Kind::Text),
        (8, Kind::Text),
    ],
};
static SPIRE_COMMON_BUNDLE: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Messages(&SPIRE_COMMON_CERTIFICATE, size_of::<crate::spire::common::Certificate>())),
        (3, Kind::Messages(&SPIRE_COMMON_PUBLIC_KEY, size_of::<crate::spire::common::PublicKey>())),
        (6, Kind::Messages(&SPIRE_COMMON_PUBLIC_KEY, size_of::<crate::spire::common::PublicKey>())),
    ],
};
static SPIRE_COMMON_PUBLIC_KEY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_COMMON_CERTIFICATE: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_TRUSTDOMAIN_V1_REFRESH_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_TRUSTDOMAIN_V1_LIST_FEDERATION_RELATIONSHIPS_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP_MASK)),
        (3, Kind::Text),
    ],
};
static SPIRE_API_TYPES_FEDERATION_RELATIONSHIP_MASK: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_TRUSTDOMAIN_V1_GET_FEDERATION_RELATIONSHIP_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Message(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP_MASK)),
    ],
};
static SPIRE_API_SERVER_TRUSTDOMAIN_V1_BATCH_UPDATE_FEDERATION_RELATIONSHIP_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP, size_of::<crate::spire::api::types::FederationRelationship>())),
        (2, Kind::Message(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP_MASK)),
        (3, Kind::Message(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP_MASK)),
    ],
};
static SPIRE_API_TYPES_FEDERATION_RELATIONSHIP: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
        (3, Kind::Message(&SPIRE_API_TYPES_HTTPS_WEB_PROFILE)),
        (4, Kind::Message(&SPIRE_API_TYPES_HTTPSSPIFFE_PROFILE)),
        (5, Kind::Message(&SPIRE_API_TYPES_BUNDLE)),
    ],
};
static SPIRE_API_TYPES_BUNDLE: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Messages(&SPIRE_API_TYPES_X509_CERTIFICATE, size_of::<crate::spire::api::types::X509Certificate>())),
        (3, Kind::Messages(&SPIRE_API_TYPES_JWT_KEY, size_of::<crate::spire::api::types::JwtKey>())),
        (6, Kind::Messages(&SPIRE_API_TYPES_WIT_KEY, size_of::<crate::spire::api::types::WitKey>())),
    ],
};
static SPIRE_API_TYPES_WIT_KEY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_API_TYPES_JWT_KEY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_API_TYPES_X509_CERTIFICATE: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_TYPES_HTTPSSPIFFE_PROFILE: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_TYPES_HTTPS_WEB_PROFILE: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_TRUSTDOMAIN_V1_BATCH_DELETE_FEDERATION_RELATIONSHIP_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Texts),
    ],
};
static SPIRE_API_SERVER_TRUSTDOMAIN_V1_BATCH_CREATE_FEDERATION_RELATIONSHIP_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP, size_of::<crate::spire::api::types::FederationRelationship>())),
        (2, Kind::Message(&SPIRE_API_TYPES_FEDERATION_RELATIONSHIP_MASK)),
    ],
};
static SPIRE_API_SERVER_SVID_V1_NEW_JWTSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Texts),
    ],
};
static SPIRE_API_SERVER_SVID_V1_NEW_DOWNSTREAM_X509CA_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_SVID_V1_MINT_X509SVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_SVID_V1_MINT_WITSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (2, Kind::Text),
        (4, Kind::Text),
    ],
};
static SPIRE_API_TYPES_SPIFFEID: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_API_SERVER_SVID_V1_MINT_JWTSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (2, Kind::Texts),
    ],
};
static SPIRE_API_SERVER_SVID_V1_BATCH_NEW_X509SVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_SERVER_SVID_V1_NEW_X509SVID_PARAMS, size_of::<crate::spire::api::server::svid::v1::NewX509svidParams>())),
    ],
};
static SPIRE_API_SERVER_SVID_V1_NEW_X509SVID_PARAMS: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_API_SERVER_SVID_V1_BATCH_NEW_WITSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_SERVER_SVID_V1_NEW_WITSVID_PARAMS, size_of::<crate::spire::api::server::svid::v1::NewWitsvidParams>())),
    ],
};
static SPIRE_API_SERVER_SVID_V1_NEW_WITSVID_PARAMS: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
        (3, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOGGER_V1_SET_LOG_LEVEL_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOGGER_V1_RESET_LOG_LEVEL_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOGGER_V1_GET_LOGGER_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_X509_UPSTREAM_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_X509_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_WIT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_JWT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_X509_UPSTREAM_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_X509_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_WIT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_JWT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_PREPARE_X509_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_PREPARE_WIT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_PREPARE_JWT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_GET_X509_AUTHORITY_STATE_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_GET_WIT_AUTHORITY_STATE_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_GET_JWT_AUTHORITY_STATE_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_ACTIVATE_X509_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_ACTIVATE_WIT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_LOCALAUTHORITY_V1_ACTIVATE_JWT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_SYNC_AUTHORIZED_ENTRIES_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
        (2, Kind::Texts),
    ],
};
static SPIRE_API_TYPES_ENTRY_MASK: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_LIST_ENTRIES_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_SERVER_ENTRY_V1_LIST_ENTRIES_REQUEST_FILTER)),
        (2, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
        (4, Kind::Text),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_LIST_ENTRIES_REQUEST_FILTER: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (2, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (3, Kind::Message(&SPIRE_API_TYPES_SELECTOR_MATCH)),
        (4, Kind::Message(&SPIRE_API_TYPES_FEDERATES_WITH_MATCH)),
        (5, Kind::Text),
    ],
};
static SPIRE_API_TYPES_FEDERATES_WITH_MATCH: Shape = Shape {
    fields: &[
        (1, Kind::Texts),
    ],
};
static SPIRE_API_TYPES_SELECTOR_MATCH: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_SELECTOR, size_of::<crate::spire::api::types::Selector>())),
    ],
};
static SPIRE_API_TYPES_SELECTOR: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_GET_ENTRY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_GET_AUTHORIZED_ENTRIES_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_COUNT_ENTRIES_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_SERVER_ENTRY_V1_COUNT_ENTRIES_REQUEST_FILTER)),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_COUNT_ENTRIES_REQUEST_FILTER: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (2, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (3, Kind::Message(&SPIRE_API_TYPES_SELECTOR_MATCH)),
        (4, Kind::Message(&SPIRE_API_TYPES_FEDERATES_WITH_MATCH)),
        (5, Kind::Text),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_BATCH_UPDATE_ENTRY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_ENTRY, size_of::<crate::spire::api::types::Entry>())),
        (2, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
        (3, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
    ],
};
static SPIRE_API_TYPES_ENTRY: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (3, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (4, Kind::Messages(&SPIRE_API_TYPES_SELECTOR, size_of::<crate::spire::api::types::Selector>())),
        (6, Kind::Texts),
        (10, Kind::Texts),
        (14, Kind::Text),
        (16, Kind::Message(&SPIRE_API_TYPES_ENTRY_ADDITIONAL_ATTRIBUTES)),
    ],
};
static SPIRE_API_TYPES_ENTRY_ADDITIONAL_ATTRIBUTES: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_BATCH_DELETE_ENTRY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Texts),
    ],
};
static SPIRE_API_SERVER_ENTRY_V1_BATCH_CREATE_ENTRY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_ENTRY, size_of::<crate::spire::api::types::Entry>())),
        (2, Kind::Message(&SPIRE_API_TYPES_ENTRY_MASK)),
    ],
};
static SPIRE_API_SERVER_DEBUG_V1_GET_INFO_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_PUBLISH_WIT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_WIT_KEY)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_PUBLISH_JWT_AUTHORITY_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_JWT_KEY)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_LIST_FEDERATED_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
        (3, Kind::Text),
    ],
};
static SPIRE_API_TYPES_BUNDLE_MASK: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_GET_FEDERATED_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_GET_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_COUNT_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_BATCH_UPDATE_FEDERATED_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_BUNDLE, size_of::<crate::spire::api::types::Bundle>())),
        (2, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
        (3, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_BATCH_SET_FEDERATED_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_BUNDLE, size_of::<crate::spire::api::types::Bundle>())),
        (2, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_BATCH_DELETE_FEDERATED_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Texts),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_BATCH_CREATE_FEDERATED_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_BUNDLE, size_of::<crate::spire::api::types::Bundle>())),
        (2, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
    ],
};
static SPIRE_API_SERVER_BUNDLE_V1_APPEND_BUNDLE_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_X509_CERTIFICATE, size_of::<crate::spire::api::types::X509Certificate>())),
        (2, Kind::Messages(&SPIRE_API_TYPES_JWT_KEY, size_of::<crate::spire::api::types::JwtKey>())),
        (3, Kind::Message(&SPIRE_API_TYPES_BUNDLE_MASK)),
        (4, Kind::Messages(&SPIRE_API_TYPES_WIT_KEY, size_of::<crate::spire::api::types::WitKey>())),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_RENEW_AGENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_SERVER_AGENT_V1_AGENT_X509SVID_PARAMS)),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_AGENT_X509SVID_PARAMS: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_POST_STATUS_REQUEST: Shape = Shape {
    fields: &[
        (2, Kind::Text),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_LIST_AGENTS_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_SERVER_AGENT_V1_LIST_AGENTS_REQUEST_FILTER)),
        (2, Kind::Message(&SPIRE_API_TYPES_AGENT_MASK)),
        (4, Kind::Text),
    ],
};
static SPIRE_API_TYPES_AGENT_MASK: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_SERVER_AGENT_V1_LIST_AGENTS_REQUEST_FILTER: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Message(&SPIRE_API_TYPES_SELECTOR_MATCH)),
        (5, Kind::Text),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_GET_AGENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
        (2, Kind::Message(&SPIRE_API_TYPES_AGENT_MASK)),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_DELETE_AGENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_CREATE_JOIN_TOKEN_REQUEST: Shape = Shape {
    fields: &[
        (2, Kind::Text),
        (3, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_COUNT_AGENTS_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_SERVER_AGENT_V1_COUNT_AGENTS_REQUEST_FILTER)),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_COUNT_AGENTS_REQUEST_FILTER: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Message(&SPIRE_API_TYPES_SELECTOR_MATCH)),
        (5, Kind::Text),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_BAN_AGENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_SPIFFEID)),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_ATTEST_AGENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_SERVER_AGENT_V1_ATTEST_AGENT_REQUEST_PARAMS)),
        (2, Kind::Text),
    ],
};
static SPIRE_API_SERVER_AGENT_V1_ATTEST_AGENT_REQUEST_PARAMS: Shape = Shape {
    fields: &[
        (1, Kind::Message(&SPIRE_API_TYPES_ATTESTATION_DATA)),
        (2, Kind::Message(&SPIRE_API_SERVER_AGENT_V1_AGENT_X509SVID_PARAMS)),
    ],
};
static SPIRE_API_TYPES_ATTESTATION_DATA: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static SPIRE_API_AGENT_LOGGER_V1_SET_LOG_LEVEL_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_AGENT_LOGGER_V1_RESET_LOG_LEVEL_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_AGENT_LOGGER_V1_GET_LOGGER_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_SUBSCRIBE_TO_X509SVI_DS_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Messages(&SPIRE_API_TYPES_SELECTOR, size_of::<crate::spire::api::types::Selector>())),
    ],
};
static SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_SUBSCRIBE_TO_X509_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_SUBSCRIBE_TO_JWT_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_FETCH_JWTSVI_DS_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Texts),
        (2, Kind::Messages(&SPIRE_API_TYPES_SELECTOR, size_of::<crate::spire::api::types::Selector>())),
    ],
};
static SPIRE_AGENT_DEBUG_V1_GET_INFO_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static HARDROOT_SERVER_TPM_V1_REMOVE_ENROLMENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static HARDROOT_SERVER_TPM_V1_LIST_ENROLMENTS_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static HARDROOT_SERVER_TPM_V1_GET_ENROLMENT_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static HARDROOT_SERVER_TPM_V1_ENROL_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
        (3, Kind::Text),
    ],
};
static HARDROOT_SERVER_SYNC_V1_FOLLOW_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Message(&HARDROOT_SERVER_SYNC_V1_OPEN)),
        (2, Kind::Message(&HARDROOT_SERVER_SYNC_V1_ACK)),
    ],
};
static HARDROOT_SERVER_SYNC_V1_ACK: Shape = Shape {
    fields: &[
    ],
};
static HARDROOT_SERVER_SYNC_V1_OPEN: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Messages(&HARDROOT_SERVER_SYNC_V1_BUNDLE_VERSION, size_of::<crate::hardroot::server::sync::v1::BundleVersion>())),
    ],
};
static HARDROOT_SERVER_SYNC_V1_BUNDLE_VERSION: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static X509SVID_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static X509_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static WITSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
    ],
};
static WIT_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
    ],
};
static VALIDATE_JWTSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Text),
        (2, Kind::Text),
    ],
};
static JWTSVID_REQUEST: Shape = Shape {
    fields: &[
        (1, Kind::Texts),
        (2, Kind::Text),
    ],
};
static JWT_BUNDLES_REQUEST: Shape = Shape {
    fields: &[
    ],
};
impl crate::expansion::Shaped for crate::workload::JwtBundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&JWT_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::JwtBundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::workload::JwtsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&JWTSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::JwtsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::workload::ValidateJwtsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&VALIDATE_JWTSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::ValidateJwtsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::workload::WitBundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&WIT_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::WitBundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::workload::WitsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&WITSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::WitsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::workload::X509BundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&X509_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::X509BundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::workload::X509svidRequest {
    const SHAPE: Option<&'static Shape> = Some(&X509SVID_REQUEST);
}
impl crate::expansion::Shaped for crate::workload::X509svidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for () {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::hardroot::server::sync::v1::FollowRequest {
    const SHAPE: Option<&'static Shape> = Some(&HARDROOT_SERVER_SYNC_V1_FOLLOW_REQUEST);
}
impl crate::expansion::Shaped for crate::hardroot::server::sync::v1::FollowResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::EnrolRequest {
    const SHAPE: Option<&'static Shape> = Some(&HARDROOT_SERVER_TPM_V1_ENROL_REQUEST);
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::Enrolment {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::GetEnrolmentRequest {
    const SHAPE: Option<&'static Shape> = Some(&HARDROOT_SERVER_TPM_V1_GET_ENROLMENT_REQUEST);
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::ListEnrolmentsRequest {
    const SHAPE: Option<&'static Shape> = Some(&HARDROOT_SERVER_TPM_V1_LIST_ENROLMENTS_REQUEST);
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::ListEnrolmentsResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::RemoveEnrolmentRequest {
    const SHAPE: Option<&'static Shape> = Some(&HARDROOT_SERVER_TPM_V1_REMOVE_ENROLMENT_REQUEST);
}
impl crate::expansion::Shaped for crate::hardroot::server::tpm::v1::RemoveEnrolmentResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::agent::debug::v1::GetInfoRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_AGENT_DEBUG_V1_GET_INFO_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::agent::debug::v1::GetInfoResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::FetchJwtsviDsRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_FETCH_JWTSVI_DS_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::FetchJwtsviDsResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::SubscribeToJwtBundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_SUBSCRIBE_TO_JWT_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::SubscribeToJwtBundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::SubscribeToX509BundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_SUBSCRIBE_TO_X509_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::SubscribeToX509BundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::SubscribeToX509sviDsRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_DELEGATEDIDENTITY_V1_SUBSCRIBE_TO_X509SVI_DS_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::agent::delegatedidentity::v1::SubscribeToX509sviDsResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::agent::logger::v1::GetLoggerRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_LOGGER_V1_GET_LOGGER_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::agent::logger::v1::ResetLogLevelRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_LOGGER_V1_RESET_LOG_LEVEL_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::agent::logger::v1::SetLogLevelRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_AGENT_LOGGER_V1_SET_LOG_LEVEL_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::AttestAgentRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_ATTEST_AGENT_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::AttestAgentResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::BanAgentRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_BAN_AGENT_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::CountAgentsRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_COUNT_AGENTS_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::CountAgentsResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::CreateJoinTokenRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_CREATE_JOIN_TOKEN_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::DeleteAgentRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_DELETE_AGENT_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::GetAgentRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_GET_AGENT_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::ListAgentsRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_LIST_AGENTS_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::ListAgentsResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::PostStatusRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_POST_STATUS_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::PostStatusResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::RenewAgentRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_AGENT_V1_RENEW_AGENT_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::agent::v1::RenewAgentResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::AppendBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_APPEND_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchCreateFederatedBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_BATCH_CREATE_FEDERATED_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchCreateFederatedBundleResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchDeleteFederatedBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_BATCH_DELETE_FEDERATED_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchDeleteFederatedBundleResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchSetFederatedBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_BATCH_SET_FEDERATED_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchSetFederatedBundleResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchUpdateFederatedBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_BATCH_UPDATE_FEDERATED_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::BatchUpdateFederatedBundleResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::CountBundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_COUNT_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::CountBundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::GetBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_GET_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::GetFederatedBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_GET_FEDERATED_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::ListFederatedBundlesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_LIST_FEDERATED_BUNDLES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::ListFederatedBundlesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::PublishJwtAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_PUBLISH_JWT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::PublishJwtAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::PublishWitAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_BUNDLE_V1_PUBLISH_WIT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::bundle::v1::PublishWitAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::debug::v1::GetInfoRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_DEBUG_V1_GET_INFO_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::debug::v1::GetInfoResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::BatchCreateEntryRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_BATCH_CREATE_ENTRY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::BatchCreateEntryResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::BatchDeleteEntryRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_BATCH_DELETE_ENTRY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::BatchDeleteEntryResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::BatchUpdateEntryRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_BATCH_UPDATE_ENTRY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::BatchUpdateEntryResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::CountEntriesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_COUNT_ENTRIES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::CountEntriesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::GetAuthorizedEntriesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_GET_AUTHORIZED_ENTRIES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::GetAuthorizedEntriesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::GetEntryRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_GET_ENTRY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::ListEntriesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_LIST_ENTRIES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::ListEntriesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::SyncAuthorizedEntriesRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_ENTRY_V1_SYNC_AUTHORIZED_ENTRIES_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::entry::v1::SyncAuthorizedEntriesResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::ActivateJwtAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_ACTIVATE_JWT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::ActivateJwtAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::ActivateWitAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_ACTIVATE_WIT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::ActivateWitAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::ActivateX509AuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_ACTIVATE_X509_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::ActivateX509AuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::GetJwtAuthorityStateRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_GET_JWT_AUTHORITY_STATE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::GetJwtAuthorityStateResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::GetWitAuthorityStateRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_GET_WIT_AUTHORITY_STATE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::GetWitAuthorityStateResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::GetX509AuthorityStateRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_GET_X509_AUTHORITY_STATE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::GetX509AuthorityStateResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::PrepareJwtAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_PREPARE_JWT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::PrepareJwtAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::PrepareWitAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_PREPARE_WIT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::PrepareWitAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::PrepareX509AuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_PREPARE_X509_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::PrepareX509AuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeJwtAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_JWT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeJwtAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeWitAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_WIT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeWitAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeX509AuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_X509_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeX509AuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeX509UpstreamAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_REVOKE_X509_UPSTREAM_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::RevokeX509UpstreamAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintJwtAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_JWT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintJwtAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintWitAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_WIT_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintWitAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintX509AuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_X509_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintX509AuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintX509UpstreamAuthorityRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOCALAUTHORITY_V1_TAINT_X509_UPSTREAM_AUTHORITY_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::localauthority::v1::TaintX509UpstreamAuthorityResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::logger::v1::GetLoggerRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOGGER_V1_GET_LOGGER_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::logger::v1::ResetLogLevelRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOGGER_V1_RESET_LOG_LEVEL_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::logger::v1::SetLogLevelRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_LOGGER_V1_SET_LOG_LEVEL_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::BatchNewWitsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_BATCH_NEW_WITSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::BatchNewWitsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::BatchNewX509svidRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_BATCH_NEW_X509SVID_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::BatchNewX509svidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::MintJwtsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_MINT_JWTSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::MintJwtsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::MintWitsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_MINT_WITSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::MintWitsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::MintX509svidRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_MINT_X509SVID_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::MintX509svidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::NewDownstreamX509caRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_NEW_DOWNSTREAM_X509CA_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::NewDownstreamX509caResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::NewJwtsvidRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_SVID_V1_NEW_JWTSVID_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::svid::v1::NewJwtsvidResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::BatchCreateFederationRelationshipRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_TRUSTDOMAIN_V1_BATCH_CREATE_FEDERATION_RELATIONSHIP_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::BatchCreateFederationRelationshipResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::BatchDeleteFederationRelationshipRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_TRUSTDOMAIN_V1_BATCH_DELETE_FEDERATION_RELATIONSHIP_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::BatchDeleteFederationRelationshipResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::BatchUpdateFederationRelationshipRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_TRUSTDOMAIN_V1_BATCH_UPDATE_FEDERATION_RELATIONSHIP_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::BatchUpdateFederationRelationshipResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::GetFederationRelationshipRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_TRUSTDOMAIN_V1_GET_FEDERATION_RELATIONSHIP_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::ListFederationRelationshipsRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_TRUSTDOMAIN_V1_LIST_FEDERATION_RELATIONSHIPS_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::ListFederationRelationshipsResponse {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::server::trustdomain::v1::RefreshBundleRequest {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_API_SERVER_TRUSTDOMAIN_V1_REFRESH_BUNDLE_REQUEST);
}
impl crate::expansion::Shaped for crate::spire::api::types::Agent {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::types::Bundle {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::types::Entry {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::types::FederationRelationship {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::types::JoinToken {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::api::types::Logger {
    const SHAPE: Option<&'static Shape> = None;
}
impl crate::expansion::Shaped for crate::spire::common::Bundle {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_COMMON_BUNDLE);
}
impl crate::expansion::Shaped for crate::spire::server::journal::Entries {
    const SHAPE: Option<&'static Shape> = Some(&SPIRE_SERVER_JOURNAL_ENTRIES);
}
