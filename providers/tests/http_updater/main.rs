//! The provider `httpUpdater` against the stand-in for the updater and a real API server: the
//! suite that every provider passes, and what only this one does.

#[path = "../service/peer.rs"]
#[allow(dead_code, reason = "the tests of `service` do more with it")]
mod api_server;
mod costs;
mod credentials;
mod drift;
mod faults;
mod foreign;
mod host;
mod rights;
#[path = "../aws/steps.rs"]
#[allow(dead_code, reason = "the tests of `aws` do more with it")]
mod steps;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use sharedlb_providers::conformance;
use sharedlb_testbed::{Cluster, Parts, enter};

use api_server::ApiServer;
use host::Host;

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

/// The most characters that a label of Kubernetes has.
const LONGEST_LABEL: usize = 63;

/// A test with an updater and a namespace of its own.
pub(crate) type Test = for<'a> fn(&'a Host) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |host| Box::pin($name(host)))),+]
    };
}
pub(crate) use tests;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::API_ONLY)?;
    // The binary does it in its `main`.
    _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()?;
    let cluster = runtime.block_on(async { anyhow::Ok(Arc::new(Cluster::start(testbed).await?)) })?;
    let (of_cluster, handle) = (cluster.clone(), runtime.handle().clone());
    // The ports of each test are bound at an address of its own.
    let mut number = 0_u8;
    let mut trial = |kind: &str, name: &'static str, run: Box<dyn FnOnce(Host) -> BoxFuture<'static, ()> + Send>| {
        number += 1;
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 1, number));
        let (cluster, runtime) = (of_cluster.clone(), handle.clone());
        let namespace: String = format!("{kind}-{name}").replace('_', "-").chars().take(LONGEST_LABEL).collect();
        Trial::test(format!("{kind}::{name}"), move || {
            runtime.block_on(async {
                let server = ApiServer::with_namespace(cluster.admin(), namespace.trim_matches('-')).await;
                let host = Host::start(server, address).await.map_err(|error| format!("{error:#}"))?;
                run(host).await;
                Ok(())
            })
        })
    };
    let mut trials = Vec::new();
    for &(name, test) in conformance::SUITE {
        trials.push(trial("conformance", name, Box::new(move |host| Box::pin(async move { test(&host).await }))));
    }
    let own = [
        ("costs", costs::TESTS),
        ("credentials", credentials::TESTS),
        ("drift", drift::TESTS),
        ("faults", faults::TESTS),
        ("foreign", foreign::TESTS),
        ("rights", rights::TESTS),
    ];
    for (kind, &(name, test)) in own.iter().flat_map(|(kind, tests)| tests.iter().map(move |test| (kind, test))) {
        trials.push(trial(kind, name, Box::new(move |host| Box::pin(async move { test(&host).await }))));
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(cluster);
    conclusion.exit()
}
