//! Tenants who may edit their own namespace, and want more: on the real API
//! server, with the rights that Kubernetes' own role `edit` gives once `deploy/`
//! is applied. What each attempt runs into is said in SECURITY.md.
//!
//! In each test a tenant shares a class with a victim, whose claim must stay as
//! it is to the last byte. Where packets go in the end is asked in
//! `tests/traffic/capture`: with kube-proxy, and pods that answer.

mod external_ips;
mod far;
mod flood;
mod pods;
mod sight;
mod take;
mod tenant;
mod words;

use libtest_mimic::Trial;
use sharedlb_harness::{Tests, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    let trials = [
        take::trials(test),
        flood::trials(test),
        sight::trials(test),
        far::trials(test),
        pods::trials(test),
        words::trials(test),
        external_ips::trials(test),
    ];
    trials.into_iter().flatten().collect()
}
