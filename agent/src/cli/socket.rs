//! Where the agent's socket is, for the commands that ask it.

use std::path::PathBuf;

use clap::Args;

use crate::config::DEFAULT_SOCKET_PATH;

const SOCKET: &str = "SPIRE_AGENT_PUBLIC_SOCKET";
const TEMPLATE: &str = "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE";

/// The flags that say where the socket is.
#[derive(Debug, Clone, Args)]
pub(super) struct SocketArgs {
    /// Path of the agent's Workload API socket
    #[arg(long = "socketPath", value_name = "PATH", default_value = DEFAULT_SOCKET_PATH)]
    socket_path: PathBuf,
    /// Name to put for %i into the path that SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE holds
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// `-instance` without a usable template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadInstance {
    #[error("{TEMPLATE} must be set when -instance is used")]
    NoTemplate,
    #[error("{TEMPLATE} holds no %i to put the instance's name in")]
    NoPlace,
}

impl SocketArgs {
    /// The flag, else the instance, else the environment, else the default, as SPIRE's commands choose.
    pub(super) fn path(&self) -> Result<PathBuf, BadInstance> {
        self.resolve(|name| std::env::var(name).ok())
    }

    fn resolve(&self, environment: impl Fn(&str) -> Option<String>) -> Result<PathBuf, BadInstance> {
        let set = |name| environment(name).filter(|value| !value.is_empty());
        let from_instance = match self.instance.as_deref().filter(|name| !name.is_empty()) {
            Some(instance) => {
                let template = set(TEMPLATE).ok_or(BadInstance::NoTemplate)?;
                if !template.contains("%i") {
                    return Err(BadInstance::NoPlace);
                }
                Some(template.replace("%i", instance))
            }
            None => None,
        };
        if self.socket_path != *DEFAULT_SOCKET_PATH {
            return Ok(self.socket_path.clone());
        }
        Ok(from_instance.or_else(|| set(SOCKET)).unwrap_or_else(|| DEFAULT_SOCKET_PATH.to_owned()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        flag: Option<&str>,
        instance: Option<&str>,
        vars: &[(&str, &str)],
    ) -> Result<String, BadInstance> {
        let args = SocketArgs {
            socket_path: flag.unwrap_or(DEFAULT_SOCKET_PATH).into(),
            instance: instance.map(str::to_owned),
        };
        let lookup = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        args.resolve(lookup).map(|path| path.display().to_string())
    }

    #[test]
    fn the_order_is_spires() {
        let template = (TEMPLATE, "/run/spire-%i.sock");
        assert_eq!(resolve(Some("/s"), Some("a"), &[template]).unwrap(), "/s");
        assert_eq!(resolve(None, Some("a"), &[template, (SOCKET, "/x")]).unwrap(), "/run/spire-a.sock");
        assert_eq!(resolve(None, None, &[(SOCKET, "/x")]).unwrap(), "/x");
        assert_eq!(resolve(None, None, &[(SOCKET, "")]).unwrap(), DEFAULT_SOCKET_PATH);
        assert_eq!(resolve(None, Some("a"), &[]), Err(BadInstance::NoTemplate));
        assert_eq!(resolve(None, Some("a"), &[(TEMPLATE, "/run/x")]), Err(BadInstance::NoPlace));
    }
}
