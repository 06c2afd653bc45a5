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
mod reload;
mod rights;
#[path = "../aws/steps.rs"]
#[allow(dead_code, reason = "the tests of `aws` do more with it")]
mod steps;
#[path = "../aws/trials.rs"]
mod trials;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use libtest_mimic::Arguments;
use sharedlb_testbed::{Cluster, Parts, enter};

use api_server::ApiServer;
use host::Host;
pub(crate) use trials::tests;
use trials::trials;

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A test with an updater and a namespace of its own.
pub(crate) type Test = trials::Test<Host>;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::API_ONLY)?;
    // The binary does it in its `main`.
    _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()?;
    let cluster = runtime.block_on(async { anyhow::Ok(Arc::new(Cluster::start(testbed).await?)) })?;
    let own = [
        ("costs", costs::TESTS),
        ("credentials", credentials::TESTS),
        ("drift", drift::TESTS),
        ("faults", faults::TESTS),
        ("foreign", foreign::TESTS),
        ("reload", reload::TESTS),
        ("rights", rights::TESTS),
    ];
    let of_cluster = cluster.clone();
    let number = AtomicU8::new(0);
    let trials = trials(runtime.handle(), &own, move |kind, name| {
        let (cluster, kind, name) = (of_cluster.clone(), kind.to_owned(), name.to_owned());
        // The ports of each test are bound at an address of its own.
        let number = number.fetch_add(1, Ordering::Relaxed) + 1;
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 1, number));
        Box::pin(async move {
            let server = ApiServer::for_test(cluster.admin(), &kind, &name).await;
            Host::start(server, address).await
        })
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(cluster);
    conclusion.exit()
}
