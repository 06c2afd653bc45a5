//! The configuration of keepalived: pure.

use std::fmt::Write;
use std::net::IpAddr;

use crate::virtual_router::VirtualRouter;

/// What applies to all virtual routers.
///
/// The host that has the addresses announces them three times at once and three times a second
/// later, since an announcement can be lost, and then every 5 seconds, for switches and neighbors
/// that were away meanwhile.
///
/// A host that hears of a preferred one sends an advert before it gives the addresses up. In reply
/// the preferred one announces them: after a cut of the segment its neighbors would otherwise go on
/// to send to the host that had them in the meantime.
///
/// The process goes before others, so that its adverts leave in time on a busy host. That needs the
/// capability `SYS_NICE`; without it, keepalived says so in its log and goes on. It has no real-time
/// priority, with which the kernel ends it where a reload takes more than 10 ms
/// (`vrrp_rlimit_rttime` in keepalived.conf(5)).
const GLOBAL: &str = "\
global_defs {
    vrrp_version 3
    vrrp_priority -20
    vrrp_garp_master_repeat 3
    vrrp_garp_master_delay 1
    vrrp_garp_master_refresh 5
    vrrp_higher_prio_send_advert true
}
";

/// Renders the `keepalived.conf` of a host, with one `vrrp_instance` for each virtual router.
///
/// Of a virtual router with addresses of both families, the IPv4 address is the one in the
/// adverts, and the IPv6 address goes with it: an instance has adverts of one family, and with two
/// instances the addresses could end up on two hosts.
pub fn render(routers: &[VirtualRouter]) -> String {
    routers.iter().fold(GLOBAL.to_owned(), |config, router| config + &instance(router))
}

fn instance(router: &VirtualRouter) -> String {
    let VirtualRouter { id, interface, addresses, priority, advert_interval } = router;
    let mut text = format!(
        "\
vrrp_instance {name} {{
    state BACKUP
    interface {interface}
    virtual_router_id {id}
    priority {priority}
    advert_int {seconds}
",
        name = name(router),
        interface = interface.as_str(),
        priority = priority.get(),
        seconds = advert_interval.duration().as_secs_f32(),
    );
    let mut addresses = addresses.iter();
    let blocks = [("virtual_ipaddress", addresses.next()), ("virtual_ipaddress_excluded", addresses.next())];
    for (block, address) in blocks {
        if let Some(address) = address {
            // Writing to a String cannot fail.
            _ = write!(text, "    {block} {{\n        {}\n    }}\n", address_line(router, address));
        }
    }
    text + "}\n"
}

/// Its name in keepalived's log.
fn name(router: &VirtualRouter) -> String {
    format!("sharedlb_{}", router.id)
}

/// An address as keepalived adds it to the interface.
///
/// It has no route, and its preferred lifetime is over, so that no connection of the host itself
/// has it as its source. keepalived adds IPv6 addresses without duplicate address detection, unless
/// it finds `-nodad` here: that would find the host that is being succeeded, and fail for good.
fn address_line(router: &VirtualRouter, address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length} dev {} noprefixroute preferred_lft 0", router.interface.as_str())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::virtual_router::{AdvertInterval, Interface, Priority, VirtualAddresses};

    fn router(id: u8, addresses: VirtualAddresses) -> VirtualRouter {
        VirtualRouter {
            id: NonZeroU8::new(id).unwrap(),
            interface: Interface::new("eth0").unwrap(),
            addresses,
            priority: Priority::new(150).unwrap(),
            advert_interval: AdvertInterval::DEFAULT,
        }
    }

    /// The lines of a block, without those of blocks in it.
    fn block(config: &str, start: &str) -> Vec<String> {
        let mut lines = config.lines().map(str::trim).skip_while(|line| *line != format!("{start} {{"));
        lines.next().unwrap_or_else(|| panic!("no block {start} in\n{config}"));
        lines.take_while(|line| *line != "}").map(str::to_owned).collect()
    }

    #[test]
    fn the_ipv6_address_of_a_dual_stack_load_balancer_moves_with_its_ipv4_address() {
        let both = VirtualAddresses::Dual("192.0.2.8".parse().unwrap(), "2001:db8::8".parse().unwrap());
        let config = render(&[router(51, both)]);
        assert_eq!(config.matches("vrrp_instance").count(), 1);
        let [advertised] = block(&config, "virtual_ipaddress").try_into().unwrap();
        assert!(advertised.starts_with("192.0.2.8/32 dev eth0 "), "{advertised}");
        let [with_it] = block(&config, "virtual_ipaddress_excluded").try_into().unwrap();
        assert!(with_it.starts_with("2001:db8::8/128 dev eth0 "), "{with_it}");
        assert!(!config.contains("-nodad"), "it would switch duplicate address detection on: {config}");
    }

    #[test]
    fn a_load_balancer_of_one_family_has_an_instance_of_that_family() {
        let config = render(&[router(52, VirtualAddresses::V6("2001:db8::9".parse().unwrap()))]);
        let [advertised] = block(&config, "virtual_ipaddress").try_into().unwrap();
        assert!(advertised.starts_with("2001:db8::9/128 "), "{advertised}");
        assert!(!config.contains("virtual_ipaddress_excluded"), "{config}");
    }

    #[test]
    fn each_load_balancer_has_an_instance_with_its_own_settings() {
        let one = router(51, VirtualAddresses::V4("192.0.2.8".parse().unwrap()));
        let other = VirtualRouter {
            priority: Priority::new(100).unwrap(),
            advert_interval: AdvertInterval::from_milliseconds(1000).unwrap(),
            ..router(52, VirtualAddresses::V4("192.0.2.9".parse().unwrap()))
        };
        let config = render(&[one, other]);
        let first = block(&config, "vrrp_instance sharedlb_51");
        assert!(
            first.contains(&"priority 150".to_owned()) && first.contains(&"advert_int 0.2".to_owned()),
            "{first:?}"
        );
        let second = block(&config, "vrrp_instance sharedlb_52");
        assert!(
            second.contains(&"priority 100".to_owned()) && second.contains(&"advert_int 1".to_owned()),
            "{second:?}"
        );
    }
}
