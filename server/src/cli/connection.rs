//! How commands find the server.

use std::path::PathBuf;

use clap::Args;
use hardroot_transport::{ConnectError, uds_channel};
use tonic::transport::Channel;

use super::CliError;

/// The server's admin socket, when nothing else is said; SPIRE's own default.
pub(super) const DEFAULT_SOCKET: &str = "/tmp/spire-server/private/api.sock";
const TEMPLATE: &str = "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE";
const SOCKET: &str = "SPIRE_SERVER_PRIVATE_SOCKET";

/// Largest answer of the server that is read, in bytes.
pub(super) const MAX_ANSWER: usize = 256 << 20;

/// Which server to talk to.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Path to the server's admin socket
    #[arg(long = "socketPath", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket_path: PathBuf,
    /// Instance name, put in place of %i in $SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE
    #[arg(long = "instance", value_name = "NAME")]
    instance: Option<String>,
}

impl Connection {
    /// The socket: the flag, else the instance's, else `$SPIRE_SERVER_PRIVATE_SOCKET`, else the default.
    fn socket(&self, environment: impl Fn(&str) -> Option<String>) -> Result<PathBuf, CliError> {
        let by_instance = match &self.instance {
            None => None,
            Some(name) => {
                let template =
                    environment(TEMPLATE).filter(|template| !template.is_empty()).ok_or_else(|| {
                        CliError::usage(format!("you must define {TEMPLATE} to use the instance flag"))
                    })?;
                if !template.contains("%i") {
                    return Err(CliError::usage(format!("failed to find %i in {TEMPLATE}")));
                }
                Some(PathBuf::from(template.replace("%i", name)))
            }
        };
        if self.socket_path.as_os_str() != DEFAULT_SOCKET {
            return Ok(self.socket_path.clone());
        }
        let by_environment = environment(SOCKET).filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(by_instance.or(by_environment).unwrap_or_else(|| self.socket_path.clone()))
    }

    /// Connects.
    pub(super) async fn open(&self) -> Result<Channel, CliError> {
        let socket = self.socket(|name| std::env::var(name).ok())?;
        uds_channel(&socket).await.map_err(|fault| CliError::Unreachable {
            socket,
            reason: match fault {
                ConnectError::Unreachable { cause, .. } => cause.to_string(),
                other => other.to_string(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(path: &str, instance: Option<&str>, environment: &[(&str, &str)]) -> Result<String, String> {
        let connection = Connection { socket_path: path.into(), instance: instance.map(str::to_owned) };
        let look =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        connection.socket(look).map(|path| path.display().to_string()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn flag_then_instance_then_environment_then_default() {
        let environment = [(TEMPLATE, "/run/%i/api.sock"), (SOCKET, "/env.sock")];
        assert_eq!(socket("/flag.sock", Some("a"), &environment).unwrap(), "/flag.sock");
        assert_eq!(socket(DEFAULT_SOCKET, Some("a"), &environment).unwrap(), "/run/a/api.sock");
        assert_eq!(socket(DEFAULT_SOCKET, None, &environment).unwrap(), "/env.sock");
        assert_eq!(socket(DEFAULT_SOCKET, None, &[]).unwrap(), DEFAULT_SOCKET);
    }

    #[test]
    fn an_instance_needs_a_template() {
        let error = socket(DEFAULT_SOCKET, Some("a"), &[]).unwrap_err();
        assert_eq!(error, "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag");
        let error = socket(DEFAULT_SOCKET, Some("a"), &[(TEMPLATE, "/run/api.sock")]).unwrap_err();
        assert_eq!(error, "failed to find %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE");
    }
}
