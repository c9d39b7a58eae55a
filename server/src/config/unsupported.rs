//! Keys that SPIRE has and this server does not: refused with a reason, for a setting that is silently
//! ignored is worse than a server that does not start.

use hardroot_config::Block;

const JWT: &str = "this server does not issue JWT-SVIDs; remove it";
const FLEET: &str = "is not supported by this server; remove it";

/// In the `server` block.
pub(super) fn server(block: &Block<'_>) {
    for key in ["jwt_issuer", "jwt_key_type", "default_jwt_svid_ttl"] {
        block.unsupported(key, JWT);
    }
    if block.bool("disable_jwt_svids") == Some(false) {
        block.fault("disable_jwt_svids", "cannot be false: this server does not issue JWT-SVIDs");
    }
    block.unsupported(
        "max_attested_node_info_staleness",
        "agents are looked up at every call here, so that a ban counts at once; remove it",
    );
    block.unsupported("proxy_protocol_trusted_cidrs", "the PROXY protocol is not supported; remove it");
    for key in ["prune_attested_nodes_expired_for", "prune_attested_nodes_batch_size", "prune_tofu_nodes"] {
        block.unsupported(
            key,
            "expired agents are not pruned by this server; remove it and use `agent purge`",
        );
    }
    for key in ["profiling_enabled", "profiling_port", "profiling_freq", "profiling_names"] {
        block.unsupported(key, "there is no built-in profiler; remove it");
    }
    block.unsupported("log_source_location", FLEET);
    block.unsupported(
        "federation",
        "bundle endpoints and federation are not supported by this server; remove it",
    );
    block.unsupported("experimental", "this server has no experimental settings; remove the block");
}

/// At the top of the file.
pub(super) fn top_level(root: &Block<'_>) {
    root.unsupported("telemetry", "this server exports no metrics; remove the block");
    root.unsupported(
        "health_checks",
        "there is no HTTP health listener; ask with `hardroot-server healthcheck` or gRPC health on the admin socket",
    );
}

/// In the `plugins` block.
pub(super) fn plugins(plugins: &Block<'_>) {
    for (kind, why) in [
        ("UpstreamAuthority", "the server's own authority is the root; remove the plugin"),
        ("Notifier", "notifiers are not supported; remove the plugin"),
        ("BundlePublisher", "bundle publishers are not supported; remove the plugin"),
        ("CredentialComposer", "credential composers are not supported; remove the plugin"),
    ] {
        plugins.unsupported(kind, why);
    }
}

/// In one plugin's block.
pub(super) fn plugin(block: &Block<'_>) {
    for key in ["plugin_cmd", "plugin_args", "plugin_checksum"] {
        block.unsupported(key, "external plugins are not supported; only built-in ones can be used");
    }
    block.unsupported("plugin_data_file", "write the settings into plugin_data");
}
