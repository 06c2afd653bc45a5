//! The `aws` provider against the stand-in for AWS: the suite that every provider
//! passes, and what only this one does.

mod costs;
mod drift;
mod faults;
mod peer;
mod policy;
mod replace;
mod steps;
mod trials;

use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use sharedlb_testbed::{AwsPeer, Parts, enter};

use peer::Cloud;
pub(crate) use trials::tests;
use trials::trials;

/// A test with a region of its own.
pub(crate) type Test = trials::Test<Cloud>;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::AWS_ONLY)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let peer = Arc::new(runtime.block_on(AwsPeer::start(&testbed))?);
    let own =
        [("costs", costs::TESTS), ("drift", drift::TESTS), ("faults", faults::TESTS), ("replace", replace::TESTS)];
    let of_tests = peer.clone();
    let trials = trials(runtime.handle(), &own, move |_, _| {
        let peer = of_tests.clone();
        Box::pin(async move { Ok(Cloud(peer.region(3).await?)) })
    });
    let policy = Trial::test("policy::allows_what_is_called_and_no_more", || {
        Ok(policy::allows_what_is_called_and_no_more().map_err(|error| format!("{error:#}"))?)
    });
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials.into_iter().chain([policy]).collect());
    drop(peer);
    conclusion.exit()
}
