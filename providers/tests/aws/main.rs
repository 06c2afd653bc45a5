//! The `aws` provider against the stand-in for AWS: the suite that every provider
//! passes, and what only this one does.

mod peer;

use std::sync::Arc;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use sharedlb_providers::conformance;
use sharedlb_testbed::{AwsPeer, Parts, enter};

use peer::Cloud;

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
    let conclusion = libtest_mimic::run(&Arguments::from_args(), suite.collect());
    drop(peer);
    conclusion.exit()
}
