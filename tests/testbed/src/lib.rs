//! A whole real cluster on one machine, for the tests, the demo and the
//! benches.
//!
//! etcd, kube-apiserver, kube-controller-manager, kube-proxy and MetalLB are
//! the real ones, unchanged; only nodes and pods are stood in for. A pod is a
//! real object whose process listens on the pod's own address, and answers
//! every TCP connection and UDP datagram with one line: its name, and the
//! address that it saw the question come from.
//!
//! # How to use it
//!
//! [`enter`] must be the first call of `main`, before any thread or runtime
//! exists; so an integration test that uses it has `harness = false`.
//!
//! ```no_run
//! use sharedlb_testbed::{enter, Cluster, Parts};
//!
//! fn main() -> anyhow::Result<()> {
//!     let testbed = enter(Parts::ALL)?;
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let cluster = Cluster::start(testbed).await?;
//!         println!("{}", cluster.kubectl_output(&["get", "nodes"]).await?);
//!         Ok(())
//!     })
//! }
//! ```
//!
//! In a shell started from there, `kubectl` is on the `PATH`, and
//! `ip netns exec clients COMMAND` runs a command where the clients are.
//!
//! # What a run leaves behind
//!
//! Nothing. [`enter`] starts the program again in network, mount and process
//! namespaces of its own, and everything runs in there: the cluster, its
//! pods, the program itself, and whatever it starts. They end with the
//! program, also when it is killed, and so does the memory file system that
//! holds the cluster's files. No address, port or file is shared with the
//! host, so that any number of such programs can run at once.
//!
//! # What it needs
//!
//! - Linux with user namespaces, or root.
//! - The commands `ip` and, for [`Parts::node`] and [`Parts::conntrack`], `nft`. As root on Debian
//!   they are installed when missing; otherwise the error says how.
//! - The binaries. They are taken from the folder that `KUBEBUILDER_ASSETS`
//!   names; what is missing there is built by Go from the module proxy, once
//!   per machine, into `sharedlb-testbed` in the user's cache folder
//!   (`XDG_CACHE_HOME`, or `~/.cache`).
//! - For [`Parts::aws`] and [`Parts::gcp`], Python 3.11 or newer with `venv`. What else it needs
//!   comes from PyPI, once per machine, into the same folder.
//! - For [`Parts::frr`], [`Parts::keepalived`], [`Parts::conntrack`], [`Parts::nginx`] and
//!   [`Parts::prometheus`], which are left out where they cannot be had: Debian. Its packages are
//!   unpacked into the same folder, once per machine.
//!
//! # When something goes wrong
//!
//! A component that ends by itself, or is not ready in time, is reported with
//! the last lines of its log. With `SHAREDLB_TESTBED_LOGS=DIR` the logs are
//! written to `DIR/PROGRAM/`, and outlive the run.

mod assets;
mod aws;
mod aws_feed;
mod building;
mod client;
mod cluster;
mod component;
mod control_plane;
mod debian;
mod frr;
mod gcp;
mod go_build;
mod helm;
mod http;
mod isolation;
mod keepalived;
mod kubectl;
mod kubelet;
mod lan;
mod logged;
mod metallb;
mod namespace;
mod network;
mod nginx;
mod node;
mod packages;
mod pki;
mod pod;
mod pod_process;
mod prometheus;
mod python;
mod remote_node;
mod updater;
mod wait;

use std::path::PathBuf;

use anyhow::Context;

pub use aws::{AwsCall, AwsFault, AwsPeer, AwsRegion, FaultKind};
pub use aws_feed::{AwsBalancer, AwsDone, AwsFeed, AwsGroup, AwsListener, AwsNews, AwsState};
pub use client::{Answer, Client};
pub use cluster::Cluster;
pub use frr::Frr;
pub use gcp::{GcpCall, GcpFault, GcpFaultKind, GcpLayout, GcpPeer, GcpProject, GoogleClient, GoogleError, GoogleUser};
pub use http::http_get;
pub use keepalived::Keepalived;
pub use lan::{Lan, MacAddress, Machine, NeighborAnswer, NeighborQuestions, ProcessTree};
pub use logged::logged_by;
pub use namespace::in_namespace;
pub use network::{CLIENTS, ip};
pub use nginx::Nginx;
pub use node::NODE;
pub use pod::{Families, Pod, PodPort, PodSpec, Protocol};
pub use prometheus::Prometheus;
pub use remote_node::RemoteNode;
pub use updater::{Updater, UpdaterCall, UpdaterFault};
pub use wait::eventually;

use assets::Assets;
use network::Network;

/// What there is to be: the parts of a cluster, and what stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// etcd and the API server. A [`Cluster`] has them, with what else of it
    /// is wanted.
    pub api: bool,
    /// kube-controller-manager with the controllers for EndpointSlices,
    /// namespaces, service accounts, garbage collection, aggregated cluster
    /// roles, Deployments and ReplicaSets.
    pub controller_manager: bool,
    /// One node with kube-proxy and a stand-in for the kubelet, so that pods
    /// run, and clients outside of the cluster reach them.
    pub node: bool,
    /// MetalLB's controller with a pool of addresses, so that Services of
    /// type LoadBalancer get one.
    pub metallb: bool,
    /// Helm, for [`Cluster::helm`], and the CRDs of the Prometheus operator, for
    /// [`Cluster::install_prometheus_crds`].
    pub helm: bool,
    /// The stand-in for AWS Elastic Load Balancing, for [`AwsPeer::start`].
    pub aws: bool,
    /// The stand-in for Google Compute Engine, for [`GcpPeer::start`].
    pub gcp: bool,
    /// FRR, for [`Cluster::frr`], if it can be unpacked on this machine.
    pub frr: bool,
    /// keepalived, for [`Cluster::keepalived`] and [`Lan::programs`], if it can be unpacked on this
    /// machine.
    pub keepalived: bool,
    /// NGINX, for [`Cluster::nginx`], if it can be unpacked on this machine.
    pub nginx: bool,
    /// conntrack, for [`Lan::programs`] and [`Lan::conntrack`], if it can be unpacked on this
    /// machine; and nftables.
    pub conntrack: bool,
    /// Prometheus, for [`Cluster::prometheus`] and [`Cluster::promtool`], if it can be unpacked on
    /// this machine.
    pub prometheus: bool,
    /// The API server stores all objects as JSON, so that whoever follows
    /// etcd's own log ([`Cluster::etcd_url`]) can read them.
    pub json_storage: bool,
    /// The first and the last number that Services may have as node ports.
    /// None: the API server's default, 30000 to 32767.
    pub node_ports: Option<(u16, u16)>,
    /// The IP families of nodes, pods, Services and clients. All: those that the machine has.
    pub families: Families,
}

impl Parts {
    /// etcd and the API server alone.
    pub const API_ONLY: Self = Self { api: true, ..Self::NOTHING };
    /// A whole cluster.
    pub const ALL: Self = Self { api: true, controller_manager: true, node: true, metallb: true, ..Self::NOTHING };
    /// The stand-in for AWS, and no cluster.
    pub const AWS_ONLY: Self = Self { aws: true, ..Self::NOTHING };
    /// The stand-in for Google Compute Engine, and no cluster.
    pub const GCP_ONLY: Self = Self { gcp: true, ..Self::NOTHING };
    /// What load balancer hosts need, for a [`Lan`], and no cluster.
    pub const LOAD_BALANCER_HOSTS: Self = Self { keepalived: true, conntrack: true, ..Self::NOTHING };
    const NOTHING: Self = Self {
        api: false,
        controller_manager: false,
        node: false,
        metallb: false,
        helm: false,
        aws: false,
        gcp: false,
        frr: false,
        keepalived: false,
        nginx: false,
        conntrack: false,
        prometheus: false,
        json_storage: false,
        node_ports: None,
        families: Families::All,
    };
}

/// Proof of being inside the testbed's namespaces; see [`enter`].
#[derive(Debug)]
pub struct Testbed {
    parts: Parts,
    assets: Assets,
    network: Network,
    /// The cluster's files, in a memory file system that ends with us.
    dir: PathBuf,
    logs: PathBuf,
}

/// Makes sure that everything the parts need is on this machine, then starts
/// this program again in namespaces of its own, and returns in there.
///
/// Outside, it does not return: it waits for the inner program and exits as
/// that did. It also plays the pods, which are this same program.
pub fn enter(parts: Parts) -> anyhow::Result<Testbed> {
    if let Some(result) = pod_process::play() {
        result?;
        std::process::exit(0);
    }
    if !isolation::is_inside() {
        packages::require(parts)?;
        let assets = Assets::prepare(parts)?;
        std::process::exit(isolation::run_again_inside(&assets)?);
    }
    let dir = isolation::private_folder()?;
    Ok(Testbed {
        parts,
        assets: Assets::prepare(parts)?,
        network: Network::set_up(parts.families)?,
        logs: log_folder(&dir)?,
        dir,
    })
}

/// Where the components' logs go: with the cluster's files, or where
/// `SHAREDLB_TESTBED_LOGS` says.
fn log_folder(dir: &std::path::Path) -> anyhow::Result<PathBuf> {
    let logs = match std::env::var_os("SHAREDLB_TESTBED_LOGS") {
        Some(kept) => {
            let program = std::env::current_exe()?;
            PathBuf::from(kept).join(program.file_stem().unwrap_or_default())
        }
        None => dir.join("logs"),
    };
    std::fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
    Ok(logs)
}
