//! Keys that SPIRE has and this server does not: refused with a reason, for a setting that is silently
//! ignored is worse than a server that does not start.

use hardroot_config::Block;

/// In the `server` block.
pub(super) fn server(block: &Block<'_>) {
    for key in ["profiling_enabled", "profiling_port", "profiling_freq", "profiling_names"] {
        block.unsupported(key, "there is no built-in profiler; remove it");
    }
    block.unsupported(
        "federation",
        "bundle endpoints and federation are not supported by this server; remove it",
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
