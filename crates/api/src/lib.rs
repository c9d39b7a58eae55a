//! The wire: SPIRE's server and agent APIs, the SPIFFE Workload API and our own services.
//!
//! The messages are made from `proto/` by `make proto` and committed, so that builds need no protoc. Module
//! paths follow the package names; the Workload API, which has no package, is [`workload`].

mod codec;
pub mod expansion;
pub mod json;
mod redacted;
pub mod status;

/// Descriptors of every service and message, for gRPC reflection and [`json`].
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

/// The same of the Workload API alone: its reflection service keeps what it knows in memory.
pub const WORKLOAD_FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/workload_descriptors.bin");

/// What requests hold.
mod shapes {
    use crate::expansion::{Kind, Shape};
    include!("generated/shapes.rs");
}

/// The SPIFFE Workload API, whose protobuf has no package.
pub mod workload {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::restriction, reason = "generated code")]
    include!("generated/workload.rs");
}

/// Our own packages.
pub mod hardroot {
    /// The server's services.
    pub mod server {
        /// Keeping agents in step.
        pub mod sync {
            /// Keeping agents in step.
            pub mod v1 {
                #![allow(
                    missing_docs,
                    unreachable_pub,
                    clippy::all,
                    clippy::restriction,
                    reason = "generated code"
                )]
                include!("generated/hardroot.server.sync.v1.rs");
            }
        }
        /// TPM enrolments.
        pub mod tpm {
            /// TPM enrolments.
            pub mod v1 {
                #![allow(
                    missing_docs,
                    unreachable_pub,
                    clippy::all,
                    clippy::restriction,
                    reason = "generated code"
                )]
                include!("generated/hardroot.server.tpm.v1.rs");
            }
        }
    }
}
/// SPIRE's packages.
pub mod spire {
    /// The agent's services that are named without `api`.
    pub mod agent {
        /// Debug service.
        pub mod debug {
            /// What a running agent says of itself.
            pub mod v1 {
                #![allow(
                    missing_docs,
                    unreachable_pub,
                    clippy::all,
                    clippy::restriction,
                    reason = "generated code"
                )]
                include!("generated/spire.agent.debug.v1.rs");
            }
        }
    }
    /// SPIRE's APIs.
    pub mod api {
        /// The agent's services.
        pub mod agent {
            /// Delegatedidentity service, by version.
            pub mod delegatedidentity {
                /// Identities on behalf of others.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.agent.delegatedidentity.v1.rs");
                }
            }
            /// Logger service, by version.
            pub mod logger {
                /// Log level.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.agent.logger.v1.rs");
                }
            }
        }
        /// The server's services.
        pub mod server {
            /// Agent service, by version.
            pub mod agent {
                /// Agents: attestation, renewal, administration.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.agent.v1.rs");
                }
            }
            /// Bundle service, by version.
            pub mod bundle {
                /// Bundles.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.bundle.v1.rs");
                }
            }
            /// Debug service, by version.
            pub mod debug {
                /// What a running server says of itself.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.debug.v1.rs");
                }
            }
            /// Entry service, by version.
            pub mod entry {
                /// Registration entries.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.entry.v1.rs");
                }
            }
            /// Localauthority service, by version.
            pub mod localauthority {
                /// Rotation of authorities by hand.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.localauthority.v1.rs");
                }
            }
            /// Logger service, by version.
            pub mod logger {
                /// Log level.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.logger.v1.rs");
                }
            }
            /// Svid service, by version.
            pub mod svid {
                /// Issuing SVIDs.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.svid.v1.rs");
                }
            }
            /// Trustdomain service, by version.
            pub mod trustdomain {
                /// Federation relationships.
                pub mod v1 {
                    #![allow(
                        missing_docs,
                        unreachable_pub,
                        clippy::all,
                        clippy::restriction,
                        reason = "generated code"
                    )]
                    include!("generated/spire.api.server.trustdomain.v1.rs");
                }
            }
        }
        /// The nouns that the APIs share.
        pub mod types {
            #![allow(
                missing_docs,
                unreachable_pub,
                clippy::all,
                clippy::restriction,
                reason = "generated code"
            )]
            include!("generated/spire.api.types.rs");
        }
    }
    /// What is stored as protobuf: the bundle.
    pub mod common {
        #![allow(missing_docs, unreachable_pub, clippy::all, clippy::restriction, reason = "generated code")]
        include!("generated/spire.common.rs");
    }
    /// What a server stores.
    pub mod server {
        /// A server's memory of its signing keys.
        pub mod journal {
            #![allow(
                missing_docs,
                unreachable_pub,
                clippy::all,
                clippy::restriction,
                reason = "generated code"
            )]
            include!("generated/spire.server.journal.rs");
        }
    }
}
