//! `debug getinfo`.

use clap::{Args, Subcommand};
use hardroot_api::spire::api::server::debug::v1 as wire;
use hardroot_api::spire::api::server::debug::v1::debug_client::DebugClient;
use hardroot_runtime::cli::Output;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connection::Connection;
use super::flags::id_text;
use super::{CliError, Screen};

/// `debug ...`.
#[derive(Debug, Subcommand)]
pub enum DebugCommand {
    /// Tells the server's uptime, its own SVID, and how much it holds
    Getinfo(GetInfo),
}

/// `debug getinfo`.
#[derive(Debug, Args)]
pub struct GetInfo {
    #[command(flatten)]
    connection: Connection,
    /// pretty or json
    #[arg(long, default_value_t)]
    output: Output,
}

impl DebugCommand {
    pub(super) async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        let Self::Getinfo(command) = self;
        let mut client = DebugClient::new(command.connection.open().await?);
        let info = client.get_info(wire::GetInfoRequest {}).await?.into_inner();
        match command.output {
            Output::Json => screen.message("spire.api.server.debug.v1.GetInfoResponse", &info),
            Output::Pretty => {
                print(screen, &info);
                Ok(())
            }
        }
    }
}

fn print(screen: &mut Screen, info: &wire::GetInfoResponse) {
    screen.line("Server Debug Info:");
    screen.line(format!("  Uptime:                  {}", span(info.uptime)));
    screen.line(format!("  Registered Agents:       {}", info.agents_count));
    screen.line(format!("  Registration Entries:    {}", info.entries_count));
    screen.line(format!("  Federated Bundles:       {}", info.federated_bundles_count));
    if info.svid_chain.is_empty() {
        return;
    }
    screen.line("  SVID Chain:");
    for (at, certificate) in info.svid_chain.iter().enumerate() {
        let id = match &certificate.id {
            None => "(none)".to_owned(),
            some => id_text(some.as_ref()),
        };
        screen.line(format!("    [{at}] SPIFFE ID:  {id}"));
        screen.line(format!("        Subject:    {}", certificate.subject));
        screen.line(format!("        Expires At: {}", moment(certificate.expires_at)));
    }
}

/// Seconds as Go prints a duration: `0s`, `1m30s`, `26h0m5s`.
fn span(seconds: i32) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn moment(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} seconds after 1970"))
}

#[cfg(test)]
mod tests {
    use hardroot_api::spire::api::types::Spiffeid;
    use wire::get_info_response::Cert;

    use super::*;

    #[test]
    fn spans_are_written_as_spire_does() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (90, "1m30s"), (3600, "1h0m0s"), (93_605, "26h0m5s")]
        {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn everything_has_its_label() {
        let mut screen = Screen::default();
        let id = Spiffeid { trust_domain: "example.org".into(), path: "/spire/server".into() };
        let chain = vec![
            Cert { id: Some(id), expires_at: 1_700_000_000, subject: "O=SPIRE,C=US".into() },
            Cert { id: None, expires_at: 1_700_003_600, subject: "O=SPIFFE,C=US".into() },
        ];
        let info = wire::GetInfoResponse {
            svid_chain: chain,
            uptime: 61,
            agents_count: 1,
            federated_bundles_count: 2,
            entries_count: 3,
        };
        print(&mut screen, &info);
        assert_eq!(
            screen.out,
            "Server Debug Info:\n\
             \x20 Uptime:                  1m1s\n\
             \x20 Registered Agents:       1\n\
             \x20 Registration Entries:    3\n\
             \x20 Federated Bundles:       2\n\
             \x20 SVID Chain:\n\
             \x20   [0] SPIFFE ID:  spiffe://example.org/spire/server\n\
             \x20       Subject:    O=SPIRE,C=US\n\
             \x20       Expires At: 2023-11-14T22:13:20Z\n\
             \x20   [1] SPIFFE ID:  (none)\n\
             \x20       Subject:    O=SPIFFE,C=US\n\
             \x20       Expires At: 2023-11-14T23:13:20Z\n"
        );
    }
}
