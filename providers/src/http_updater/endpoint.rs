//! Which host and which updater a class names: spellings of one are compared in one form. Pure.

use std::net::IpAddr;

use reqwest::Url;

/// Whether the host of an updater may have an address: not one that leads to the controller's
/// own machine or its link, where a class could reach what is meant for the machine alone (the
/// metadata of a cloud's instance, for example).
#[must_use]
pub fn may_be_host(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let is_of_this_network = ip.octets()[0] == 0;
            !(ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || is_of_this_network)
        }
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified()),
    }
}

/// The canonical form of the URL of an updater: host in lower case, with its port and without a
/// dot at the end. A name and the addresses that it has are two hosts. `None`: it is no URL.
#[must_use]
pub fn canonical_url(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    Some(format!("{}:{}{}", host(&url)?, url.port_or_known_default()?, url.path()))
}

/// The canonical form of the host and the port in a URL; `None`: it has none.
pub(super) fn canonical_authority(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    Some(format!("{}:{}", host(&url)?, url.port_or_known_default()?))
}

/// The canonical form of the host in a URL; `None`: it has none.
#[must_use]
pub fn canonical_host(url: &str) -> Option<String> {
    host(&Url::parse(url).ok()?)
}

/// The canonical form of a host name or IP address.
#[must_use]
pub fn canonical_address(address: &str) -> String {
    let is_ipv6 = address.contains(':') && !address.starts_with('[');
    let url = if is_ipv6 { format!("http://[{address}]/") } else { format!("http://{address}/") };
    canonical_host(&url).unwrap_or_else(|| address.to_ascii_lowercase())
}

/// The IP address that a host is written as, also in a spelling that only resolvers know, such as
/// `0x7f000001`.
pub(super) fn literal(canonical_host: &str) -> Option<IpAddr> {
    canonical_host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn host(url: &Url) -> Option<String> {
    Some(url.host_str()?.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_updater_have_one_form() {
        let plain = canonical_url("https://lb1.example.com/api/v1/lb").unwrap();
        for spelling in [
            "https://LB1.example.com/api/v1/lb",
            "https://lb1.example.com:443/api/v1/lb",
            "https://lb1.example.com./api/v1/lb",
            "https://lb1.example.com/api/./v1/lb",
        ] {
            assert_eq!(canonical_url(spelling).as_ref(), Some(&plain), "{spelling}");
        }
        for other in
            ["https://lb2.example.com/api/v1/lb", "https://lb1.example.com/lb2", "http://lb1.example.com/api/v1/lb"]
        {
            assert_ne!(canonical_url(other).as_ref(), Some(&plain), "{other}");
        }
        for address in ["203.0.113.10", "203.0.113.10.", "0xcb00710a"] {
            assert_eq!(canonical_address(address), "203.0.113.10", "{address}");
        }
        assert_eq!(canonical_address("2001:db8:0::1"), canonical_address("2001:db8::1"));
    }

    #[test]
    fn an_updater_is_not_on_the_machine_or_the_link_of_the_controller() {
        for url in [
            "http://127.0.0.1/lb",
            "http://127.1/lb",
            "http://0x7f000001/lb",
            "http://2130706433/lb",
            "http://0/lb",
            "http://169.254.169.254/lb",
            "http://[::1]/lb",
            "http://[::ffff:127.0.0.1]/lb",
            "http://[fe80::1]/lb",
        ] {
            let ip = literal(&canonical_host(url).unwrap()).unwrap();
            assert!(!may_be_host(ip), "{url}: {ip}");
        }
        for ip in ["10.0.0.5", "203.0.113.10", "2001:db8::1", "fd00::1"] {
            assert!(may_be_host(ip.parse().unwrap()), "{ip}");
        }
    }
}
