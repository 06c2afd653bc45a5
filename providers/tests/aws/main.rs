//! The `aws` provider against the stand-in for AWS: the suite that every provider
//! passes, and what only this one does.

mod costs;
mod drift;
mod faults;
mod peer;
mod policy;
mod replace;
mod steps;

use std::sync::Arc;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use sharedlb_providers::conformance;
use sharedlb_testbed::{AwsPeer, Parts, enter};

use peer::Cloud;

/// A test with a region of its own.
pub(crate) type Test = for<'a> fn(&'a Cloud) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |cloud| Box::pin($name(cloud)))),+]
    };
}
pub(crate) use tests;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::AWS_ONLY)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let peer = Arc::new(runtime.block_on(AwsPeer::start(&testbed))?);
    let trial = |kind: &str, name: &str, run: Box<dyn FnOnce(Cloud) -> BoxFuture<'static, ()> + Send>| {
        let (peer, runtime) = (peer.clone(), runtime.handle().clone());
        Trial::test(format!("{kind}::{name}"), move || {
            runtime.block_on(async {
                let region = peer.region(3).await.map_err(|error| format!("{error:#}"))?;
                run(Cloud(region)).await;
                Ok(())
            })
        })
    };
    let suite = conformance::SUITE.iter().map(|&(name, test)| {
        trial("conformance", name, Box::new(move |cloud| Box::pin(async move { test(&cloud).await })))
    });
    let own =
        [("costs", costs::TESTS), ("drift", drift::TESTS), ("faults", faults::TESTS), ("replace", replace::TESTS)];
    let own = own.iter().flat_map(|(kind, tests)| tests.iter().map(move |test| (kind, test)));
    let own = own.map(|(kind, &(name, test))| {
        trial(kind, name, Box::new(move |cloud| Box::pin(async move { test(&cloud).await })))
    });
    let policy = Trial::test("policy::allows_what_is_called_and_no_more", || {
        Ok(policy::allows_what_is_called_and_no_more().map_err(|error| format!("{error:#}"))?)
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), suite.chain(own).chain([policy]).collect());
    drop(peer);
    conclusion.exit()
}
