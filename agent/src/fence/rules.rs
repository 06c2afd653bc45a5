//! The rules of a fence, as text for `nft`: pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::virtual_router::{Interface, VirtualRouter};

/// The set of the virtual routers that the fence is open for.
pub(super) const OPEN: &str = "open";

/// The first octet of an advert: VRRP version 3, and type 1 (RFC 9568). The number of the virtual
/// router is the second octet, and the priority the third.
const ADVERT: u8 = 0x31;

/// The table of an interface. Nothing else is in it.
pub(super) fn table(interface: &Interface) -> String {
    format!("sharedlb-fence-{}", interface.as_str())
}

/// Renders a fence that is closed for these virtual routers, whatever was there before.
pub(super) fn closed(interface: &Interface, routers: &[VirtualRouter]) -> String {
    let table = table(interface);
    // The first line is for the second one, which fails if there is no table.
    format!("add table netdev {table}\ndelete table netdev {table}\n{}", changed(interface, routers))
}

/// Renders the rules for these virtual routers in place of the former ones. It stays open for those
/// that it was open for.
///
/// A virtual router is *open* while its number is in the set [`OPEN`]. The packet mark carries the
/// number from a rule to the set; the packets in question go no further than this network segment.
pub(super) fn changed(interface: &Interface, routers: &[VirtualRouter]) -> String {
    let (table, device) = (table(interface), interface.as_str());
    let chains = format!(
        "\
add table netdev {table}
add set netdev {table} {OPEN} {{ type mark; flags dynamic, timeout; }}
add chain netdev {table} adverts
add chain netdev {table} announcements
add chain netdev {table} leaving {{ type filter hook egress device \"{device}\" priority 0; policy accept; }}
flush chain netdev {table} leaving
flush chain netdev {table} adverts
flush chain netdev {table} announcements
add rule netdev {table} leaving meta l4proto vrrp goto adverts
add rule netdev {table} leaving meta protocol arp goto announcements
add rule netdev {table} leaving icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} goto announcements
"
    );
    let rules = routers.iter().map(|router| adverts(&table, router) + &announcements(&table, router));
    chains + &rules.collect::<String>()
}

/// An advert that leaves opens the fence, or keeps it open. One with priority 0, by which the host
/// gives the addresses up, closes it.
///
/// It is an advert of this host alone: a socket of this network namespace has sent it, and no router
/// has forwarded it, which would have lowered the 255.
fn adverts(table: &str, router: &VirtualRouter) -> String {
    let (id, fence) = (router.id, router.advert_interval.fence().as_millis());
    let from_here = match router.addresses.v4() {
        Some(_) => "ip daddr 224.0.0.18 ip ttl 255",
        None => "ip6 daddr ff02::12 ip6 hoplimit 255",
    };
    let advert =
        format!("add rule netdev {table} adverts {from_here} meta skuid >= 0 @th,0,8 {ADVERT:#x} @th,8,8 {id}");
    format!(
        "\
{advert} @th,16,8 0 meta mark set {id} delete @{OPEN} {{ meta mark }}
{advert} @th,16,8 != 0 meta mark set {id} update @{OPEN} {{ meta mark timeout {fence}ms }}
"
    )
}

/// While the fence is closed, the host says of no address that it has it: neither in an answer, nor
/// in a request for the address of another host, which is taken for an announcement as well.
fn announcements(table: &str, router: &VirtualRouter) -> String {
    let drop_if_closed = format!("meta mark set {} meta mark != @{OPEN} drop", router.id);
    let rule = |announces: String| format!("add rule netdev {table} announcements {announces} {drop_if_closed}\n");
    let v4 = router.addresses.v4().map(|address: Ipv4Addr| rule(format!("arp saddr ip {address}")));
    let v6 = router.addresses.v6().map(|address: Ipv6Addr| {
        // The target of an advertisement is in its octets 8 to 23. nft has a name for them from
        // 1.0.7 on.
        let target = address.to_bits();
        rule(format!("icmpv6 type nd-neighbor-advert @th,64,128 {target:#034x}"))
            + &rule(format!("icmpv6 type nd-neighbor-solicit ip6 saddr {address}"))
    });
    v4.unwrap_or_default() + &v6.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_router::{AdvertInterval, Priority, VirtualAddresses};

    fn router() -> VirtualRouter {
        VirtualRouter {
            id: 51.try_into().unwrap(),
            interface: Interface::new("eth0").unwrap(),
            addresses: VirtualAddresses::Dual("192.0.2.8".parse().unwrap(), "2001:db8::8".parse().unwrap()),
            priority: Priority::new(150).unwrap(),
            advert_interval: AdvertInterval::DEFAULT,
        }
    }

    #[test]
    fn a_change_keeps_open_what_is_open() {
        let router = router();
        let text = changed(&router.interface, std::slice::from_ref(&router));
        assert!(!text.contains("delete table") && !text.contains("flush set"), "{text}");
    }

    #[test]
    fn a_fence_begins_closed() {
        let router = router();
        let text = closed(&router.interface, std::slice::from_ref(&router));
        assert!(text.contains("delete table netdev sharedlb-fence-eth0\n"), "{text}");
        assert!(!text.contains("add element"), "{text}");
    }
}
