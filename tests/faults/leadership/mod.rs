//! Several controllers of one cluster: one of them acts. Real processes under the
//! rights of `deploy/`, each behind a proxy of its own, so that it is known what
//! each of them sent.
//!
//! They share one Lease, so one test runs at a time.

mod candidate;
mod frozen;
mod succession;

use libtest_mimic::Trial;
use sharedlb_harness::Tests;
use sharedlb_testbed::Cluster;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    [succession::trials(test), frozen::trials(test)].into_iter().flatten().collect()
}
