//! Reading the configuration anew while the agent runs (SIGHUP, and SIGUSR1 as SPIRE's agent has it).

use hardroot_config::LoadError;
use hardroot_runtime::logs::LogHandle;

use crate::config::AgentConfig;
use crate::lifecycle::chain_of;

/// Reads the configuration as it was read at the start.
pub type Reader = Box<dyn Fn() -> Result<AgentConfig, LoadError> + Send>;

/// Takes what can change without a restart: the log level. A file with faults changes nothing.
pub(super) fn reload(read: &Reader, log: &LogHandle) {
    let config = match read() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = %error, cause = %chain_of(&error), "the configuration has faults: nothing is changed");
            return;
        }
    };
    let (before, level) = (log.level(), config.log.level);
    match log.set_level(level) {
        Ok(()) => {
            tracing::info!(log_level = %level, was = %before,
                "configuration read anew: the log level is in force, the rest takes effect at the next start");
        }
        Err(error) => tracing::error!(error = %error, "the log level cannot be changed"),
    }
}
