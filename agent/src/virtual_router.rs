//! A load balancer as VRRP sees it: a virtual router, which one of several hosts is at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::time::Duration;

use thiserror::Error;

/// The longest name that Linux gives a network interface, in bytes (IFNAMSIZ less the final zero).
const LONGEST_INTERFACE_NAME: usize = 15;

/// A load balancer whose addresses are on one of several hosts at a time (RFC 9568).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualRouter {
    /// Its number (VRID), which no other virtual router has on the network segment.
    pub id: NonZeroU8,
    /// The interface on the network segment that the addresses belong to.
    pub interface: Interface,
    /// Its addresses. Every host must have the same ones, since a host ignores the adverts of
    /// another list.
    pub addresses: VirtualAddresses,
    /// Which host is preferred.
    pub priority: Priority,
    /// How often the host that has the addresses says so. It must be the same on every host.
    pub advert_interval: AdvertInterval,
}

/// The addresses of a load balancer: one, or one of each IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VirtualAddresses {
    /// IPv4 alone
    V4(Ipv4Addr),
    /// IPv6 alone
    V6(Ipv6Addr),
    /// Both
    Dual(Ipv4Addr, Ipv6Addr),
}

impl VirtualAddresses {
    /// The IPv4 address.
    pub fn v4(self) -> Option<Ipv4Addr> {
        match self {
            Self::V4(address) | Self::Dual(address, _) => Some(address),
            Self::V6(_) => None,
        }
    }

    /// The IPv6 address.
    pub fn v6(self) -> Option<Ipv6Addr> {
        match self {
            Self::V6(address) | Self::Dual(_, address) => Some(address),
            Self::V4(_) => None,
        }
    }

    /// All of them, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4().map(IpAddr::V4).into_iter().chain(self.v6().map(IpAddr::V6))
    }
}

/// The name of a network interface. It is one that keepalived and nftables read as a single word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface(String);

impl Interface {
    /// Takes a name of 1 to 15 ASCII letters, digits, and the characters `.`, `-` and `_`.
    ///
    /// # Errors
    /// If it is another one. Linux allows more, which no distribution uses.
    pub fn new(name: &str) -> Result<Self, InvalidInterface> {
        let is_plain = |character: char| character.is_ascii_alphanumeric() || ".-_".contains(character);
        let is_valid = (1..=LONGEST_INTERFACE_NAME).contains(&name.len()) && name.chars().all(is_plain);
        if is_valid { Ok(Self(name.to_owned())) } else { Err(InvalidInterface(name.to_owned())) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name is none of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not the name of a network interface: 1 to 15 of the characters a-z, A-Z, 0-9, \".\", \"-\" and \"_\""
)]
pub struct InvalidInterface(String);

/// Which host is preferred: the one with the highest priority has the addresses. From 1 to 254.
/// 255 means to VRRP that the host is the only one that can have them, and 0 that it gives them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(u8);

impl Priority {
    /// Takes a number from 1 to 254.
    pub fn new(number: u8) -> Option<Self> {
        (1..=254).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// How often the host that has the addresses says so, by a VRRP advertisement (an *advert*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertInterval {
    /// VRRP has it in hundredths of a second.
    centiseconds: u16,
}

impl AdvertInterval {
    /// A host whose adverts stop is succeeded within 0.8 s.
    pub const DEFAULT: Self = Self { centiseconds: 20 };

    /// Takes 100 to 1000 milliseconds, in steps of 10. With less, a busy host would lose its
    /// addresses for nothing; with more, other software is as good.
    pub fn from_milliseconds(milliseconds: u16) -> Option<Self> {
        let is_valid = (100..=1000).contains(&milliseconds) && milliseconds.is_multiple_of(10);
        is_valid.then_some(Self { centiseconds: milliseconds / 10 })
    }

    /// The time between two adverts.
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.centiseconds) * 10)
    }

    /// For how long after an advert its host may answer for the addresses: 2.5 intervals. Another
    /// host takes over after 3 of them at the earliest (RFC 9568, `Active_Down_Interval`).
    pub fn fence(self) -> Duration {
        self.duration() * 5 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_interface_cannot_carry_configuration() {
        for name in ["eth0", "eno1.100", "br-lan", "wg_0"] {
            assert_eq!(Interface::new(name).map(|interface| interface.as_str().to_owned()), Ok(name.to_owned()));
        }
        for name in ["", "eth0 priority 255", "eth0\n}", "eth0;", "a-name-of-16-chr", "é0"] {
            assert_eq!(Interface::new(name), Err(InvalidInterface(name.to_owned())));
        }
    }

    #[test]
    fn a_host_is_fenced_before_another_one_takes_over() {
        for milliseconds in [100, 200, 330, 1000] {
            let interval = AdvertInterval::from_milliseconds(milliseconds).unwrap();
            assert!(interval.fence() < interval.duration() * 3);
            assert!(interval.fence() > interval.duration() * 2, "one lost advert closes nothing");
        }
    }

    #[test]
    fn an_advert_interval_is_one_that_vrrp_can_express() {
        for milliseconds in [0, 90, 205, 1010] {
            assert_eq!(AdvertInterval::from_milliseconds(milliseconds), None);
        }
    }
}
