//! The command `sharedlb`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use mimalloc::MiMalloc;
use sharedlb::{EnabledSources, LeaseOptions, LeaseTerms, Options, long_version, unique_identity};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What a list or a burst of claims needed goes back to the system. glibc's allocator keeps
/// most of it, in arenas of each thread. No huge pages (`no_thp`): with them, the process has
/// twice the memory that it uses.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Puts many L4 workloads on one cloud load balancer.
#[derive(Debug, Parser)]
#[command(name = "sharedlb", version, long_version = long_version(), about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controller.
    Controller(Box<ControllerArgs>),
    /// Print the CustomResourceDefinitions, or write them to files.
    Crds {
        /// Write one file for each to this folder.
        #[arg(long, value_name = "DIR", env = "SHAREDLB_CRDS_WRITE")]
        write: Option<PathBuf>,
    },
    /// Print the version, the commit and the features of this build.
    Version,
}

#[derive(Debug, Args)]
// A flag may be given twice: arguments are appended to those of the manifests.
#[command(args_override_self = true)]
struct ControllerArgs {
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "SHAREDLB_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The kubeconfig of the API server. Default: KUBECONFIG, ~/.kube/config, or
    /// the cluster that this process runs in.
    #[arg(long, env = "SHAREDLB_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The id of this cluster, which tells its load balancers from those of other
    /// clusters in the same account: 1 to 63 letters, digits, '-', '_' and '.'.
    /// Default: the uid of the namespace kube-system. It must never change.
    #[arg(long, env = "SHAREDLB_CLUSTER_ID", value_parser = cluster_id)]
    cluster_id: Option<String>,
    /// How often each load balancer is observed although no change is known, in
    /// seconds (at least 10).
    #[arg(long, env = "SHAREDLB_RESYNC_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(10..))]
    resync_seconds: u64,
    /// The rate of calls to AWS, as a fraction of the rates that its user guide
    /// documents for an account and region: less than 1 leaves room for other
    /// clients of the account, more is for an account with raised limits.
    #[arg(long, env = "SHAREDLB_AWS_CALL_RATE", default_value_t = 1.0, value_parser = call_rate)]
    aws_call_rate: f64,
    /// Serve Services of type LoadBalancer whose loadBalancerClass begins with
    /// sharedlb.dev/.
    #[arg(long, env = "SHAREDLB_SOURCE_SERVICES", default_value_t = true, action = ArgAction::Set)]
    source_services: bool,
    /// Serve ConfigMaps labelled app=loadbalancer that name a Service.
    #[arg(long, env = "SHAREDLB_SOURCE_CONFIGMAPS", default_value_t = true, action = ArgAction::Set)]
    source_configmaps: bool,
    /// Serve also Services of type LoadBalancer that have no loadBalancerClass,
    /// if they have the annotation sharedlb.dev/class. No other controller may
    /// serve Services without a class then.
    #[arg(long, env = "SHAREDLB_SERVE_UNCLASSED_SERVICES")]
    serve_unclassed_services: bool,
    /// Print what the controller would change in the API and on load balancers,
    /// change nothing, and end, with the status 0 if nothing would be changed, and 2
    /// otherwise. Needs no Lease, no port, and only rights to read.
    #[arg(long, env = "SHAREDLB_DRY_RUN")]
    dry_run: bool,
    /// How long a dry run may take.
    #[arg(long, env = "SHAREDLB_DRY_RUN_TIMEOUT", default_value = "2m", value_parser = duration)]
    dry_run_timeout: Duration,
    #[command(flatten)]
    leader_election: LeaderElection,
    /// The format of the log.
    #[arg(long, env = "SHAREDLB_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace, or a filter like
    /// info,sharedlb=debug.
    #[arg(long, env = "SHAREDLB_LOG_LEVEL", default_value = "info")]
    log_level: EnvFilter,
}

/// Flags with the names that Kubernetes' own controllers use.
#[derive(Debug, Args)]
struct LeaderElection {
    /// Act only while this process holds a Lease, so that one of several replicas
    /// acts at a time. If false, there must never be two replicas.
    #[arg(long, env = "SHAREDLB_LEADER_ELECT", default_value_t = true, action = ArgAction::Set)]
    leader_elect: bool,
    /// The namespace of the Lease. All controllers of a cluster must have the same.
    #[arg(long, env = "SHAREDLB_LEADER_ELECT_RESOURCE_NAMESPACE", default_value = "sharedlb-system")]
    leader_elect_resource_namespace: String,
    /// The name of the Lease. All controllers of a cluster must have the same.
    #[arg(long, env = "SHAREDLB_LEADER_ELECT_RESOURCE_NAME", default_value = "sharedlb")]
    leader_elect_resource_name: String,
    /// How long other replicas wait before they take over from a leader that does not
    /// renew the Lease: whole seconds.
    #[arg(long, env = "SHAREDLB_LEADER_ELECT_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    leader_elect_lease_duration: Duration,
    /// How long a leader acts without renewing the Lease.
    #[arg(long, env = "SHAREDLB_LEADER_ELECT_RENEW_DEADLINE", default_value = "10s", value_parser = duration)]
    leader_elect_renew_deadline: Duration,
    /// How often the leader renews the Lease, and the other replicas read it.
    #[arg(long, env = "SHAREDLB_LEADER_ELECT_RETRY_PERIOD", default_value = "2s", value_parser = duration)]
    leader_elect_retry_period: Duration,
    /// The name of this process in the Lease, to which a random suffix is added.
    /// Default: the name of the host.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    leader_elect_name: Option<String>,
}

impl LeaderElection {
    fn options(self) -> anyhow::Result<Option<LeaseOptions>> {
        if !self.leader_elect {
            return Ok(None);
        }
        let terms = LeaseTerms {
            lease: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        terms.validate().context("the durations of --leader-elect-… do not go together")?;
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let identity = unique_identity(&self.leader_elect_name.unwrap_or_else(host))?;
        let namespace = self.leader_elect_resource_namespace;
        let name = self.leader_elect_resource_name;
        Ok(Some(LeaseOptions { namespace, name, identity, terms }))
    }
}

/// As `15s` or `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string())?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The id of a cluster, which must be a valid value of a label.
fn cluster_id(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends =
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if text.len() <= 63 && ends && text.chars().all(inner) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends".to_owned())
    }
}

fn call_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=1000.0).contains(&rate) { Ok(rate) } else { Err("must be a number from 0.01 to 1000".to_owned()) }
}

/// The exit status of a dry run after which something would be changed.
const WOULD_CHANGE: u8 = 2;

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Controller(args) => return run_controller(*args),
        Command::Crds { write } => crds(write)?,
        Command::Version => println!("sharedlb {}", long_version()),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_controller(args: ControllerArgs) -> anyhow::Result<ExitCode> {
    let log = tracing_subscriber::fmt().with_env_filter(args.log_level).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    sharedlb::end_on_panic();
    // The only TLS implementation. Clients that are made later take it; it can be set once.
    _ = rustls::crypto::ring::default_provider().install_default();
    let options = Options {
        listen: args.listen,
        kubeconfig: args.kubeconfig,
        cluster_id: args.cluster_id,
        resync: Duration::from_secs(args.resync_seconds),
        aws_call_rate: args.aws_call_rate,
        sources: EnabledSources {
            services: args.source_services,
            unclassed_services: args.serve_unclassed_services,
            config_maps: args.source_configmaps,
        },
        lease: args.leader_election.options()?,
    };
    if args.dry_run {
        let report = sharedlb::dry_run(options, args.dry_run_timeout)?;
        // A reader such as `head` may close the pipe early.
        match std::io::stdout().write_all(report.to_string().as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
        return Ok(if report.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WOULD_CHANGE) });
    }
    act(options)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the controller until it is asked to end.
#[tokio::main]
async fn act(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    sharedlb::run(options, stop).await
}

fn crds(write: Option<PathBuf>) -> anyhow::Result<()> {
    for (name, yaml) in sharedlb_crds::yaml() {
        match &write {
            Some(folder) => {
                let path = folder.join(name);
                std::fs::write(&path, yaml).with_context(|| format!("{} can't be written", path.display()))?;
            }
            None => println!("---\n{yaml}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in `extraArgs` of the chart, or a patch of the Deployment.
    #[test]
    fn of_a_flag_that_is_given_twice_the_last_one_counts() {
        let parsed = Cli::try_parse_from(["sharedlb", "controller", "--resync-seconds=600", "--resync-seconds=60"]);
        let Command::Controller(args) = parsed.unwrap().command else { panic!("it is the command controller") };
        assert_eq!(args.resync_seconds, 60);
    }
}
