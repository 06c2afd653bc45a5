//! `kubectl sharedlb`: what SharedLB does in a cluster, and why.
//!
//! A command reads the cluster once ([`snapshot`]), makes a report of it (`commands`), and
//! prints that ([`output`]). Reports are pure functions of the snapshot.

mod advice;
mod commands;
mod connection;
#[cfg(test)]
mod fixtures;
mod occupancy;
mod output;
mod rights;
mod snapshot;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use sharedlb_kubernetes::ObjectKey;

use crate::commands::adopt::{AdoptArgs, Adoption};
use crate::commands::completion::{BINARY, CompleteArgs, CompletionArgs, candidates, script};
use crate::commands::cost::{CostArgs, Costs};
use crate::commands::doctor::Diagnosis;
use crate::commands::drain::{Drain, DrainArgs};
use crate::commands::explain::{ClaimName, ExplainArgs, Explanation};
use crate::commands::ports::{PortMap, PortsArgs};
use crate::commands::status::{Status, StatusArgs};
use crate::commands::version::{VersionArgs, Versions};
use crate::commands::who_has::{Holders, WhoHasArgs};
use crate::connection::{Connection, ConnectionArgs};
use crate::output::{Format, Outcome, Report, print, write_stdout};
use crate::snapshot::{Snapshot, Wanted};

/// The exit status where something is wrong, or what was asked for is not there. (1 is a
/// failure, and 2 a wrong command line.)
const FINDING: u8 = 3;

/// The exit status where what could not be seen may change the answer.
const UNCERTAIN: u8 = 4;

/// Shows what SharedLB does in a cluster, and why.
#[derive(Debug, Parser)]
#[command(
    name = BINARY,
    bin_name = "kubectl sharedlb",
    version,
    after_help = "Exit status: 0 fine, 1 failed, 2 wrong command line, 3 something is wrong or not there, \
                  4 what could not be seen may change the answer."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The format of the answer.
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: Format,
    /// The namespace of the controller.
    #[arg(long, global = true, value_name = "NAME", default_value = "sharedlb-system")]
    system_namespace: String,
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the classes, and the claims that are not ready.
    Status(StatusArgs),
    /// Show which ports of load balancers are held, free, cooling down or foreign.
    Ports(PortsArgs),
    /// Show what has a port, and which claims wait for it.
    WhoHas(WhoHasArgs),
    /// Explain where a claim is, why there or why not, and what would help.
    Explain(ExplainArgs),
    /// Show what load balancers cost, what sharing saves, and the parts of namespaces.
    Cost(CostArgs),
    /// Look for what is wrong around SharedLB, or will be soon.
    Doctor,
    /// Show which Services of type LoadBalancer could share load balancers, and what
    /// that saves. With --apply, create their claims.
    Adopt(AdoptArgs),
    /// Keep claims from getting new ports on a load balancer, and show those that have
    /// ports there. Writes to the class only with --apply.
    Drain(DrainArgs),
    /// Print the versions of this plugin and of the controller.
    Version(VersionArgs),
    /// Print a script that completes the words of this command.
    Completion(CompletionArgs),
    /// Print the words that complete a command line, for kubectl.
    #[command(hide = true)]
    Complete(CompleteArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // The only TLS implementation. Clients that are made later take it; it can be set once.
    _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let (format, session) =
        (cli.output, Session { connection: cli.connection, system_namespace: cli.system_namespace });
    match cli.command {
        Command::Status(args) => {
            let namespace = session.connection.given_namespace().map(str::to_owned);
            let snapshot = session.snapshot(Wanted { controller: true, ..Wanted::default() }).await?;
            answer(&Status::of(&snapshot, &args, namespace.as_deref()), &snapshot, format)
        }
        Command::Ports(args) => {
            let snapshot = session.snapshot(Wanted::default()).await?;
            answer(&PortMap::of(&snapshot, &args), &snapshot, format)
        }
        Command::WhoHas(args) => {
            let snapshot = session.snapshot(Wanted::default()).await?;
            answer(&Holders::of(&snapshot, &args), &snapshot, format)
        }
        Command::Explain(ExplainArgs { claim }) => {
            let (snapshot, key) = session.around(claim).await?;
            answer(&Explanation::of(&snapshot, &key)?, &snapshot, format)
        }
        Command::Cost(args) => {
            let snapshot = session.snapshot(Wanted::default()).await?;
            answer(&Costs::of(&snapshot, &args), &snapshot, format)
        }
        Command::Doctor => {
            let wanted = Wanted { controller: true, services: true, health: true, ..Wanted::default() };
            let snapshot = session.snapshot(wanted).await?;
            answer(&Diagnosis::of(&snapshot), &snapshot, format)
        }
        Command::Adopt(args) => adopt(session, &args, format).await,
        Command::Drain(args) => drain(session, &args, format).await,
        Command::Version(args) => {
            let snapshot = if args.client {
                Snapshot::default()
            } else {
                session.snapshot(Wanted { controller: true, ..Wanted::default() }).await?
            };
            answer(&Versions::of(&snapshot), &snapshot, format)
        }
        Command::Completion(args) => {
            write_stdout(&script(&mut Cli::command(), &args))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Complete(args) => {
            write_stdout(&candidates(&mut Cli::command(), args)?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Plans the claims of Services, and prints or creates them.
async fn adopt(session: Session, args: &AdoptArgs, format: Format) -> anyhow::Result<ExitCode> {
    let namespace = session.connection.given_namespace().map(str::to_owned);
    let connection = session.connection.connect().await?;
    let wanted = Wanted { services: true, ..Wanted::default() };
    let snapshot = Snapshot::read(&connection, &session.system_namespace, wanted).await?;
    let mut adoption = Adoption::of(&snapshot, args, namespace.as_deref())?;
    if args.manifests {
        write_stdout(&adoption.manifests()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.apply {
        adoption.apply(&connection.client).await;
    }
    answer(&adoption, &snapshot, format)
}

/// Shows what a drain leaves to do, and cordons the load balancer if that is asked for.
async fn drain(session: Session, args: &DrainArgs, format: Format) -> anyhow::Result<ExitCode> {
    let connection = session.connection.connect().await?;
    let snapshot = Snapshot::read(&connection, &session.system_namespace, Wanted::default()).await?;
    let mut drain = Drain::of(&snapshot, args)?;
    if args.apply {
        drain.apply(&connection.client).await?;
    }
    answer(&drain, &snapshot, format)
}

/// Where the cluster is, and where the controller is in it.
struct Session {
    connection: ConnectionArgs,
    system_namespace: String,
}

impl Session {
    async fn snapshot(self, wanted: Wanted) -> anyhow::Result<Snapshot> {
        let connection: Connection = self.connection.connect().await?;
        Snapshot::read(&connection, &self.system_namespace, wanted).await
    }

    /// What is known around a claim, and its key.
    async fn around(self, claim: ClaimName) -> anyhow::Result<(Snapshot, ObjectKey)> {
        let mut connection = self.connection.connect().await?;
        connection.namespace = claim.namespace.unwrap_or(connection.namespace);
        let key = ObjectKey { namespace: connection.namespace.as_str().into(), name: claim.name.into() };
        let wanted = Wanted { events_of: Some(key.clone()), ..Wanted::default() };
        Ok((Snapshot::read(&connection, &self.system_namespace, wanted).await?, key))
    }
}

/// Prints a report, and returns the exit status that it has.
fn answer(report: &impl Report, snapshot: &Snapshot, format: Format) -> anyhow::Result<ExitCode> {
    print(report, &snapshot.unseen, format)?;
    Ok(match report.outcome() {
        Outcome::Fine => ExitCode::SUCCESS,
        Outcome::Finding => ExitCode::from(FINDING),
        Outcome::Uncertain => ExitCode::from(UNCERTAIN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
