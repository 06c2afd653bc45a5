//! A router, two nodes beside it, and a client behind it, for the tests of the configurations in
//! docs/vip.md, which are read from that page.

use std::process::Command;

use anyhow::{Context, ensure};
use sharedlb_harness::repository;
use sharedlb_testbed::ip;

/// The cluster's own network namespace is the first node. The second node has one of its own,
/// and so have the router between them and a client behind it.
const NAMESPACES: [&str; 3] = ["router", "node-2", "far"];
const ROUTER: &str = "\
link set lo up
link add lan type bridge
link set lan up
addr add 192.0.2.1/24 dev lan
addr add 2001:db8::1/64 dev lan nodad
link add far type veth peer name eth0 netns far
link set far up
addr add 198.51.100.1/24 dev far
addr add 2001:db8:ff::1/64 dev far nodad
";
const FAR: &str = "\
link set lo up
link set eth0 up
addr add 198.51.100.2/24 dev eth0
addr add 2001:db8:ff::2/64 dev eth0 nodad
route add default via 198.51.100.1
route add default via 2001:db8:ff::1
";
const NODE_1: &str = "\
link add lan type veth peer name node-1 netns router
link set lan up
addr add 192.0.2.11/24 dev lan
addr add 2001:db8::11/64 dev lan nodad
route add 198.51.100.0/24 via 192.0.2.1
route add 2001:db8:ff::/64 via 2001:db8::1
";
const NODE_2: &str = "\
link set lo up
link add lan type veth peer name node-2 netns router
link set lan up
addr add 192.0.2.12/24 dev lan
addr add 2001:db8::12/64 dev lan nodad
route add default via 192.0.2.1
route add default via 2001:db8::1
route add 10.244.0.0/16 via 192.0.2.11
route add fd00:10:244::/64 via 2001:db8::11
";
const ROUTER_PORTS: &str = "\
link set node-1 master lan up
link set node-2 master lan up
";
const FORWARD: &str = "\
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
echo 1 >/proc/sys/net/ipv4/fib_multipath_hash_policy
echo 1 >/proc/sys/net/ipv6/fib_multipath_hash_policy
";

/// The block in docs/vip.md that has this line.
pub(crate) fn snippet(line: &str) -> anyhow::Result<String> {
    let page = std::fs::read_to_string(repository("docs/vip.md")?)?;
    let mut blocks = page.split("```").skip(1).step_by(2);
    let found = blocks.find(|block| block.lines().any(|found| found == line));
    Ok(found.with_context(|| format!("no block of docs/vip.md has {line:?}"))?.to_owned())
}

/// Makes the namespaces, and what connects them.
pub(crate) fn lay() -> anyhow::Result<()> {
    for namespace in NAMESPACES {
        ip(&[], &format!("netns add {namespace}\n"))?;
    }
    for (options, lines) in [
        (&["-n", "router"][..], ROUTER),
        (&["-n", "far"], FAR),
        (&[], NODE_1),
        (&["-n", "node-2"], NODE_2),
        (&["-n", "router"], ROUTER_PORTS),
    ] {
        ip(options, lines)?;
    }
    for namespace in ["router", "node-2"] {
        let forwards = Command::new("ip").args(["netns", "exec", namespace, "sh", "-ec", FORWARD]).status()?;
        ensure!(forwards.success(), "{namespace} does not forward: {forwards}");
    }
    Ok(())
}

/// Nothing of it is left for the tests after this one.
pub(crate) fn remove() -> anyhow::Result<()> {
    // A cable goes with either of its ends.
    ip(&[], "link del lan\n")?;
    NAMESPACES.into_iter().try_for_each(|namespace| ip(&[], &format!("netns del {namespace}\n")))
}
