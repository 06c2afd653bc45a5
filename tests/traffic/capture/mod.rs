//! Attempts on the packets of other tenants, with the rights of Kubernetes' own
//! role `edit`: with the real kube-proxy, MetalLB, and real traffic from outside
//! and from inside of the cluster, while the controller runs, while it does not,
//! and just after it was started again.
//!
//! Each test has a controller of its own, and so they run one at a time.

mod endpoints;
mod lingering;
mod place;
mod ports;
mod upgrade;

use libtest_mimic::Trial;
use sharedlb_harness::Tests;
use sharedlb_testbed::Cluster;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    let trials = [ports::trials(test), lingering::trials(test), endpoints::trials(test), upgrade::trials(test)];
    trials.into_iter().flatten().collect()
}
