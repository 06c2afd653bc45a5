//! What a host says of addresses that another host may have: ARP and neighbor discovery on a real
//! segment, and adverts from sockets in place of keepalived. The addresses stay on the host all the
//! time, as they do where keepalived was killed.

mod adverts;
mod announcements;
mod segment;
mod tests;

use sharedlb_harness::{AtOnce, run_tests};
use sharedlb_testbed::Parts;

use crate::segment::Segment;

fn main() -> anyhow::Result<()> {
    let parts = Parts { api: false, conntrack: true, ..Parts::API_ONLY };
    run_tests(AtOnce::One, parts, Segment::start, tests::trials)
}
