//! The tests of one provider, each with a peer of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use libtest_mimic::Trial;
use sharedlb_providers::conformance::{self, Peer};
use tokio::runtime::Handle;

/// A test with a peer of its own.
pub(crate) type Test<P> = for<'a> fn(&'a P) -> BoxFuture<'a, ()>;

/// The tests of one kind, by name.
pub(crate) type Tests<P> = &'static [(&'static str, Test<P>)];

/// The tests with the names of these functions.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |peer| Box::pin($name(peer)))),+]
    };
}
pub(crate) use tests;

/// The suite that every provider passes, and these tests of one provider alone. `start` makes the
/// peer of a test, from its kind and its name.
pub(crate) fn trials<P: Peer + 'static>(
    runtime: &Handle,
    own: &[(&'static str, Tests<P>)],
    start: impl Fn(&str, &str) -> BoxFuture<'static, anyhow::Result<P>> + Send + Sync + 'static,
) -> Vec<Trial> {
    let start = Arc::new(start);
    let trial = |kind: &'static str, name: &'static str, run: Box<dyn FnOnce(P) -> BoxFuture<'static, ()> + Send>| {
        let (start, runtime) = (start.clone(), runtime.clone());
        Trial::test(format!("{kind}::{name}"), move || {
            runtime.block_on(async {
                let peer = start(kind, name).await.map_err(|error| format!("{error:#}"))?;
                run(peer).await;
                Ok(())
            })
        })
    };
    let suite = conformance::SUITE.iter().map(|&(name, test)| {
        trial("conformance", name, Box::new(move |peer| Box::pin(async move { test(&peer).await })))
    });
    let own = own.iter().flat_map(|&(kind, tests)| tests.iter().map(move |&(name, test)| (kind, name, test)));
    let own = own
        .map(|(kind, name, test)| trial(kind, name, Box::new(move |peer| Box::pin(async move { test(&peer).await }))));
    suite.chain(own).collect()
}
