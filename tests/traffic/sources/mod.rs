//! Sources: Services and ConfigMaps share a load balancer without knowing of
//! SharedLB. With the real kube-proxy, MetalLB beside it, real traffic from outside
//! and from inside of the cluster, and the controller under the roles of `deploy/`.

mod asking;
mod config_maps;
mod edits;
mod flags;
mod killed;
mod newcomer;
mod sharing;
mod telling;

use libtest_mimic::Trial;
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::Cluster;

/// Those that one controller serves.
pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    let trials = [
        asking::trials(test),
        sharing::trials(test),
        edits::trials(test),
        telling::trials(test),
        config_maps::trials(test),
    ];
    trials.into_iter().flatten().collect()
}

/// Those that kill the controller, or start it with other flags.
pub(crate) fn trials_of_their_own(test: &Tests<Cluster>) -> Vec<Trial> {
    let trials =
        [killed::trials(test), config_maps::trials_of_their_own(test), flags::trials(test), newcomer::trials(test)];
    trials.into_iter().flatten().collect()
}
