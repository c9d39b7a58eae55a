//! The commands of `hardroot-server`: SPIRE's, with its flags, labels, JSON names and exit codes, and our own
//! beside them (`tpm`, `hsm`).

mod agent;
mod bundle;
mod connection;
mod datastore;
#[cfg(test)]
mod datastore_tests;
mod debug;
mod doctor;
mod entry;
mod error;
mod federation;
mod flags;
#[cfg(test)]
mod golden;
mod health;
pub mod hsm;
mod jwt;
mod logger;
mod migrate;
mod mint;
mod run;
mod screen;
mod software_key;
#[cfg(test)]
mod tests;
mod token;
mod tpm;
mod wit;
mod x509;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use hardroot_runtime::cli::parse;

#[doc(hidden)]
pub use entry::count_items;
pub use error::CliError;
pub use screen::Screen;

/// What `hardroot-server` understands.
#[derive(Debug, Parser)]
#[command(
    bin_name = "hardroot-server",
    name = "hardroot-server",
    version,
    about = "Gives machines and their programs SPIFFE identities rooted in hardware.",
    long_about = "Gives machines and their programs SPIFFE identities rooted in hardware.\n\n\
        Flags may be written with one dash or two (-spiffeID or --spiffeID). Commands that talk to a running \
        server do so through its admin socket and must run as a user who may open it.",
    after_help = "First steps: `validate -config FILE`, `run -config FILE`, `healthcheck`, `tpm enroll`, \
        `entry create`.\nEvery command explains itself with -help.",
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Top,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Top {
    /// Runs the server
    Run(run::RunArgs),
    /// Checks a configuration file and tells every fault
    Validate(run::RunArgs),
    /// Talks to a running server.
    #[command(flatten)]
    Client(Command),
}

/// The commands beside `run` and `validate`. All but `hsm` and `datastore` talk to a running server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Registration entries: which program gets which identity
    #[command(subcommand)]
    Entry(entry::EntryCommand),
    /// Attested agents: look at them, evict, ban
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Trust bundles: our own and those of federated trust domains
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Federation relationships: where the bundles of foreign trust domains come from
    #[command(subcommand)]
    Federation(federation::FederationCommand),
    /// Join tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// X509-SVIDs for whoever is at the command line
    #[command(subcommand)]
    X509(x509::X509Command),
    /// JWT-SVIDs for whoever is at the command line
    #[command(subcommand)]
    Jwt(jwt::JwtCommand),
    /// WIT-SVIDs for whoever is at the command line
    #[command(subcommand, hide = true)]
    Wit(wit::WitCommand),
    /// Which TPMs may join
    #[command(subcommand)]
    Tpm(tpm::TpmCommand),
    /// The database: look at it, migrate it, back it up, restore it
    #[command(subcommand)]
    Datastore(datastore::DatastoreCommand),
    /// The PKCS#11 token with the server's keys: initialise it, list and check its keys
    #[command(subcommand)]
    Hsm(hsm::HsmCommand),
    /// The log level of a running server
    #[command(subcommand)]
    Logger(logger::LoggerCommand),
    /// What a running server says of itself
    #[command(subcommand)]
    Debug(debug::DebugCommand),
    /// Looks at everything the server needs, running or stopped, and says what to do
    Doctor(doctor::Doctor),
    /// Tells whether the server is healthy (exit code 0 or 1)
    Healthcheck(health::Healthcheck),
    /// Brings a SPIRE server's configuration and data here
    #[command(name = "migrate-from-spire")]
    MigrateFromSpire(migrate::Migrate),
}

impl Command {
    /// Runs the command; what is to be printed goes to `screen`.
    ///
    /// # Errors
    /// Whatever did not work; output that was made before stays on `screen`.
    pub async fn execute(self, screen: &mut Screen) -> Result<(), CliError> {
        match self {
            Self::Entry(command) => command.execute(screen).await,
            Self::Agent(command) => command.execute(screen).await,
            Self::Bundle(command) => command.execute(screen).await,
            Self::Federation(command) => command.execute(screen).await,
            Self::Logger(command) => command.execute(screen).await,
            Self::Debug(command) => command.execute(screen).await,
            Self::Token(command) => command.execute(screen).await,
            Self::X509(command) => command.execute(screen).await,
            Self::Jwt(command) => command.execute(screen).await,
            Self::Wit(command) => command.execute(screen).await,
            Self::Tpm(command) => command.execute(screen).await,
            Self::Datastore(command) => command.execute(screen).await,
            Self::Hsm(command) => hsm::execute(command, screen).await,
            Self::Doctor(command) => command.execute(screen).await,
            Self::Healthcheck(command) => command.execute(screen).await,
            Self::MigrateFromSpire(command) => command.execute(screen).await,
        }
    }
}

/// Every command with its flags, for shell completions and man pages.
#[must_use]
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command line `args`, whose first element is the program's name. Exit codes: 0 done, 1 not, 127 no such
/// command; `run` has one for each step of starting ([`crate::run::RunError::exit_code`]).
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse::<Cli>(args) {
        Ok(cli) => cli,
        Err(refused) => return refused.print(),
    };
    if matches!(cli.command, Top::Client(Command::Wit(_)))
        && !wit::is_enabled(|name| std::env::var(name).ok())
    {
        return complain("error: unrecognized subcommand 'wit'");
    }
    match cli.command {
        Top::Run(args) => run::run(&args),
        Top::Validate(args) => run::validate(&args),
        Top::Client(command) => client(command),
    }
}

fn client(command: Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(format_args!("Error: cannot start: {error}")),
    };
    let mut screen = Screen::of_process();
    let outcome = runtime.block_on(Box::pin(command.execute(&mut screen)));
    let written = screen.flush();
    match (outcome, written) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        (Err(error), _) => complain(format_args!("Error: {error}")),
        (Ok(()), Err(error)) => complain(format_args!("Error: writing the answer: {error}")),
    }
}

/// Tells something on standard error.
fn tell(message: impl std::fmt::Display) {
    use std::io::Write as _;
    // Where not even standard error can be written, the exit code has to do.
    drop(writeln!(std::io::stderr(), "{message}"));
}

/// Tells a mistake on standard error and makes it the exit code.
fn complain(message: impl std::fmt::Display) -> ExitCode {
    tell(message);
    ExitCode::FAILURE
}
