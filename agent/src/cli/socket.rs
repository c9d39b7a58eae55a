//! Where the agent's socket is, for the commands that ask it.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{DEFAULT_ADMIN_SOCKET_PATH, DEFAULT_SOCKET_PATH};

/// The flags that say where the Workload API's socket is.
#[derive(Debug, Clone, Args)]
pub(super) struct SocketArgs {
    /// Path of the agent's Workload API socket
    #[arg(long = "socketPath", value_name = "PATH", default_value = DEFAULT_SOCKET_PATH)]
    socket_path: PathBuf,
    /// Name to put for %i into the path that SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE holds
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// The flags that say where the admin API's socket is.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminSocketArgs {
    /// Path of the agent's admin API socket
    #[arg(long = "socketPath", value_name = "PATH", default_value = DEFAULT_ADMIN_SOCKET_PATH)]
    socket_path: PathBuf,
    /// Name to put for %i into the path that SPIRE_AGENT_PRIVATE_SOCKET_TEMPLATE holds
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
}

/// `-instance` without a usable template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadInstance {
    #[error("{template} must be set when -instance is used")]
    NoTemplate { template: String },
    #[error("{template} holds no %i to put the instance's name in")]
    NoPlace { template: String },
}

impl SocketArgs {
    /// Where the Workload API is.
    pub(super) fn path(&self) -> Result<PathBuf, BadInstance> {
        PUBLIC.resolve(&self.socket_path, self.instance.as_deref(), |name| std::env::var(name).ok())
    }
}

impl AdminSocketArgs {
    /// Where the admin API is.
    pub(super) fn path(&self) -> Result<PathBuf, BadInstance> {
        PRIVATE.resolve(&self.socket_path, self.instance.as_deref(), |name| std::env::var(name).ok())
    }
}

/// Where one of the sockets is looked for. The variable of templates has the same name and `_TEMPLATE` behind it.
struct Place {
    variable: &'static str,
    default: &'static str,
}

const PUBLIC: Place = Place { variable: "SPIRE_AGENT_PUBLIC_SOCKET", default: DEFAULT_SOCKET_PATH };
const PRIVATE: Place = Place { variable: "SPIRE_AGENT_PRIVATE_SOCKET", default: DEFAULT_ADMIN_SOCKET_PATH };

impl Place {
    /// The flag, else the instance, else the environment, else the default, as SPIRE's commands choose.
    fn resolve(
        &self,
        flag: &Path,
        instance: Option<&str>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<PathBuf, BadInstance> {
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        let from_instance = match instance.filter(|name| !name.is_empty()) {
            Some(instance) => {
                let template = format!("{}_TEMPLATE", self.variable);
                match set(&template) {
                    None => return Err(BadInstance::NoTemplate { template }),
                    Some(path) if !path.contains("%i") => return Err(BadInstance::NoPlace { template }),
                    Some(path) => Some(path.replace("%i", instance)),
                }
            }
            None => None,
        };
        if flag != Path::new(self.default) {
            return Ok(flag.to_owned());
        }
        Ok(from_instance.or_else(|| set(self.variable)).unwrap_or_else(|| self.default.to_owned()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "SPIRE_AGENT_PUBLIC_SOCKET";
    const TEMPLATE: &str = "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE";

    fn resolve(
        place: &Place,
        flag: Option<&str>,
        instance: Option<&str>,
        vars: &[(&str, &str)],
    ) -> Result<String, String> {
        let lookup = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let path = place.resolve(Path::new(flag.unwrap_or(place.default)), instance, lookup);
        path.map(|path| path.display().to_string()).map_err(|bad| bad.to_string())
    }

    #[test]
    fn the_order_is_spires() {
        let template = (TEMPLATE, "/run/spire-%i.sock");
        let resolve = |flag, instance, vars: &[(&str, &str)]| resolve(&PUBLIC, flag, instance, vars);
        assert_eq!(resolve(Some("/s"), Some("a"), &[template]).unwrap(), "/s");
        assert_eq!(resolve(None, Some("a"), &[template, (SOCKET, "/x")]).unwrap(), "/run/spire-a.sock");
        assert_eq!(resolve(None, None, &[(SOCKET, "/x")]).unwrap(), "/x");
        assert_eq!(resolve(None, None, &[(SOCKET, "")]).unwrap(), DEFAULT_SOCKET_PATH);
        assert!(resolve(None, Some("a"), &[]).unwrap_err().starts_with(TEMPLATE));
        assert!(resolve(None, Some("a"), &[(TEMPLATE, "/run/x")]).unwrap_err().contains("%i"));
    }

    #[test]
    fn the_admin_socket_has_variables_of_its_own() {
        let vars = [(TEMPLATE, "/public-%i"), ("SPIRE_AGENT_PRIVATE_SOCKET_TEMPLATE", "/private-%i")];
        assert_eq!(resolve(&PRIVATE, None, Some("a"), &vars).unwrap(), "/private-a");
        assert_eq!(resolve(&PRIVATE, None, None, &vars).unwrap(), DEFAULT_ADMIN_SOCKET_PATH);
    }
}
