//! The data path of nftables with packets: clients, a host, and pods in network namespaces of one
//! network, and the real kernel between them.

#![allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod changes;
mod conformance;
mod network;
mod provider;
mod reach;
mod tampering;

use std::sync::Arc;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use sharedlb_providers::conformance::SUITE;
use sharedlb_testbed::{Parts, enter};

use conformance::Peer;
use network::Network;

/// A test, which applies data paths of its own.
type Test = for<'a> fn(&'a Network) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |network| Box::pin($name(network)))),+]
    };
}
pub(crate) use tests;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { api: false, conntrack: true, ..Parts::API_ONLY })?;
    let runtime = tokio::runtime::Runtime::new()?;
    let Some(network) = Network::set_up(testbed)? else {
        eprintln!("skipped: conntrack could not be unpacked on this machine");
        return Ok(());
    };
    let network = Arc::new(network);
    let handle = runtime.handle().clone();
    let of_all = [
        ("reach", reach::TESTS),
        ("changes", changes::TESTS),
        ("tampering", tampering::TESTS),
        ("provider", provider::TESTS),
    ];
    let tests = of_all.into_iter().flat_map(|(kind, tests)| tests.iter().map(move |test| (kind, test)));
    let mut trials: Vec<Trial> = tests
        .map(|(kind, &(name, test))| {
            let (network, runtime) = (network.clone(), handle.clone());
            Trial::test(format!("{kind}::{name}"), move || {
                runtime.block_on(test(&network));
                Ok(())
            })
        })
        .collect();
    trials.extend(SUITE.iter().map(|&(name, test)| {
        let (network, runtime) = (network.clone(), handle.clone());
        Trial::test(format!("conformance::{name}"), move || {
            runtime.block_on(async { test(&Peer::new(&network).await).await });
            Ok(())
        })
    }));
    // They share the tables of one host.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit()
}
