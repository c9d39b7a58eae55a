//! How the node gets its own SVID: the first bundle, the agent's key, and the judgement of what comes back.

mod bootstrap;
mod judge;
mod key;

pub use bootstrap::{BootstrapError, load_bundle};
pub use judge::{BadAgentSvid, check_agent_svid};
pub use key::{AgentKey, AgentKeyError, AgentKeys};
