//! Load balancers move from one host to another, whatever happens to the host that has them.
//!
//! The hosts, clients and pods are network namespaces on one segment, with the kernel's own ARP,
//! connection tracking and TCP, and Debian's keepalived. A host runs this same program in place of
//! the agent. Each test prints what it measured, and asserts nothing about how long it took.

mod agent;
mod connections;
mod diagnosis;
mod events;
mod hosts;
mod load;
mod pods;
mod probes;
mod scenario;

use sharedlb_harness::{AtOnce, run_tests};
use sharedlb_testbed::Parts;

use crate::scenario::Segment;

fn main() -> anyhow::Result<()> {
    if let Some(result) = agent::play() {
        return result;
    }
    run_tests(AtOnce::One, Parts::LOAD_BALANCER_HOSTS, Segment::start, events::trials)
}
