//! The provider `gcp` against the stand-in for Google Compute Engine and a real API server: the
//! suite that every provider passes, and what only this one does.

#[path = "../service/peer.rs"]
#[allow(dead_code, reason = "the tests of `service` do more with it")]
mod api_server;
mod cloud;
mod costs;
mod credentials;
mod drift;
mod faults;
mod foreign;
mod nodes;
mod shared_vpc;
#[path = "../aws/steps.rs"]
mod steps;
#[path = "../aws/trials.rs"]
mod trials;

use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Arguments;
use sharedlb_testbed::{Cluster, GcpLayout, GcpPeer, Parts, enter};

use api_server::ApiServer;
use cloud::Cloud;
pub(crate) use trials::tests;
use trials::trials;

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A test with a project and a namespace of its own.
pub(crate) type Test = trials::Test<Cloud>;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { gcp: true, ..Parts::API_ONLY })?;
    // The binary does it in its `main`.
    _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new()?;
    let peer = Arc::new(GcpPeer::start(&testbed)?);
    let (cluster, key) = runtime.block_on(async {
        let cluster = Arc::new(Cluster::start(testbed).await?);
        anyhow::Ok((cluster, Arc::new(peer.service_account_key().await?)))
    })?;
    let own = [
        ("costs", costs::TESTS),
        ("credentials", credentials::TESTS),
        ("drift", drift::TESTS),
        ("faults", faults::TESTS),
        ("foreign", foreign::TESTS),
        ("nodes", nodes::TESTS),
        ("shared_vpc", shared_vpc::TESTS),
    ];
    let of_cluster = cluster.clone();
    let trials = trials(runtime.handle(), &own, move |kind, name| {
        let (peer, cluster, key) = (peer.clone(), of_cluster.clone(), key.clone());
        let (kind, name) = (kind.to_owned(), name.to_owned());
        Box::pin(async move {
            let server = ApiServer::for_test(cluster.admin(), &kind, &name).await;
            let mut layout = GcpLayout::default();
            if kind == "shared_vpc" {
                layout.network_project = shared_vpc::HOST.to_owned();
            }
            Cloud::new(&peer, layout, server, key).await
        })
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(cluster);
    conclusion.exit()
}
