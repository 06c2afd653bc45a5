//! The rules of a fence, as text for `nft`: pure.

use std::fmt::Write;

use super::sightings::VRRP;
use crate::virtual_router::{Interface, VirtualRouter};

/// The set of the virtual routers that the fence is open for.
pub(super) const OPEN: &str = "open";

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
/// number from a rule to the set; the packets in question go no further than this host or this
/// network segment.
pub(super) fn changed(interface: &Interface, routers: &[VirtualRouter]) -> String {
    let (table, device) = (table(interface), interface.as_str());
    let mut text = format!(
        "\
add table netdev {table}
add set netdev {table} {OPEN} {{ type mark; flags dynamic, timeout; }}
add chain netdev {table} adverts {{ type filter hook egress device \"{device}\" priority 0; policy accept; }}
add chain netdev {table} requests {{ type filter hook ingress device \"{device}\" priority 0; policy accept; }}
flush chain netdev {table} adverts
flush chain netdev {table} requests
"
    );
    for router in routers {
        // Writing to a String cannot fail.
        _ = write!(text, "{}{}", adverts(&table, router), requests(&table, router));
    }
    text
}

/// Renders what opens the fence for these virtual routers, until their adverts stop.
pub(super) fn opened<'a>(interface: &Interface, routers: impl IntoIterator<Item = &'a VirtualRouter>) -> String {
    let table = table(interface);
    let open = |router: &VirtualRouter| {
        format!("add element netdev {table} {OPEN} {{ {} timeout {} }}\n", router.id, timeout(router))
    };
    routers.into_iter().map(open).collect()
}

/// An advert that leaves keeps an open fence open, and one with priority 0, by which the host gives
/// the addresses up, closes it. (The second octet of an advert is the VRID, the third the priority.)
fn adverts(table: &str, router: &VirtualRouter) -> String {
    let (id, timeout) = (router.id, timeout(router));
    let is_ours = format!("add rule netdev {table} adverts meta l4proto {VRRP} @th,8,8 {id}");
    format!(
        "\
{is_ours} @th,16,8 0 meta mark set {id} delete @{OPEN} {{ meta mark }}
{is_ours} @th,16,8 != 0 meta mark set {id} meta mark @{OPEN} update @{OPEN} {{ meta mark timeout {timeout} }}
"
    )
}

/// A request for the link-layer address of a closed address is not answered. (Octets 8 to 23 of a
/// neighbor solicitation are the address that it asks for. nft has a name for them only from 1.0.7
/// on.)
fn requests(table: &str, router: &VirtualRouter) -> String {
    let id = router.id;
    let drop_if_closed = format!("meta mark set {id} meta mark != @{OPEN} drop\n");
    let v4 = router.addresses.v4().map(|address| {
        format!("add rule netdev {table} requests arp operation request arp daddr ip {address} {drop_if_closed}")
    });
    let v6 = router.addresses.v6().map(|address| {
        let bits = address.to_bits();
        format!(
            "add rule netdev {table} requests icmpv6 type nd-neighbor-solicit @th,64,128 {bits:#034x} {drop_if_closed}"
        )
    });
    v4.unwrap_or_default() + &v6.unwrap_or_default()
}

fn timeout(router: &VirtualRouter) -> String {
    format!("{}ms", router.advert_interval.fence().as_millis())
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

    #[test]
    fn each_address_has_a_rule_and_no_other_address_has_one() {
        let router = router();
        let text = changed(&router.interface, std::slice::from_ref(&router));
        let requests: Vec<&str> = text.lines().filter(|line| line.ends_with("drop")).collect();
        let [arp, solicitation] = requests[..] else { panic!("{requests:?}") };
        assert!(arp.contains("arp daddr ip 192.0.2.8 "), "{arp}");
        assert!(solicitation.contains("@th,64,128 0x20010db8000000000000000000000008 "), "{solicitation}");
    }
}
