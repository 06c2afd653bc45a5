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
#[path = "../aws/steps.rs"]
mod steps;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use sharedlb_providers::conformance;
use sharedlb_testbed::{Cluster, GcpPeer, Parts, enter};

use api_server::ApiServer;
use cloud::Cloud;

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

/// The most characters that a label of Kubernetes has.
const LONGEST_LABEL: usize = 63;

/// A test with a project and a namespace of its own.
pub(crate) type Test = for<'a> fn(&'a Cloud) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |cloud| Box::pin($name(cloud)))),+]
    };
}
pub(crate) use tests;

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
    let of_cluster = cluster.clone();
    let handle = runtime.handle().clone();
    let trial = move |kind: &str, name: &'static str, run: Box<dyn FnOnce(Cloud) -> BoxFuture<'static, ()> + Send>| {
        let (peer, cluster, key, runtime) = (peer.clone(), of_cluster.clone(), key.clone(), handle.clone());
        let namespace: String = format!("{kind}-{name}").replace('_', "-").chars().take(LONGEST_LABEL).collect();
        Trial::test(format!("{kind}::{name}"), move || {
            runtime.block_on(async {
                let server = ApiServer::with_namespace(cluster.admin(), namespace.trim_matches('-')).await;
                let cloud = Cloud::new(&peer, server, key).await.map_err(|error| format!("{error:#}"))?;
                run(cloud).await;
                Ok(())
            })
        })
    };
    let suite = conformance::SUITE.iter().map(|&(name, test)| {
        trial("conformance", name, Box::new(move |cloud| Box::pin(async move { test(&cloud).await })))
    });
    let own = [
        ("costs", costs::TESTS),
        ("credentials", credentials::TESTS),
        ("drift", drift::TESTS),
        ("faults", faults::TESTS),
        ("foreign", foreign::TESTS),
        ("nodes", nodes::TESTS),
    ];
    let own = own.iter().flat_map(|(kind, tests)| tests.iter().map(move |test| (kind, test)));
    let own = own.map(|(kind, &(name, test))| {
        trial(kind, name, Box::new(move |cloud| Box::pin(async move { test(&cloud).await })))
    });
    let trials = suite.chain(own).collect();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(cluster);
    conclusion.exit()
}
